// SPDX-License-Identifier: GPL-2.0-or-later
// Checks all of an image without writing to it.
//
// Two judges look: the surveys, which report all that they find and go on, and recover(), the code
// that attach runs, which decides whether the image attaches. So check and attach cannot disagree.
#pragma once

#include <memory>

#include "inspect/log_survey.h"
#include "recovery/recover.h"
#include "segment/identity.h"

namespace pcache {

struct CheckOptions {
  // The backing device's; without it ranges are checked against the size in the identity block, if
  // there is one.
  std::optional<BackingIdentity> backing;
  uint32_t block_bytes = kSectorBytes;
  bool scan_media = false;       // look for unreadable places, in unused space, too
  bool ignore_identity = false;  // the backing device may be another one
  std::function<void(const SurveyedKset&)> visit = nullptr;
  // Called while data is checked against its crc; in bytes.
  std::function<void(uint64_t done, uint64_t all)> progress = nullptr;
};

struct CheckReport {
  Findings findings;
  FrameSurvey frame;
  LogSurvey log;
  uint64_t logical_bytes = 0;  // of the backing device; 0: not known
  bool attaches = false;       // without readonly=1 and force=1
  // Newer in the cache than on the backing device, each byte once: what export copies and writeback
  // has to write. If the image does not attach: the bytes of the dirty keys found, where a byte
  // that was written twice counts twice.
  uint64_t dirty_bytes = 0;
  // What attach would start with; also if only the identity or a copied kset refuses it.
  std::unique_ptr<Recovered> recovered;

  // All is as it should be, but for damaged dirty data, whose ranges are named.
  bool trusted_but_for_data() const;
  // 0: sound; 1: findings, but nothing lost; 2: data lost, or does not attach.
  int exit_code() const { return static_cast<int>(findings.worst()); }
};

CheckReport check_image(Pmem& pmem, const CheckOptions& options);

}  // namespace pcache
