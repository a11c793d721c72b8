// SPDX-License-Identifier: GPL-2.0-or-later
// What a device or file holds that is not ours.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace pcache::ctl {

// "an ext4 file system", "a dos partition table": as libblkid knows them; empty when it finds
// nothing. `bytes`: of so many at its start; 0: of all.
Result<std::string> foreign_content(const std::string& path, uint64_t bytes = 0);

}  // namespace pcache::ctl
