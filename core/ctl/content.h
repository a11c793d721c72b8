// SPDX-License-Identifier: GPL-2.0-or-later
// Content of a device or file that is not ours.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace pcache::ctl {

// "an ext4 file system", "a dos partition table": with libblkid's names; empty: it knows nothing
// there. Looks at the first `bytes`; 0: at all.
Result<std::string> foreign_content(const std::string& path, uint64_t bytes = 0);

}  // namespace pcache::ctl
