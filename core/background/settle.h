// SPDX-License-Identifier: GPL-2.0-or-later
// Settler: the last step of a batch of writeback, when the backing device has it.
//
// What settle() does, and what a crash after each line leaves:
//   1. keys whose data is damaged are appended again   twice in the log: the later one counts
//   2. the index says of what was written: clean, and
//      forgets what is zeros, or all, as the mode says (DRAM only)
//   3. dirty_tail is moved, durably                    done
//
// Invariants
// - Batches are settled in the order of the log: each begins where the one settled before has
//   ended. dirty_tail never passes what the device does not have, flushed, unless a later key has
//   it: see Writeback.
// - Data that is damaged stays dirty, and so an error to read, but does not keep what is behind it
//   from being passed: see DamagedData.
// - A settle() that fails has not moved dirty_tail. It is repeated with the same batch; what it has
//   appended again it does not append twice.
// One thread at a time.
#pragma once

#include <functional>

#include "background/damaged.h"
#include "background/plan.h"
#include "background/written.h"

namespace pcache {

class Settler {
 public:
  struct Options {
    // Acknowledged data turned out to be damaged (positive errno).
    std::function<void(int)> data_lost = nullptr;
    // So much of the batch is marked clean: `part` of `all` pieces.
    std::function<void(size_t part, size_t all)> marked = nullptr;
  };
  Settler(const Parts& parts, Options options)
      : parts_(parts), options_(std::move(options)), damaged_(parts) {}

  // Up to here all is settled.
  LogMark settled() const { return {parts_.tails.dirty_tail(), ksets_, dirty_bytes_}; }
  // A settle() that failed had appended damaged data again.
  bool has_appended() const { return damaged_.keeps(); }
  // In ksets: no plan may reach farther, or dirty_tail would pass both the damaged data and what
  // was appended in its place.
  uint64_t farthest_end() const { return has_appended() ? appended_for_ : UINT64_MAX; }
  // For plans; nothing: no data is known to be damaged.
  std::function<KeyFate(const media::Key&)> fate();
  // The numbers of the plan's pieces as settle() goes through them: made before the batch is
  // written, since it takes memory.
  std::vector<uint32_t> order_of(const BatchPlan& plan) const;

  // An error, or std::bad_alloc: nothing is settled. `tail_failed`: dirty_tail could not be moved
  // on media, only in DRAM.
  Status settle(const BatchPlan& plan, const WrittenBatch& written, std::span<const uint32_t> order,
                bool* tail_failed);
  // Dirty data that is known to be damaged, and not overwritten since.
  uint64_t damaged_extents() { return damaged_.count(); }

 private:
  Status keep_damaged(const BatchPlan& plan, const WrittenBatch& written);
  void mark_clean(const BatchPlan& plan, const WrittenBatch& written,
                  std::span<const uint32_t> order);

  const Parts& parts_;
  const Options options_;
  uint64_t ksets_ = 0, dirty_bytes_ = 0;  // since attach
  // The end of the last batch whose damaged data was appended again, or was to be, in ksets.
  uint64_t appended_for_ = 0;
  DamagedData damaged_;
};

}  // namespace pcache
