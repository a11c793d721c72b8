// SPDX-License-Identifier: GPL-2.0-or-later
// Scratch: a folder for the files that a sweep makes for itself. It is removed at the end; what a
// killed sweep left, the next one removes.
//
// In it is a file `lock` that its sweep holds locked as long as it lives. Whoever can take that
// lock knows that the sweep is gone, whichever PID namespace it was in. A folder is only taken for
// a left one if it has our name, owner and lock and holds nothing but our files.
#pragma once

#include <string>

namespace pcache::sweep {

class Scratch {
 public:
  // The longest of its paths below `parent`.
  static constexpr const char* kMostBelow = "/pcache-sweep-2147483647-XXXXXX/backing";
  // In `parent`. Throws Wrong.
  explicit Scratch(const std::string& parent);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // One of the names that are ours: cache, bound, backing.
  std::string file(const char* name) const { return folder_ + "/" + name; }

  static void remove_left_over(const std::string& parent);

 private:
  std::string folder_;
  int lock_ = -1;
};

}  // namespace pcache::sweep
