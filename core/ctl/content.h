// SPDX-License-Identifier: GPL-2.0-or-later
// What a device or file holds before it is formatted.
#pragma once

#include <string>

#include "base/result.h"

namespace pcache::ctl {

// "an ext4 file system", "a dos partition table": as libblkid knows them; empty when it finds
// nothing.
Result<std::string> foreign_content(const std::string& path);

}  // namespace pcache::ctl
