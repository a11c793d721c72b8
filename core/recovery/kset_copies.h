// SPDX-License-Identifier: GPL-2.0-or-later
// KsetCopies: finds the ksets of a log that come again, bit by bit, once it has been replayed.
//
// No cache writes a kset twice, but for the keys of damaged data, which writeback appends again: if
// a kset over sound data comes again, it was copied over another one. Every attach asks this of
// every kset, so this keeps 8 bytes for each kset and looks only at its first key. Only check finds
// keys that come again in other ksets (inspect/places.h): its sort of all keys takes longer than
// the replay. One thread.
#pragma once

#include <span>
#include <vector>

#include "format/layout.h"

namespace pcache {

class KsetCopies {
 public:
  // Equal ksets have equal prints; different ones have, once in a million logs of 4 Mi ksets.
  static uint64_t print_of(uint32_t crc, std::span<const media::Key> keys);
  void add(uint32_t crc, std::span<const media::Key> keys);
  // The prints that were added more than once, ascending; none without memory. Call it once.
  std::vector<uint64_t> repeated();

 private:
  void sort_roughly();

  std::vector<uint64_t> prints_;
  bool off_ = false;  // there was no memory
};

}  // namespace pcache
