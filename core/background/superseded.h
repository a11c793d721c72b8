// SPDX-License-Identifier: GPL-2.0-or-later
// Superseded: which dirty keys of the log later keys supersede, so that writeback need not write
// their data.
//
// A key is superseded when the index maps no sector of its range to its place any more. The index
// knows the later keys at once, the log only when their ksets are committed. If dirty_tail passed
// the earlier key before, a crash would lose an acknowledged write: replay takes what stands before
// dirty_tail for clean. So make_durable() comes between what is_superseded() says and dirty_tail
// (hazard superseder-not-durable).
//
// Under backing_order=strict a key is passed only if the later keys are of its epoch. The index
// does not know the epochs of keys. But if the key's epoch is still the last one when
// make_durable() has returned, all that is in the log behind the key is of that epoch (hazard
// superseded-across-a-barrier).
// One thread at a time.
#pragma once

#include <span>

#include "parts/parts.h"

namespace pcache {

class Superseded {
 public:
  explicit Superseded(const Parts& parts) : parts_(parts) {}

  void forget() { stripes_.reset(); }
  // Asks for the memory that is_superseded() will read of these keys.
  void prefetch(std::span<const media::Key> keys) const;
  // Remembers the stripe of one that is.
  bool is_superseded(const media::Key& key);
  // The same for one whose data was moved.
  void add_moved(const media::Key& key) { stripes_.set(parts_.stripes.number(key.off)); }
  bool any() const { return stripes_.any(); }
  // Commits the keys that supersede those for which is_superseded() has said so since forget(). An
  // error: the log is full, or has failed; then none of those may be passed.
  Status make_durable();

 private:
  const Parts& parts_;
  Stripes::Set stripes_;
};

}  // namespace pcache
