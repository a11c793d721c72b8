// SPDX-License-Identifier: GPL-2.0-or-later
// RangeSet: a set of bytes, as ascending ranges that neither overlap nor touch. One thread.
#pragma once

#include <map>

#include "base/ids.h"

namespace pcache {

class RangeSet {
 public:
  void add(const Extent& extent);
  void remove(const Extent& extent);
  bool empty() const { return ranges_.empty(); }
  size_t size() const { return ranges_.size(); }
  uint64_t bytes() const;
  const std::map<uint64_t, uint64_t>& ranges() const { return ranges_; }  // first byte -> end

 private:
  std::map<uint64_t, uint64_t> ranges_;
};

}  // namespace pcache
