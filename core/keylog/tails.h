// SPDX-License-Identifier: GPL-2.0-or-later
// Tails: the two persistent positions of the log. key_tail <= dirty_tail <= head in log order.
//   key_tail    first kset not yet reclaimed; replay starts here
//   dirty_tail  first kset not yet written back
// One thread at a time for each of the two.
#pragma once

#include "base/result.h"
#include "format/layout.h"

namespace pcache {

class Tails {
 public:
  // EUCLEAN when neither replica of a position is valid: where the log stands is then unknown.
  static Result<Tails> load(const Pmem& pmem, const Bounds& bounds);

  CachePos key_tail() const { return key_pos_; }
  CachePos dirty_tail() const { return dirty_pos_; }

  // Durable on return. Rule 5: the backing device has been flushed before, and key_tail goes no
  // further than dirty_tail; the caller sees to both.
  void set_key_tail(Pmem& pmem, CachePos pos);
  void set_dirty_tail(Pmem& pmem, CachePos pos);

 private:
  Replicated<media::TailPos> key_, dirty_;
  CachePos key_pos_, dirty_pos_;
};

}  // namespace pcache
