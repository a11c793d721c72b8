// SPDX-License-Identifier: GPL-2.0-or-later
// The general lookup: walks page slots and sector slots and merges neighbours.
#include <sched.h>

#include "base/check.h"
#include "index/index.h"

namespace pcache {

namespace {

// A change takes well below a microsecond, unless its thread is preempted: then let it run.
void wait_for_writer(unsigned tries) {
  if (tries % 64 == 63) {
    sched_yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

size_t Index::read_pieces(const Shard& shard, const Extent& extent, std::span<Piece> out) const {
  const uint64_t range_start = range_of(extent.off) * kRangeBytes;
  const auto first = static_cast<uint32_t>((extent.off - range_start) / kSectorBytes);
  const auto end = static_cast<uint32_t>(first + extent.len / kSectorBytes);
  size_t count = 0;
  Cell run;  // of the sectors [run_start, at)
  uint32_t run_start = first;

  auto finish_run = [&](uint32_t run_end) {
    describe(run,
             {range_start + uint64_t{run_start} * kSectorBytes,
              uint64_t{run_end - run_start} * kSectorBytes},
             &out[count++]);
  };
  // Adds the cell found at `at`; false when `out` is full.
  auto add = [&](Cell cell, uint32_t at) {
    if (at != first) {
      if (run.continued_by(cell, at - run_start)) return true;
      finish_run(at);
      if (count == out.size()) return false;
    }
    run = cell;
    run_start = at;
    return true;
  };

  const Word* page_block = nullptr;
  for (uint32_t at = first; at < end;) {
    const uint32_t page = at / kSectorsPerPage;
    const uint32_t page_end = std::min(end, (page + 1) * kSectorsPerPage);
    const uint32_t in_block = page % kSlotsPerBlock;
    if (at == first || in_block == 0) {
      const uint32_t handle = shard.block[page / kSlotsPerBlock].load(std::memory_order_acquire);
      page_block = handle != 0 ? block(handle) : nullptr;
    }
    const Cell cell = page_block != nullptr ? load_cell(page_block, in_block) : Cell{};
    if (!cell.slot.is_split()) {
      if (!add(cell.after(at % kSectorsPerPage), at)) return count;
      at = page_end;
      // Most of a large extent: whole pages that continue the run.
      for (uint32_t i = in_block + 1;
           page_block != nullptr && i < kSlotsPerBlock && at + kSectorsPerPage <= end; ++i) {
        if (!run.continued_by(load_cell(page_block, i), at - run_start)) break;
        at += kSectorsPerPage;
      }
      continue;
    }
    const Word* const sectors = block(cell.slot.handle());
    for (; at < page_end; ++at) {
      Cell sector = load_cell(sectors, at % kSectorsPerPage);
      // Only a reader that lost the race sees this: the block has become a page block since.
      if (sector.slot.is_split()) sector = Cell{};
      if (!add(sector, at)) return count;
    }
  }
  finish_run(end);
  return count;
}

size_t Index::lookup_any(const Extent& extent, std::span<Piece> out, Snapshot* snapshot) const {
  const uint64_t range = range_of(extent.off);
  PCACHE_CHECK(extent.len > 0 && extent.end() <= device_bytes_.known_bytes() && !out.empty());
  PCACHE_CHECK(range == range_of(extent.end() - 1));
  PCACHE_CHECK((extent.off | extent.len) % kSectorBytes == 0);
  for (unsigned tries = 0;; ++tries) {
    const uint32_t handle = directory_[range].load(std::memory_order_acquire);
    if (handle == 0) {
      describe(Cell{}, extent, &out[0]);
      *snapshot = Snapshot{nullptr, 0, 0, range};
      return 1;
    }
    const Shard* const s = shard(handle);
    const uint64_t seq = s->seq.load(std::memory_order_acquire);
    if (seq % 2 == 0) {
      const size_t count = read_pieces(*s, extent, out);
      if (s->seq.load(std::memory_order_relaxed) == seq) {
        *snapshot = Snapshot{s, handle, seq, range};
        return count;
      }
    }
    wait_for_writer(tries);
  }
}

}  // namespace pcache
