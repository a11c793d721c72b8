// SPDX-License-Identifier: GPL-2.0-or-later
// Workload: a sequence of operations on a cache, and every state that a crash can leave of them.
#pragma once

#include "prove/faults.h"
#include "prove/judge.h"

namespace pcache {

struct Operation {
  const char* name;
  const char* what;
};
// The alphabet, in a fixed order.
std::span<const Operation> operations();
// By name; nothing when there is none.
std::optional<size_t> find_operation(std::string_view name);

class Workload {
 public:
  // All of it follows from the base, the operations and the seed. With `faults` the backing device
  // fails: then reads that need it may fail, and what waits for it may give up; nothing else.
  Workload(Base& base, uint64_t seed, Totals* totals, Faults* faults = nullptr);
  ~Workload();  // the base is as it was

  // Runs it. Throws Failure: something that needs no crash to be wrong.
  void run(size_t operation);
  // The device works again: everything can be written back, and is. Throws Failure.
  void heal();
  // What a device whose flush does nothing leaves; for examine().
  void let_device_lie() { device_lies_ = true; }
  // From here on run() is what examine() looks at.
  void look_from_here() { from_ = trace_.now(); }
  // Ends the workload, and leaves the media as they are, open ksets lost: the device's sectors, and
  // in `sectors` those that the oracle knows. The memory is not put back.
  Sectors keep(std::vector<uint64_t>* sectors);
  // All states that a crash can leave since look_from_here(), at about so many points chosen at
  // random. Ends the workload: the cache is gone. Throws Failure.
  void examine(size_t most_points);

 private:
  void attach();
  void expect_in_pmem(const std::string& what, int error);
  void expect_done(const std::string& what, int error);
  bool excused();
  void read(const Extent& extent);
  void format();
  void lose_power(PowerLoss::Survive survive);
  void detach();

  Base& base_;
  const UndoMemory::Mark start_;  // of the base's memory
  UndoMemory::Mark begun_;        // where the trace began
  std::mt19937_64 random_;
  Totals& totals_;
  Oracle oracle_;
  Trace trace_;
  uint64_t hash_;  // of the media when the trace began
  size_t from_ = 0;
  Sectors device_;  // when the trace began
  std::vector<std::vector<std::byte>> device_bytes_;
  Judge judge_;
  Faults* const faults_;
  bool device_lies_ = false;
  std::unique_ptr<Session> session_;
  bool kept_ = false;
};

}  // namespace pcache
