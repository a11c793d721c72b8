// SPDX-License-Identifier: GPL-2.0-or-later
// A device or file that the user has given to a sweep, which will overwrite it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace pcache::sweep {

class Device {
 public:
  enum Use { kCache, kBacking };  // pmem may be a devdax device, which is a character device

  // Throws Wrong: it is not there, of the wrong kind, or `overwrite` was not said.
  Device(const std::string& path, Use use, bool overwrite);

 private:
  const std::string path_;
};

}  // namespace pcache::sweep
