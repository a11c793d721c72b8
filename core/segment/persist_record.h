// SPDX-License-Identifier: GPL-2.0-or-later
// The persist record: a calibration that the device remembers, so that it is measured once.
#pragma once

#include <optional>

#include "base/result.h"
#include "pmem/pmem.h"

namespace pcache {

// Nothing if there is no record, or it is torn, or of another CPU or memory: then attach measures.
std::optional<Calibration> load_calibration(const Pmem& pmem);
// Of a device that has an identity block. EIO: the media cannot be read there. EEXIST: something
// else stands there; then nothing is stored.
Status store_calibration(Pmem& pmem, const Calibration& calibration, uint64_t now_unix_s);

}  // namespace pcache
