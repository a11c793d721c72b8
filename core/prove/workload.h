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
// All operations, in a fixed order.
std::span<const Operation> operations();
// By name; nothing: no such operation.
std::optional<size_t> find_operation(std::string_view name);

class Workload {
 public:
  // Its course follows from the base, the operations and the seed. With `faults` the backing device
  // fails: then reads that need it may fail, and writes that wait for it may give up; nothing else.
  Workload(Base& base, uint64_t seed, Totals* totals, Faults* faults = nullptr);
  ~Workload();  // leaves the base as it was

  // Runs the operation. Throws Failure: something is wrong even without a crash.
  void run(size_t operation);
  // The device works again: everything can be written back, and is. Throws Failure.
  void heal();
  // For examine(): the device's flush does nothing.
  void let_device_lie() { device_lies_ = true; }
  // examine() looks at what run() does from here on.
  void look_from_here() { from_ = trace_.now(); }
  // Ends the workload and leaves the media as they are, without open ksets. Returns the device's
  // sectors, and in `sectors` those that the oracle knows. Does not put the memory back.
  Sectors keep(std::vector<uint64_t>* sectors);
  // All states that a crash can leave since look_from_here(), at about `most_points` points chosen
  // at random. Ends the workload: the cache is gone. Throws Failure.
  void examine(size_t most_points);

 private:
  void attach();
  void expect_in_pmem(const std::string& what, int error);
  void expect_done(const std::string& what, int error);
  bool excused();
  void read(const Extent& extent);
  void set_mode(CacheMode mode);
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
