// SPDX-License-Identifier: GPL-2.0-or-later
// What a result depends on besides the case: the machine and its software.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "sweep/parameter.h"

namespace pcache::sweep {

inline constexpr const char* kEmulatedPmem = "emulated: a file in memory";

// By the names of run.json. `pmem`: kEmulatedPmem, or the device; `backing`: a block device, or a
// path on the disk.
nlohmann::ordered_json host_facts(const std::string& pmem, const std::string& backing);

// Why this machine cannot measure it; empty: it can. A path: that is there but of no use is not
// meant.
std::string unavailable(const Values& values);

// First line of a command's output; empty when it cannot be run.
std::string first_line(const std::string& command);

}  // namespace pcache::sweep
