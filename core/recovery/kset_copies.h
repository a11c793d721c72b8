// SPDX-License-Identifier: GPL-2.0-or-later
// KsetCopies: which ksets of a log come again, bit by bit, told when it has been replayed.
//
// No cache writes a kset twice, but for the keys of damaged data, which writeback appends again: a
// kset over sound data that comes again was copied over another one. This is asked of every kset of
// every attach, so it keeps a number of 8 bytes for each kset and looks at no key but the first.
// Keys that come again in other company are found by check alone (inspect/places.h), whose sort of
// all keys takes longer than the replay. One thread.
#pragma once

#include <span>
#include <vector>

#include "format/layout.h"

namespace pcache {

class KsetCopies {
 public:
  // Equal ksets have the same print; others, once in a million logs of 4 Mi ksets.
  static uint64_t print_of(uint32_t crc, std::span<const media::Key> keys);
  void add(uint32_t crc, std::span<const media::Key> keys);
  // The prints that were added more than once, ascending; none where memory is short. Once.
  std::vector<uint64_t> repeated();

 private:
  void sort_roughly();

  std::vector<uint64_t> prints_;
  bool off_ = false;  // for want of memory
};

}  // namespace pcache
