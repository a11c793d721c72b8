// SPDX-License-Identifier: GPL-2.0-or-later
// MediaErrors: reports the consequences of bad pages of the cache device, each once, in at most a
// few lines. Any thread, with any locks held: it takes none.
#pragma once

#include <atomic>

#include "base/log.h"
#include "pmem/pmem.h"
#include "segment/segment_table.h"

namespace pcache {

class MediaErrors {
 public:
  MediaErrors(const Pmem& pmem, const Log& messages) : pmem_(pmem), messages_(messages) {}

  // The segment is out of use until the next attach, for its bad page at `at`.
  void segment_retired(SegId seg, MediaOff at);
  void log_failed(const Error& error);
  // Dirty data, or a part of the log, cannot be read. Others report which.
  void data_lost() { say_if_cut(); }

 private:
  static constexpr uint32_t kMostLines = 16;
  bool say_if_cut();

  const Pmem& pmem_;
  const Log& messages_;
  std::atomic<uint32_t> segments_{0};
  std::atomic<bool> cut_said_{false};
};

}  // namespace pcache
