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
// Each side has a thread of its own, and one runs at a time: a seed repeats all of it.
#pragma once

#include <set>

#include "backend/backend.h"
#include "prove/handoff.h"
#include "prove/judge.h"

namespace pcache {

class TwoSides {
 public:
  enum class Side : uint8_t { kFront, kBackend };

  // Of a base of make_two_sides_base(). Neither side is there yet.
  TwoSides(Base& base, uint64_t seed, Totals* totals);
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
    uint64_t stated = 0, passed = 0;  // what need not be written: moves of the front, the backend's
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
  Sectors disk_sectors() const;
  const Oracle& oracle_at(size_t event) const;
  Oracle::Found read_all(Session& session) const;
  void attach_two_sides(const Sectors& device, const Oracle::Found& found);

  Base& base_;
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

// A random course of all this. Throws Failure.
void run_two_sides(Base& base, uint64_t seed, Totals* totals, TwoSides::Counts* counts);

}  // namespace pcache
