// SPDX-License-Identifier: GPL-2.0-or-later
// UndoMemory: memory whose changes can be rolled back to a mark. A crash image is made in place and
// rolled back, so it costs the bytes it changes and no page faults. One thread, but for write()
// between two marks, which the owner may lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pcache {

class UndoMemory {
 public:
  explicit UndoMemory(uint64_t size_bytes);  // zeros
  ~UndoMemory();
  UndoMemory(const UndoMemory&) = delete;
  UndoMemory& operator=(const UndoMemory&) = delete;

  std::byte* data() { return base_; }
  const std::byte* data() const { return base_; }
  uint64_t size_bytes() const { return size_; }

  void write(uint64_t off, const void* bytes, size_t len_bytes);
  using Mark = size_t;
  Mark mark() const { return changes_.size(); }
  void rollback(Mark mark);
  // Calls `visit` with the offset and length of each change since the start, or forget().
  template <typename Visit>
  void each_change(Visit visit) const {
    for (const Change& change : changes_) visit(change.off, change.len);
  }
  // The present content counts as the first from now on; no mark is valid any more.
  void forget() {
    changes_.clear();
    old_.clear();
  }

 private:
  struct Change {
    uint64_t off;
    size_t len;
  };
  const uint64_t size_;
  std::byte* const base_;
  std::vector<Change> changes_;
  std::vector<std::byte> old_;  // what the changes overwrote, in order
};

}  // namespace pcache
