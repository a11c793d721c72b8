// SPDX-License-Identifier: GPL-2.0-or-later
// The parts of a cache that background work needs. They outlive it.
#pragma once

#include "base/counter.h"
#include "base/log.h"
#include "blockdev/block_device.h"
#include "index/index.h"
#include "keylog/key_log.h"
#include "keylog/tails.h"
#include "pmem/pmem.h"
#include "segment/segment_table.h"
#include "stripe/stripes.h"

namespace pcache {

struct BackgroundParts {
  Pmem& pmem;
  SegmentTable& segments;
  Index& index;
  KeyLog& log;
  Stripes& stripes;
  Tails& tails;
  BlockDevice& backing;
  const Log& messages;
  bool data_crc = false;
};

}  // namespace pcache
