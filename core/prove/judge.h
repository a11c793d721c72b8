// SPDX-License-Identifier: GPL-2.0-or-later
// Judge: examines one state that a crash has left, and reports what is wrong with it.
//
// In every state: the backing device alone is in order, and has what was acknowledged on it; check
// finds only what a crash may leave, and stores nothing; the state attaches; every sector that the
// workload knows can be read and has a version that the oracle allows. In some: a crash inside that
// attach, and inside the next one, leaves the same content; what is written then is there after one
// more crash; after a drain and reclaim the device alone has the same content, check finds only
// replicas that were torn then, and all other sectors of the logical device are unchanged.
#pragma once

#include <random>
#include <stdexcept>
#include <unordered_set>

#include "prove/bases.h"

namespace pcache {

// What was tried, for the table.
struct Totals {
  bool count_failures = false;  // count them and go on; else the first one ends it
  uint64_t sequences = 0;
  uint64_t points = 0;
  uint64_t images = 0;                       // checked
  uint64_t again = 0;                        // those with a crash during recovery
  std::map<std::string, uint64_t> failures;  // by kind
  std::unordered_set<uint64_t> distinct;     // images, by hash
  std::map<std::string, uint64_t> faults;
};

// "lost: ...", "resurrected: ..." or "refused: ...", which loses data, too.
struct Failure : std::runtime_error {
  using runtime_error::runtime_error;
  std::string kind() const { return std::string(what()).substr(0, std::string(what()).find(':')); }
};

class Judge {
 public:
  Judge(Base& base, std::vector<uint64_t> sectors, uint64_t seed, Totals* totals)
      : base_(base), sectors_(std::move(sectors)), random_(seed), totals_(*totals) {}

  // The memory has the state, and is left as it was. Throws Failure.
  void look(const CrashPoint& point, const Oracle& oracle);
  const std::vector<uint64_t>& sectors() const { return sectors_; }
  // The versions of all sectors once the state in memory is attached; leaves the memory as it was.
  Oracle::Found recover(const Sectors& device, Trace* trace = nullptr) const;

 private:
  std::vector<uint64_t> device_sectors(const Sectors& device) const;
  // False: the device is blank.
  bool check_image_as_it_is(bool drained) const;
  // Checks, attaches, reads; uses the known result of an equal state.
  bool recovered(const CrashPoint& point, Oracle::Found* found);
  void others_are_untouched(const Sectors& device) const;
  std::unique_ptr<Session> attach(const Sectors& device, Trace* trace) const;
  Oracle::Found read_all(Session& session) const;
  void crash_in_recovery(const CrashPoint& at, const Oracle::Found& found, int depth);
  void go_on(const CrashPoint& at, const Oracle::Found& found, const Oracle& before);
  void drain(const Sectors& device, const Oracle::Found& found);

  Base& base_;
  const std::vector<uint64_t> sectors_;
  std::mt19937_64 random_;
  Totals& totals_;
};

}  // namespace pcache
