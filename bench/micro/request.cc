// SPDX-License-Identifier: GPL-2.0-or-later
// The request path, from submit() to the completed request, in one thread.
#include "micro/instructions.h"
#include "micro/rig.h"

namespace pcache::micro {

namespace {

ScratchMemory& memory() {
  static ScratchMemory the_memory(kRigBytes);
  return the_memory;
}

void request(benchmark::State& state, const RequestCase& what, const PersistOps* ops,
             bool data_crc) {
  Rig rig(memory(), ops, data_crc);
  what.prepare(rig);
  const auto pages = random_offsets(1 << 14, kWorkingSetBytes / kPageBytes, 1);
  size_t i = 0;
  Instructions instructions;
  for (auto _ : state) {
    what.run(rig, pages[i]);
    i = (i + 1) % pages.size();
  }
  instructions.report(state);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * what.bytes));
  const PersistOps* counted = counting(ops->name);
  if (what.written == 0) return;
  // As many as fill a kset several times.
  constexpr uint64_t kCounted = 1280;
  Rig again(memory(), counted, data_crc);
  what.prepare(again);
  again.flush();
  forget_issued();
  for (i = 0; i < kCounted; i++) what.run(again, pages[i]);
  state.counters["flushes"] = static_cast<double>(issued().flushes) / kCounted;
  state.counters["fences"] = static_cast<double>(issued().fences) / kCounted;
}

}  // namespace

void register_request(const PersistOps* ops) {
  for (const RequestCase& what : request_cases())
    for (const bool data_crc : {false, true}) {
      auto* made = benchmark::RegisterBenchmark(
          ("request/" + std::string(what.name) + "/size:" + std::to_string(what.bytes) +
           (data_crc ? "/crc:1" : "/crc:0"))
              .c_str(),
          [&what, ops, data_crc](benchmark::State& state) { request(state, what, ops, data_crc); });
      // A log only grows: as many as there is room for, and what was there before.
      if (what.written > 0)
        made->Iterations(static_cast<int64_t>(
            std::min<uint64_t>((Rig::room() - 2 * kWorkingSetBytes) / what.written, 100000)));
    }
}

}  // namespace pcache::micro
