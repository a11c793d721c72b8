// SPDX-License-Identifier: GPL-2.0-or-later
// Doorbell: a page that a front and its backend share, so that neither has to look at the other's
// records all the time. Who waits says so in the page, looks once more, and sleeps on a futex
// there. Who has done what the other waits for reads that word, and wakes it; without a waiter this
// costs a load. The page also has hints for the status.
//
// Invariants
// - Nothing in the page counts for more than when the other side is looked at, and what a status
//   shows. Whoever goes by it looks all the same at intervals: the page may be gone, cut, that of a
//   dead process, or garbage.
// - A page that is cut while it is mapped is no fault: accesses go through checked_copy().
// - Each word has one writing side, but for the two that are slept on.
// - Without a file the page is of this process alone, and no one is at the other end.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/result.h"

namespace pcache {

class Doorbell {
 public:
  using Milliseconds = std::chrono::milliseconds;
  enum class Side : uint8_t { kFront, kBackend };
  // As long as both are there each says so in this time. A side that is silent for kMostSilence is
  // taken for one that knows no doorbell, or hangs.
  static constexpr Milliseconds kBeat{1000}, kMostSilence{3500};
  static constexpr uint64_t kPageBytes = 4096;  // of the file, at least

  // Throws std::bad_alloc.
  explicit Doorbell(Side side);
  ~Doorbell();
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  // From now on the page is the file's first, and has what this side has said last of listening and
  // wanting. Ends a wait() of this side: what the other has done meanwhile was not rung. One
  // thread.
  Status connect(int fd);
  // The page is of this process alone again. One thread.
  void disconnect();

  // --- Waiting. One thread for each side.
  // What the other side rings for from now on ends a wait() for what is returned, or makes it
  // return at once. To be called before the last look at what is waited for.
  uint32_t listen(bool on = true);
  uint32_t rings_heard() const;
  // True: rung since `heard`, or woken for nothing.
  bool wait(uint32_t heard, Milliseconds most);

  // --- Any thread.
  // Wakes the other side, if it listens. What it is rung for was stored before.
  void ring();
  // Ends a wait() of this side.
  void wake_self();
  uint64_t rings() const { return rings_.load(std::memory_order_relaxed); }  // that woke somebody

  // Of a front: whether the backend is to write back now; while it says no, its time has not come.
  // Rings when that changes to yes, and at each further yes while the backend listens.
  void want(bool on);
  // What a backend hears of that.
  bool wanted() const { return heard(Hint::kWants) != 0; }

  // Hints of this side for the status.
  enum class Hint : uint8_t {
    kBeat,
    kPid,
    kWants,
    kUsedSegments,
    kSegments,
    kDirtyBytes,
    kWaiting
  };
  void say(Hint hint, uint64_t value);
  // The same of the other side; 0: nothing.
  uint64_t heard(Hint hint) const;
  // Says that this side is there. At least once in kBeat; one thread. `unix_time` is not 0.
  void beat(Milliseconds unix_time);
  // This side ends: nothing of what it said holds any more.
  void leave();

  // Listens to the other's beats, by a clock that only goes forward. One thread.
  void look(Milliseconds now);
  // Whether the other side has been heard lately. Any thread.
  bool speaks() const { return speaks_.load(std::memory_order_relaxed); }
  // The last beat that was heard, as the other side gave it; 0: none. Any thread.
  uint64_t last_beat() const { return last_beat_.load(std::memory_order_relaxed); }

 private:
  static constexpr uint64_t kSideBytes = 1024;
  enum Word : uint64_t { kRung = 0, kListens = 64, kHints = 128 };  // by who reads it, or writes
  std::byte* word(Side side, uint64_t at) const {
    return page_ + (side == Side::kBackend ? kSideBytes : 0) + at;
  }
  static uint64_t load(const std::byte* word);
  static void store(std::byte* word, uint64_t value);
  static uint64_t hint_at(Hint hint) { return kHints + 8 * static_cast<uint64_t>(hint); }
  void wake(Side side);

  const Side side_, other_;
  std::byte* page_;  // of the same address, whichever file is mapped there
  std::atomic<uint32_t> next_ring_;
  std::atomic<uint64_t> rings_{0};
  std::atomic<bool> listens_{false}, wants_{false};
  std::atomic<bool> speaks_{false};
  std::atomic<uint64_t> last_beat_{0};  // set by look() alone
  uint64_t seen_beat_ = 0;              // look() alone
  bool beat_known_ = false;
  Milliseconds last_change_{0};
};

}  // namespace pcache
