// SPDX-License-Identifier: GPL-2.0-or-later
// The index: whole 4 KiB extents at random places of a device that they fill.
#include "index/index.h"

#include <benchmark/benchmark.h>

#include <bit>

#include "micro/instructions.h"
#include "micro/scratch.h"

namespace pcache::micro {

namespace {

// The pages 0 .. n-1 in an order that is as good as random, without a table of them: a step of
// about the golden ratio, odd, and so prime to the power of two `n`, xor-folded.
uint64_t shuffled(uint64_t i, uint64_t n) {
  uint64_t x = (i * 0x9e3779b97f4a7c15) & (n - 1);
  x ^= x >> (std::bit_width(n) / 2);
  return (x * 0xd1342543de82ef95) & (n - 1);
}

Extent page(uint64_t i) { return {i * kPageBytes, kPageBytes}; }

Location location(uint64_t i) {
  const uint64_t at = i * kPageBytes;
  return {CachePos{SegId{static_cast<uint32_t>(at >> 23) & 0xfffff},
                   static_cast<uint32_t>(at & 0x7fffff)}};
}

std::unique_ptr<Index> empty_index(uint64_t n) {
  auto index = Index::create({.device_bytes = n * kPageBytes});
  if (!index) die(index.error().text);
  return index.take();
}

// One of `n` extents, kept for the benchmarks that follow; making the next frees it.
Index& full_index(uint64_t n) {
  static std::unique_ptr<Index> index;
  static uint64_t extents = 0;
  if (extents == n) return *index;
  index.reset();
  index = empty_index(extents = n);
  const IndexAlone alone;
  for (uint64_t i = 0; i < n; i++)
    if (!index->insert(page(shuffled(i, n)), location(i)).ok()) die("out of memory for the index");
  return *index;
}

void insert(benchmark::State& state) {
  const auto n = static_cast<uint64_t>(state.range(0));
  auto index = empty_index(n);
  const IndexAlone alone;
  uint64_t i = 0;
  Instructions instructions;
  for (auto _ : state) {
    benchmark::DoNotOptimize(index->insert(page(shuffled(i, n)), location(i)).ok());
    i++;
  }
  instructions.report(state);
  state.SetItemsProcessed(state.iterations());
  state.counters["bytes_per_extent"] =
      static_cast<double>(index->memory_bytes()) / static_cast<double>(i);
}

void overwrite(benchmark::State& state) {
  const auto n = static_cast<uint64_t>(state.range(0));
  Index& index = full_index(n);
  const IndexAlone alone;
  uint64_t i = 0;
  Instructions instructions;
  for (auto _ : state) {
    benchmark::DoNotOptimize(index.insert(page(shuffled(i & (n - 1), n)), location(i)).ok());
    i++;
  }
  instructions.report(state);
  state.SetItemsProcessed(state.iterations());
}

void lookup(benchmark::State& state) {
  const auto n = static_cast<uint64_t>(state.range(0));
  const Index& index = full_index(n);
  Piece piece;
  Index::Snapshot snapshot;
  uint64_t i = 0;
  Instructions instructions;
  for (auto _ : state) {
    benchmark::DoNotOptimize(index.lookup(page(shuffled(i & (n - 1), n)), {&piece, 1}, &snapshot));
    benchmark::DoNotOptimize(index.still_valid(snapshot));
    i++;
  }
  instructions.report(state);
  state.SetItemsProcessed(state.iterations());
}

}  // namespace

// Size by size, since only one full index is kept.
void register_index() {
  for (const int64_t n : {64 << 10, 4 << 20, 64 << 20}) {
    benchmark::RegisterBenchmark("index/insert", insert)->ArgName("extents")->Arg(n)->Iterations(n);
    benchmark::RegisterBenchmark("index/lookup", lookup)->ArgName("extents")->Arg(n);
    benchmark::RegisterBenchmark("index/overwrite", overwrite)->ArgName("extents")->Arg(n);
  }
}

}  // namespace pcache::micro
