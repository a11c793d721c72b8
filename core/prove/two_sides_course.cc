// SPDX-License-Identifier: GPL-2.0-or-later
// TwoSides: the requests of the front's user, and a random course of everything.
#include <algorithm>
#include <array>
#include <cstring>

#include "prove/two_sides.h"

namespace pcache {

namespace {

// A kset of one key takes two or three events, an attach a dozen.
constexpr unsigned kMostEvents = 24;

}  // namespace

void TwoSides::write() {
  const Extent& where = kWritten[random_() % std::size(kWritten)];
  const uint64_t sectors = where.len / kSectorBytes;
  const uint64_t first = random_() % sectors;
  const uint64_t n = 1 + random_() % std::min<uint64_t>(sectors - first, 16);
  static constexpr uint32_t kFlags[] = {0,
                                        0,
                                        PCACHE_REQ_FUA,
                                        PCACHE_REQ_FUA,
                                        PCACHE_REQ_PREFLUSH,
                                        PCACHE_REQ_PREFLUSH | PCACHE_REQ_FUA};
  static constexpr uint32_t kOps[] = {PCACHE_OP_WRITE, PCACHE_OP_WRITE,   PCACHE_OP_WRITE,
                                      PCACHE_OP_WRITE, PCACHE_OP_DISCARD, PCACHE_OP_WRITE_ZEROES};
  const int error =
      session_->write({where.off + first * kSectorBytes, n * kSectorBytes},
                      kFlags[random_() % std::size(kFlags)], kOps[random_() % std::size(kOps)]);
  // Without a backend that has the time it waits for space.
  if (error == ETIMEDOUT && (!backend_ || !in_front_ || in_backend_)) return;
  if (error) note("lost: a write failed: " + std::string(strerror(error)));
}

void TwoSides::read(const Extent& extent) {
  Oracle::Found found;
  const uint64_t failures = disk_failures();
  const Session::ReadResult result = session_->read(extent, &found);
  if (result.error && is_by_the_disk(result.error, failures)) return;
  if (const std::string wrong = result.text(extent); !wrong.empty()) return note(wrong);
  for (const auto& [sector, version] : found)
    if (!oracle_.may_read(sector, version))
      note("resurrected: a read of sector " + std::to_string(sector) + " gives version " +
           std::to_string(version) + ", written was " + std::to_string(oracle_.newest(sector)));
}

// All that is in the log is written back, if there is a backend: behind a barrier nothing can be
// stated of what is in front of it.
void TwoSides::begin_epoch() {
  if (backend_)
    in_backend([this] {
      for (int i = 0; i < 8 && !dead_ && wrong_.empty(); i++) step();
    });
  session_->advance(6000);
}

// Without a barrier, and of few places.
void TwoSides::write_plain() {
  const Extent& where = kWritten[random_() % std::size(kWritten)];
  const int error = session_->write({where.off, kSectorBytes << random_() % 3});
  if (error && error != ETIMEDOUT) note("lost: a write failed: " + std::string(strerror(error)));
}

// What need not be written is stated, where the barriers allow it.
void TwoSides::move() {
  if (const auto moved = session_->cache().move_step(); !moved && !dead_)
    note("lost: a move failed: " + moved.error().text);
  counts_.stated += session_->cache().writeback().stated_ksets() > 0;
}

// Half of the time the backend leaves the front alone until it has said what need not be written.
void TwoSides::pass_some() {
  begin_epoch();
  quiet_ = quiet_ || random_() % 2;
  for (uint64_t n = 1 + random_() % 4; n > 0; n--) write_plain();
  session_->advance(1000);  // closes their kset
  if (random_() % 2) write_plain();
  move();
  quiet_ = dead_;
  write_plain();
  session_->advance(1000);
  if (backend_ && !dead_) in_backend([this] { step(); });
}

// While a backend is in the middle of a step.
void TwoSides::small_operation() {
  switch (random_() % 5) {
    case 0:
      return write();
    case 4:
      return move();
    case 1:
      if (const int error = session_->flush(); error && error != ETIMEDOUT)
        note("lost: a flush failed: " + std::string(strerror(error)));
      return;
    case 2:
      return session_->advance(random_() % 2 ? 1000 : 6000);
    default:
      return read(kWritten[random_() % std::size(kWritten)]);
  }
}

void TwoSides::front_operation() {
  quiet_ = false;
  in_front_ = true;
  switch (random_() % 15) {
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
      pass_some();
      break;
    case 0:
    case 1:
      if (const int error = session_->flush(); error && (error != ETIMEDOUT || backend_))
        note("lost: a flush failed: " + std::string(strerror(error)));
      break;
    case 2:
      session_->advance(1000);
      break;
    case 3:
      session_->advance(6000);
      break;
    case 4:
      read(random_() % 2 ? kMissed : kWritten[random_() % std::size(kWritten)]);
      break;
    default:
      write();
  }
  in_front_ = false;
  quiet_ = true;
  check();
}

TwoSides::Options options_of_course(uint64_t seed) {
  TwoSides::Options options;
  // Half of them in writeback mode, since elsewhere nothing is left to be passed.
  static constexpr CacheMode kModes[] = {CacheMode::kWriteback, CacheMode::kWritethrough,
                                         CacheMode::kWriteback, CacheMode::kWritearound,
                                         CacheMode::kWriteback, CacheMode::kWriteonly,
                                         CacheMode::kWriteback, CacheMode::kPassthrough};
  options.mode = kModes[seed / 4 % std::size(kModes)];
  options.fault_one_in = std::array<uint64_t, 3>{0, 3, 8}[seed % 3];
  return options;
}

void run_two_sides(Base& base, uint64_t seed, Totals* totals, TwoSides::Counts* counts) {
  std::mt19937_64 random(seed);
  TwoSides sides(base, random(), totals, options_of_course(seed));
  sides.set_interleaving(std::array<uint64_t, 4>{0, 2, 4, 16}[seed % 4]);
  using Side = TwoSides::Side;
  const auto one_of = [&random] { return random() % 2 ? Side::kFront : Side::kBackend; };
  const auto do_something = [&](Side side) {
    if (!sides.is_there(side))
      sides.start(side);
    else if (side == Side::kFront)
      sides.front_operation();
    else
      sides.backend_steps(1 + random() % 3);
  };
  sides.start(one_of());
  if (random() % 2) do_something(sides.is_there(Side::kFront) ? Side::kBackend : Side::kFront);
  for (size_t n = 4 + random() % 16; n > 0; n--) {
    const uint64_t die = random() % 32;
    if (die < 18) {
      do_something(Side::kFront);
    } else if (die < 26) {
      do_something(Side::kBackend);
    } else if (die < 29) {
      const Side side = one_of();
      sides.kill(side, 1 + random() % kMostEvents, [&] { do_something(side); });
    } else if (die < 30) {
      sides.end(one_of());
    } else if (die < 31) {
      using Survive = PowerLoss::Survive;
      sides.lose_power(std::array{Survive::kNothing, Survive::kSome, Survive::kAll}[random() % 3]);
    } else {
      sides.settle();
    }
  }
  if (random() % 2) sides.settle();
  const TwoSides::Counts& now = sides.counts();
  counts->interleaved += now.interleaved;
  counts->stated += now.stated;
  counts->passed += now.passed;
  counts->met += now.passed > 0;
  counts->killed_fronts += now.killed_fronts;
  counts->killed_backends += now.killed_backends;
  counts->power_losses += now.power_losses;
  sides.examine(32);
}

}  // namespace pcache
