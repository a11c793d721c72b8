// SPDX-License-Identifier: GPL-2.0-or-later
// The persist record: a calibration that the device remembers, so that it is measured once.
#pragma once

#include <optional>

#include "base/result.h"
#include "pmem/pmem.h"

namespace pcache {

// Nothing when there is none, when it is torn, or of another CPU or memory: then it is measured
// again.
std::optional<Calibration> load_calibration(const Pmem& pmem);
// Over a device that has an identity block. EIO: the media cannot be read there, EEXIST: something
// else than such a record stands there; then nothing was stored.
Status store_calibration(Pmem& pmem, const Calibration& calibration, uint64_t now_unix_s);

}  // namespace pcache
