// SPDX-License-Identifier: GPL-2.0-or-later
// Looking for places of a cache device that cannot be read, used or not: a store there fails, or is
// lost, later. Reads everything but the holes of a sparse file. One thread.
#pragma once

#include <functional>

#include "inspect/log_survey.h"

namespace pcache {

// A finding for each run of unreadable pages, which says what lives there. What of it is cached
// data the check names by range besides. False: the device is blank, and formatting it would store
// there.
bool scan_media(const Pmem& pmem, const FrameSurvey& frame, const LogSurvey& log,
                const std::function<void(uint64_t done, uint64_t all)>& progress,
                Findings* findings);

}  // namespace pcache
