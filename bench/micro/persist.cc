// SPDX-License-Identifier: GPL-2.0-or-later
// How fast each persist method brings bytes to the media: a copy and its fence, as a write that is
// durable when it ends, and the copy alone. Plain memcpy, which makes nothing durable, is the
// bound.
#include <benchmark/benchmark.h>

#include <cstring>

#include "base/crc32c.h"
#include "micro/instructions.h"
#include "micro/scratch.h"

namespace pcache::micro {

namespace {

constexpr uint64_t kSpan = 256 << 20;  // far beyond any cache of the CPU
constexpr size_t kPlaces = 1 << 14;

const PersistOps kPlainMemcpy = {
    "memcpy",
    [](void*, std::byte* dst, const void* src, size_t len_bytes) { memcpy(dst, src, len_bytes); },
    [](void*) {}, [] { return true; }};

ScratchMemory& memory() {
  static ScratchMemory the_memory(kSpan);
  return the_memory;
}

std::vector<uint64_t> places_of(uint64_t size, bool random) {
  if (random) return random_offsets(kPlaces, kSpan, size);
  std::vector<uint64_t> offsets(std::min<uint64_t>(kPlaces, kSpan / size));
  for (size_t i = 0; i < offsets.size(); i++) offsets[i] = i * size;
  return offsets;
}

void persist(benchmark::State& state, const PersistOps* ops, uint64_t size, bool random,
             bool fence) {
  const std::vector<uint64_t> offsets = places_of(size, random);
  const std::vector<std::byte> source(size, std::byte(0x5a));
  std::byte* const base = memory().data();
  size_t i = 0;
  Instructions instructions;
  for (auto _ : state) {
    ops->copy(nullptr, base + offsets[i], source.data(), size);
    if (fence) ops->fence(nullptr);
    if (++i == offsets.size()) i = 0;
  }
  instructions.report(state);
  ops->fence(nullptr);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * size));
  const PersistOps* counted = counting(ops->name);
  if (!counted) return;
  forget_issued();
  counted->copy(nullptr, base, source.data(), size);
  if (fence) counted->fence(nullptr);
  state.counters["flushes"] = static_cast<double>(issued().flushes);
  state.counters["fences"] = static_cast<double>(issued().fences);
}

void crc(benchmark::State& state) {
  const std::vector<std::byte> data(static_cast<size_t>(state.range(0)), std::byte(0x5a));
  Instructions instructions;
  for (auto _ : state) benchmark::DoNotOptimize(crc32c(0, data.data(), data.size()));
  instructions.report(state);
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(crc)->Name("crc32c")->RangeMultiplier(8)->Range(64, 256 << 10)->ArgName("size");

}  // namespace

void register_persist() {
  auto methods = usable_methods();
  methods.push_back(&kPlainMemcpy);
  for (const PersistOps* ops : methods)
    for (const bool random : {false, true})
      for (const bool fence : {true, false})
        for (uint64_t size = 512; size <= 1 << 20; size *= 2)
          benchmark::RegisterBenchmark(
              ("persist/" + std::string(ops->name) + (random ? "/random" : "/sequential") +
               (fence ? "/fence" : "/no_fence") + "/size:" + std::to_string(size))
                  .c_str(),
              [=](benchmark::State& state) { persist(state, ops, size, random, fence); });
}

}  // namespace pcache::micro
