// SPDX-License-Identifier: GPL-2.0-or-later
// TwoSides: a front and a backend over one simulated pmem and one simulated disk. In front of each
// store, flush of lines and fence of the one the other may do something, and a store of several
// words may be seen when it is half done. Either is killed at any event and started again, in any
// order; the power goes, and both go on. Then every state is judged that a loss of power can leave.
//
// A killed process leaves what it has stored in memory that all share, and on the disk what it has
// asked for; what it has not fenced may be lost with the power. Its memory is put back to the
// moment of its death, so nothing of how it is taken down is left.
//
// The disk may fail requests, tear writes and fail flushes, at times; what of it a loss of power
// leaves is as PowerLoss has it. The cache may be in any mode that roles offer.
//
// two_sides.cc says how the two are run, killed and started, two_sides_course.cc what they are
// asked to do, two_sides_judged.cc what must hold.
//
// Each side has a thread of its own, and one runs at a time: a seed repeats all of it.
#pragma once

#include <set>

#include "backend/backend.h"
#include "prove/faults.h"
#include "prove/handoff.h"
#include "prove/judge.h"

namespace pcache {

class TwoSides {
 public:
  enum class Side : uint8_t { kFront, kBackend };

  struct Options {
    CacheMode mode = CacheMode::kWriteback;
    uint64_t fault_one_in = 0;  // about one request of the disk in so many fails; 0: none
  };
  // Where the front writes: pages that have data of an earlier life in some bases, a boundary of
  // ranges, a place in the third range. And what it only reads.
  static constexpr uint64_t kPage = kPageBytes;
  static constexpr Extent kWritten[] = {
      {0, 8 * kPage}, {kRangeBytes - kPage, 2 * kPage}, {2 * uint64_t{kRangeBytes}, kPage}};
  static constexpr Extent kMissed{2 << 20, 16384};

  // Of a base of make_two_sides_base(). Neither side is there yet.
  TwoSides(Base& base, uint64_t seed, Totals* totals, const Options& options);
  TwoSides(Base& base, uint64_t seed, Totals* totals) : TwoSides(base, seed, totals, Options()) {}
  ~TwoSides();  // leaves the base as it was

  // All of these throw Failure.
  void start(Side side);
  void front_operation();  // one at random
  void backend_steps(unsigned most);
  // It is killed at the n-th of its events from now on, in `what` or at the end of that.
  void kill(Side side, unsigned in_events, const std::function<void()>& what);
  void end(Side side);  // as it should
  void lose_power(PowerLoss::Survive survive);
  // Everything is written back, and the front knows it. Starts what is not there.
  void settle();
  // All states that a loss of power can leave, at about `most_points` points. Ends it.
  void examine(size_t most_points);

  bool is_there(Side side) const { return side == Side::kFront ? !!session_ : !!backend_; }
  Session& front() { return *session_; }
  // In front of about one event in so many the other side does something; 0: never.
  void set_interleaving(uint64_t one_in) { one_in_ = one_in; }
  struct Counts {
    uint64_t interleaved = 0, killed_fronts = 0, killed_backends = 0, power_losses = 0;
    // What need not be written: moves of the front, ksets that the backend has passed by that, and
    // courses in which it has.
    uint64_t stated = 0, passed = 0, met = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  struct Era {
    size_t end;  // events
    Oracle oracle;
  };
  void on_event(uint32_t process);
  void on_disk(const MemoryDevice::Change& change);
  size_t tear(uint64_t off, size_t len_bytes);
  static std::vector<uint64_t> known_sectors(const Oracle& oracle);
  void set_mode();
  void make_disk();
  void start_front();
  void start_backend();
  bool counts_down(uint32_t process);
  void die();
  void bury();
  void take_down();
  // Takes both sides down, and the memory back to where the trace begins. What they have done must
  // have kept to the rules.
  UndoMemory& rewind();
  void step();
  uint64_t disk_failures();  // so far
  bool is_by_the_disk(int error, uint64_t failures_before);
  void note(const std::string& wrong);
  void check() const;
  void check_owners() const;
  void in_backend(const std::function<void()>& what);
  void write();
  void read(const Extent& extent);
  void small_operation();
  void begin_epoch();
  void write_plain();
  void move();
  void pass_some();
  Sectors disk_sectors() const;
  const Oracle& oracle_at(size_t event) const;
  Oracle::Found read_all(Session& session) const;
  void attach_two_sides(const Sectors& device, const Oracle::Found& found);

  Base& base_;
  const Options options_;
  const UndoMemory::Mark start_;
  UndoMemory::Mark begun_;
  std::mt19937_64 random_;
  Totals& totals_;
  Judge judge_;
  Trace trace_;
  uint64_t hash_;
  Sectors device_;  // when the trace began
  std::vector<std::vector<std::byte>> device_bytes_;
  Oracle oracle_;  // since the newest front has recovered
  std::vector<Era> eras_;

  Handoff handoff_;
  Faults faults_;
  bool disk_fails_ = options_.fault_one_in > 0;
  std::unique_ptr<MemoryDevice> disk_;
  std::map<uint64_t, std::vector<std::byte>> content_;  // of the disk's sectors that were written
  std::set<uint64_t> in_flight_;                        // writes of the disk
  std::unique_ptr<Session> session_;
  std::unique_ptr<Backend> backend_;
  uint32_t processes_ = 0;
  uint32_t front_process_ = 0, backend_process_ = 0;
  std::set<uint32_t> backends_;

  uint64_t one_in_ = 4;
  bool quiet_ = true;  // nobody comes in between
  bool in_front_ = false, in_backend_ = false;
  uint32_t victim_ = 0;  // process; 0: none
  unsigned dies_in_ = 0;
  bool dead_ = false;  // from here on nothing happens, until it is buried
  UndoMemory::Mark death_ = 0;
  std::map<uint64_t, std::vector<std::byte>> after_death_;  // sectors as they were at that moment
  std::string wrong_;
  Counts counts_;
};

// What a seed's course has of it.
TwoSides::Options options_of_course(uint64_t seed);

// A random course of all this. Throws Failure.
void run_two_sides(Base& base, uint64_t seed, Totals* totals, TwoSides::Counts* counts);

}  // namespace pcache
