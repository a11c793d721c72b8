// SPDX-License-Identifier: GPL-2.0-or-later
// The log alone: appending keys and closing their kset, and replaying what was appended.
#include <benchmark/benchmark.h>

#include "cache/cache.h"
#include "micro/instructions.h"
#include "micro/scratch.h"
#include "recovery/recover.h"
#include "stripe/stripes.h"

namespace pcache::micro {

namespace {

constexpr uint64_t kMostKeys = 4 << 20;
constexpr uint32_t kLogSegments = 32;  // the first ones; behind them the data that keys name
constexpr uint32_t kPagesOfSegment = 4000;
constexpr uint64_t kSegments = kLogSegments + kMostKeys / kPagesOfSegment + 1;
constexpr uint64_t kBytes = media::kSegmentsOff + kSegments * media::kSegmentBytes;
constexpr uint64_t kLogBytes = kLogSegments * media::kSegmentBytes;
constexpr uint64_t kLogicalBytes = 4 * kMostKeys * kPageBytes;

ScratchMemory& memory() {
  static ScratchMemory the_memory(kBytes, kLogBytes);
  return the_memory;
}

// A formatted device with an empty log, and keys to put into it.
class ScratchLog {
 public:
  explicit ScratchLog(const PersistOps* ops) : pmem_(memory().make_pmem(ops)) {
    PCACHE_CHECK(format_device(*pmem_, {}).ok());
    frame_ = load_frame(*pmem_, Log()).take();
    segments_ = std::make_unique<SegmentTable>(*pmem_, SegmentTable::Options{frame_.chain, 2});
    log_ = std::make_unique<KeyLog>(*pmem_, *segments_, LogMark{{*segments_->take_for_log(), 0}});
    stripes_ = std::make_unique<Stripes>(1, *log_);
  }
  // False: the log is full.
  bool append(uint64_t i) {
    Stripe& stripe = stripes_->of(0);
    media::Key key{};
    i %= kMostKeys;
    key.off = i * 0x9e3779b97f4a7c15 % (kLogicalBytes / kPageBytes) * kPageBytes;
    key.len = kPageBytes;
    key.cache_seg_id = kLogSegments + static_cast<uint32_t>(i / kPagesOfSegment);
    key.cache_seg_off = static_cast<uint32_t>(i % kPagesOfSegment) * kPageBytes;
    KeyLog::Ticket full;
    {
      BiasedLock lock(stripe.mu);
      PCACHE_CHECK(stripes_->prepare(stripe));
      full = stripes_->append(stripe, key);
    }
    return full == 0 || (has_room() && log_->commit(full).ok());
  }
  bool close() { return has_room() && stripes_->close_all().ok(); }
  Pmem& pmem() { return *pmem_; }
  const DeviceFrame& frame() const { return frame_; }

 private:
  bool has_room() const { return log_->head().seg.v < kLogSegments - 1; }

  std::unique_ptr<Pmem> pmem_;
  DeviceFrame frame_;
  std::unique_ptr<SegmentTable> segments_;
  std::unique_ptr<KeyLog> log_;
  std::unique_ptr<Stripes> stripes_;
};

// Keys appended one by one, the kset closed after each `keys` of them.
void append(benchmark::State& state, const PersistOps* ops) {
  const int64_t keys = state.range(0);
  auto log = std::make_unique<ScratchLog>(ops);
  uint64_t i = 0;
  Instructions instructions;
  for (auto _ : state) {
    bool room = true;
    for (int64_t k = 0; k < keys; k++) room = log->append(i++) && room;
    if (keys < media::kKeysPerKset) room = log->close() && room;
    if (room) continue;
    state.PauseTiming();
    log = std::make_unique<ScratchLog>(ops);
    state.ResumeTiming();
  }
  instructions.report(state);
  state.SetItemsProcessed(state.iterations() * keys);
  ScratchLog again(counting(ops->name));
  forget_issued();
  for (int64_t k = 0; k < keys; k++) again.append(static_cast<uint64_t>(k));
  if (keys < media::kKeysPerKset) again.close();
  state.counters["flushes"] = static_cast<double>(issued().flushes);
  state.counters["fences"] = static_cast<double>(issued().fences);
}

void replay(benchmark::State& state, const PersistOps* ops) {
  const auto keys = static_cast<uint64_t>(state.range(0));
  ScratchLog log(ops);
  for (uint64_t i = 0; i < keys; i++)
    if (!log.append(i)) die("the log of the benchmark is full");
  if (!log.close()) die("the log of the benchmark is full");
  RecoverOptions options;
  options.device_bytes = kLogicalBytes;
  options.stripes = 64;
  Instructions instructions;
  for (auto _ : state) {
    Recovered recovered;
    if (auto done = recover(log.pmem(), log.frame(), options, Log(), &recovered); !done)
      die(done.error().text);
    if (recovered.replayed.keys != keys) die("replay has found other keys than there are");
  }
  instructions.report(state);
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

}  // namespace

void register_log(const PersistOps* ops) {
  benchmark::RegisterBenchmark("log/append_and_close", [ops](auto& state) { append(state, ops); })
      ->ArgName("keys")
      ->Arg(1)
      ->Arg(8)
      ->Arg(media::kKeysPerKset);
  benchmark::RegisterBenchmark("log/replay", [ops](auto& state) { replay(state, ops); })
      ->ArgName("keys")
      ->Arg(64 << 10)
      ->Arg(4 << 20)
      ->Unit(benchmark::kMillisecond);
}

}  // namespace pcache::micro
