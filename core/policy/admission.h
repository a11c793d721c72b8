// SPDX-License-Identifier: GPL-2.0-or-later
// Admission: which of the pages that reads have missed are appended to the log, under one of the
// rules of keeper.h.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "policy/ghost_list.h"
#include "policy/keeper.h"

namespace pcache::policy {

class Admission {
 public:
  // Without `ghosts` it cannot apply kReuse. Throws std::bad_alloc.
  Admission(uint64_t capacity_pages, bool ghosts);

  // Whether so many pages that a read has missed are to be appended; `page` is the first of them,
  // and counts for all; `hash` is page_hash(page). Any thread.
  bool admits(Rule rule, uint64_t page, uint64_t hash, uint64_t pages = 1);

 private:
  std::unique_ptr<GhostList> ghosts_;
  std::atomic<uint64_t> missed_pages_{0};
};

}  // namespace pcache::policy
