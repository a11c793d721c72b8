// SPDX-License-Identifier: GPL-2.0-or-later
// Looks for places of a cache device that cannot be read, used or not: a store there fails, or is
// lost, later. Reads all but the holes of a sparse file. One thread.
#pragma once

#include <functional>

#include "inspect/log_survey.h"

namespace pcache {

// One finding for each run of unreadable pages; it says what is there. If it is cached data, the
// check also names its range. False: the device is blank, and a format would store there.
bool scan_media(const Pmem& pmem, const FrameSurvey& frame, const LogSurvey& log,
                const std::function<void(uint64_t done, uint64_t all)>& progress,
                Findings* findings);

}  // namespace pcache
