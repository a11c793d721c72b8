// SPDX-License-Identifier: GPL-2.0-or-later
// Checking an image: everything in it, without writing to it.
//
// Two judges look: the surveys, which report all they find and go on, and recover(), the code that
// attach runs, which has the last word on whether the image can be attached. So check and attach
// cannot disagree.
#pragma once

#include <memory>

#include "inspect/log_survey.h"
#include "recovery/recover.h"
#include "segment/identity.h"

namespace pcache {

struct CheckOptions {
  // Of the backing device; without it ranges are checked against the size that the identity block
  // names, if there is one.
  std::optional<BackingIdentity> backing;
  uint32_t block_bytes = kSectorBytes;
  bool scan_media = false;       // look for places that cannot be read, also where nothing lives
  bool ignore_identity = false;  // it need not be the one that the identity block names
  std::function<void(const SurveyedKset&)> visit = nullptr;
  // While data is checked against its crc, in bytes.
  std::function<void(uint64_t done, uint64_t all)> progress = nullptr;
};

struct CheckReport {
  Findings findings;
  FrameSurvey frame;
  LogSurvey log;
  uint64_t logical_bytes = 0;  // of the backing device; 0: not known
  bool attaches = false;  // without readonly=1 and force=1
  // Newer in the cache than on the backing device, each byte once: what export takes and writeback
  // has to write. Of an image that does not attach: what the dirty keys that were found name, where
  // a byte that was written twice counts twice.
  uint64_t dirty_bytes = 0;
  // What attach would begin with; also where it is refused for the identity or a copied kset alone.
  std::unique_ptr<Recovered> recovered;

  // But for damaged dirty data, whose ranges are named, everything is as it should be.
  bool trusted_but_for_data() const;
  // 0 sound, 1 findings but nothing lost, 2 data lost or not attachable.
  int exit_code() const { return static_cast<int>(findings.worst()); }
};

CheckReport check_image(Pmem& pmem, const CheckOptions& options);

}  // namespace pcache
