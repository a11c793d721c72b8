// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/device.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

const char* kind_of(mode_t mode) {
  return S_ISDIR(mode)    ? "a folder"
         : S_ISCHR(mode)  ? "a character device"
         : S_ISFIFO(mode) ? "a pipe"
         : S_ISSOCK(mode) ? "a socket"
                          : "something else";
}

}  // namespace

Device::Device(const std::string& path, Use use, bool overwrite) : path_(path) {
  struct stat is;
  if (stat(path.c_str(), &is) != 0) throw Wrong(path + ": " + strerror(errno));
  const bool fits =
      S_ISREG(is.st_mode) || S_ISBLK(is.st_mode) || (use == kCache && S_ISCHR(is.st_mode));
  if (!fits)
    throw Wrong(path + ": expected a " + (use == kCache ? "pmem" : "block") +
                " device or a file, found " + kind_of(is.st_mode));
  if (!overwrite) throw Wrong(path + ": its content will be lost; --overwrite says that it may be");
}

}  // namespace pcache::sweep
