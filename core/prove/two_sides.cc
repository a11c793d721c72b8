// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/two_sides.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "testing/lent_device.h"

namespace pcache {

using namespace media;

namespace {

constexpr uint64_t kPage = kPageBytes;
constexpr uint64_t kWordBytes = 8;
// Where the front writes: pages that have data of an earlier life in some bases, a boundary of
// ranges, a place in the third range. And what it only reads.
constexpr Extent kWritten[] = {
    {0, 8 * kPage}, {kRangeBytes - kPage, 2 * kPage}, {2 * uint64_t{kRangeBytes}, kPage}};
constexpr Extent kMissed{2 << 20, 16384};
// A kset of one key takes two or three events, an attach a dozen.
constexpr unsigned kMostEvents = 24;

std::vector<uint64_t> known_sectors(const Oracle& oracle) {
  std::vector<uint64_t> sectors = oracle.sectors();
  const auto add = [&](const Extent& extent) {
    for (uint64_t at = extent.off; at < extent.end(); at += kSectorBytes)
      sectors.push_back(at / kSectorBytes);
  };
  for (const Extent& extent : kWritten) add(extent);
  add(kMissed);
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  return sectors;
}

bool is_in(const ReplicaPlace& place, size_t record_bytes, const TraceEvent& store) {
  for (int i = 0; i < 2; i++) {
    const uint64_t at = place.base.v + static_cast<uint64_t>(i) * place.stride;
    if (at <= store.off && store.off + store.len <= at + record_bytes) return true;
  }
  return false;
}

}  // namespace

TwoSides::TwoSides(Base& base, uint64_t seed, Totals* totals)
    : base_(base),
      start_(base.pmem->memory().mark()),
      begun_(start_),
      random_(seed),
      totals_(*totals),
      judge_(base, known_sectors(base.oracle), seed, totals),
      hash_(base.hash),
      device_(base.device),
      oracle_(base.oracle) {
  make_disk();
  base_.pmem->set_trace(&trace_);
  base_.pmem->set_interleave([this](uint32_t process) { on_event(process); });
  base_.pmem->set_tear([this](uint64_t off, size_t len) { return tear(off, len); });
}

TwoSides::~TwoSides() {
  take_down();
  base_.pmem->set_interleave(nullptr);
  base_.pmem->set_tear(nullptr);
  base_.pmem->memory().rollback(start_);
}

void TwoSides::note(const std::string& wrong) {
  if (!dead_ && wrong_.empty()) wrong_ = wrong;
}

void TwoSides::check() const {
  if (!wrong_.empty()) throw Failure(wrong_);
}

void TwoSides::make_disk() {
  content_.clear();
  in_flight_.clear();
  after_death_.clear();
  disk_ = std::make_unique<MemoryDevice>(kProveLogicalBytes);
  disk_->set_identity(prove_backing().text, prove_backing().unique);
  for (const auto& [sector, bytes] : device_) {
    disk_->poke(sector * kSectorBytes, {bytes, kSectorBytes});
    content_[sector].assign(bytes, bytes + kSectorBytes);
  }
  disk_->hold();
  disk_->set_release_on_wait(true);
  disk_->set_on_change([this](const MemoryDevice::Change& change) { on_disk(change); });
}

Sectors TwoSides::disk_sectors() const {
  Sectors sectors;
  for (const auto& [sector, bytes] : content_) sectors[sector] = bytes.data();
  return sectors;
}

// The queue's lock is held.
void TwoSides::on_disk(const MemoryDevice::Change& change) {
  const auto each_sector = [&](const auto& visit) {
    for (size_t at = 0; at < change.bytes.size(); at += kSectorBytes)
      visit((change.off + at) / kSectorBytes, change.bytes.data() + at);
  };
  if (dead_)
    return each_sector([&](uint64_t sector, const std::byte*) {
      const auto known = content_.find(sector);
      after_death_.try_emplace(sector,
                               known != content_.end()
                                   ? known->second
                                   : MemoryDevice::pattern(sector * kSectorBytes, kSectorBytes));
    });
  if (!in_backend_) note("lost: the front has written to the disk");
  if (counts_down(backend_process_)) return on_disk(change);
  trace_.add(change);
  if (change.op == BlockOp::kFlush) return;
  if (change.completed)
    in_flight_.erase(change.id);
  else
    in_flight_.insert(change.id);
  each_sector([&](uint64_t sector, const std::byte* bytes) {
    content_[sector].assign(bytes, bytes + kSectorBytes);
  });
}

// True: it has died.
bool TwoSides::counts_down(uint32_t process) {
  if (dead_ || victim_ == 0 || process != victim_ || --dies_in_ > 0) return false;
  die();
  return true;
}

void TwoSides::on_event(uint32_t process) {
  if (dead_ || counts_down(process)) return;
  if (quiet_ || one_in_ == 0 || random_() % one_in_ != 0) return;
  quiet_ = true;
  if (process == front_process_ && in_front_ && backend_) {
    counts_.interleaved++;
    in_backend([this] { step(); });
  } else if (process == backend_process_ && in_backend_ && session_) {
    counts_.interleaved++;
    handoff_.ask([this] { small_operation(); });
  }
  quiet_ = dead_;
}

// At the end of a word.
size_t TwoSides::tear(uint64_t off, size_t len_bytes) {
  if (quiet_ || dead_ || random_() % 4 != 0) return 0;
  const uint64_t first = (off / kWordBytes + 1) * kWordBytes, end = off + len_bytes;
  if (first >= end) return 0;
  const uint64_t words = (end - first + kWordBytes - 1) / kWordBytes;
  return first + random_() % words * kWordBytes - off;
}

void TwoSides::in_backend(const std::function<void()>& what) {
  const bool was = std::exchange(in_backend_, true);
  handoff_.run(what);
  in_backend_ = was;
}

void TwoSides::step() {
  const uint64_t before = backend_->counters().passed_ksets;
  const auto stepped = backend_->step();
  counts_.passed += backend_->counters().passed_ksets - before;
  if (!stepped) note("lost: the backend: " + stepped.error().text);
}

// What is under way on the disk is done, as the kernel does it, before the process is gone.
void TwoSides::die() {
  for (const uint64_t id : in_flight_)
    trace_.add(TraceEvent::Kind::kDeviceWriteDone, 0, nullptr, 0, id);
  in_flight_.clear();
  trace_.add(TraceEvent::Kind::kKilled, 0, nullptr, 0, 0, victim_);
  dead_ = true;
  death_ = base_.pmem->memory().mark();
  base_.pmem->set_trace(nullptr);
  if (victim_ == front_process_ && session_) session_->stop_tracing();
}

void TwoSides::bury() {
  if (victim_ == front_process_)
    session_.reset();
  else
    in_backend([this] { backend_.reset(); });
  base_.pmem->memory().rollback(death_);
  for (const auto& [sector, bytes] : after_death_) disk_->poke(sector * kSectorBytes, bytes);
  after_death_.clear();
  victim_ = 0;
  dead_ = false;
  base_.pmem->set_trace(&trace_);
}

void TwoSides::kill(Side side, unsigned in_events, const std::function<void()>& what) {
  PCACHE_CHECK(in_events > 0 && victim_ == 0);
  const bool is_front = side == Side::kFront;
  // One that is started in `what` has the next number.
  victim_ = is_there(side) ? (is_front ? front_process_ : backend_process_) : processes_ + 1;
  dies_in_ = in_events;
  what();
  check();
  if (!dead_) die();
  bury();
  (is_front ? counts_.killed_fronts : counts_.killed_backends)++;
}

void TwoSides::start(Side side) {
  if (is_there(side)) return;
  side == Side::kFront ? start_front() : start_backend();
  check();
}

// What the last front has left is what the next one finds, whatever the backend does meanwhile.
void TwoSides::start_front() {
  const Oracle::Found found = judge_.recover(disk_sectors());
  base_.pmem->set_trace(&trace_);
  const auto now = static_cast<Oracle::Time>(trace_.now());
  if (const std::string wrong = oracle_.judge(found, now); !wrong.empty())
    throw Failure(wrong + " (when a front is started)");
  front_process_ = ++processes_;
  quiet_ = false;
  in_front_ = true;
  auto session = Session::attach(*base_.pmem, {},
                                 {.trace = &trace_,
                                  .oracle = &oracle_,
                                  .strict = base_.strict,
                                  .data_crc = base_.data_crc,
                                  .disk = disk_.get(),
                                  .process = front_process_,
                                  .pass_time = [this] {
                                    if (!in_front_ || !backend_ || dead_) return;
                                    quiet_ = true;
                                    in_backend([this] {
                                      for (int i = 0; i < 100 && wrong_.empty(); i++) step();
                                    });
                                    quiet_ = dead_;
                                  }});
  in_front_ = false;
  quiet_ = true;
  if (!session) {
    if (!dead_) throw Failure("refused: by a front: " + session.error().text);
    return;
  }
  session_ = session.take();
  if (dead_) return session_->stop_tracing();
  // Durable since it is attached, and maybe not before.
  eras_.push_back({trace_.now(), oracle_});
  oracle_.go_on(found, static_cast<Oracle::Time>(trace_.now()));
}

void TwoSides::start_backend() {
  backend_process_ = ++processes_;
  Backend::Options options;
  options.strict = base_.strict;
  options.log = Log([](LogLevel, const char*) {});
  std::string refused;
  in_backend([&] {
    auto backend = Backend::attach(options, base_.pmem->make_pmem(backend_process_),
                                   std::make_unique<LentDevice>(*disk_));
    if (backend)
      backend_ = backend.take();
    else
      refused = backend.error().text;
  });
  backends_.insert(backend_process_);
  if (!refused.empty() && !dead_) throw Failure("refused: by a backend: " + refused);
}

void TwoSides::end(Side side) {
  if (!is_there(side)) return;
  if (side == Side::kFront) {
    if (const Status closed = session_->close(); !closed && backend_)
      note("lost: close: " + closed.error().text);
    session_.reset();
  } else {
    in_backend([this] { backend_.reset(); });
  }
  check();
}

void TwoSides::backend_steps(unsigned most) {
  quiet_ = false;
  in_backend([&] {
    for (unsigned i = 0; i < most && !dead_ && wrong_.empty(); i++) step();
  });
  quiet_ = true;
  check();
}

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
  if (error == ETIMEDOUT && (!backend_ || !in_front_)) return;
  if (error) note("lost: a write failed: " + std::string(strerror(error)));
}

void TwoSides::read(const Extent& extent) {
  Oracle::Found found;
  const Session::ReadResult result = session_->read(extent, &found);
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
  switch (random_() % 12) {
    case 10:
    case 11:
      begin_epoch();
      for (uint64_t n = 1 + random_() % 4; n > 0; n--) write_plain();
      move();
      write_plain();
      session_->advance(1000);
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

// Each record has one writer.
void TwoSides::check_owners() const {
  for (const TraceEvent& event : trace_.events()) {
    if (event.kind != TraceEvent::Kind::kStore && event.kind != TraceEvent::Kind::kUnflushed)
      continue;
    const bool is_allowed =
        backends_.contains(event.process)
            ? is_in(dirty_tail_place(), sizeof(TailPos), event)
            : event.off >= kSegmentsOff || is_in(key_tail_place(), sizeof(TailPos), event);
    if (!is_allowed)
      throw Failure(std::string("lost: the ") +
                    (backends_.contains(event.process) ? "backend" : "front") +
                    " has stored to what is not its own, at " + std::to_string(event.off));
  }
}

void TwoSides::take_down() {
  dead_ = quiet_ = true;
  base_.pmem->set_trace(nullptr);
  if (session_) session_->stop_tracing();
  session_.reset();
  if (backend_) in_backend([this] { backend_.reset(); });
  victim_ = 0;
  dead_ = false;
}

UndoMemory& TwoSides::rewind() {
  check();
  take_down();
  check_owners();
  if (const std::string wrong = missing_order(trace_); !wrong.empty())
    throw Failure("lost: " + wrong);
  base_.pmem->memory().rollback(begun_);
  return base_.pmem->memory();
}

void TwoSides::lose_power(PowerLoss::Survive survive) {
  UndoMemory& memory = rewind();
  PowerLoss loss(memory, trace_, device_, {.seed = random_(), .hash = hash_});
  loss.walk(trace_.now() + 1, nullptr);
  Sectors left = loss.lose_power(survive);
  hash_ = loss.hash();
  for (auto& [sector, bytes] : left) {
    device_bytes_.emplace_back(bytes, bytes + kSectorBytes);
    bytes = device_bytes_.back().data();
  }
  device_ = std::move(left);
  const auto time = static_cast<Oracle::Time>(trace_.now());
  trace_.clear();
  eras_.clear();
  begun_ = memory.mark();
  const Oracle::Found found = judge_.recover(device_);
  if (const std::string wrong = oracle_.judge(found, time); !wrong.empty()) throw Failure(wrong);
  oracle_.collapse(found, time);
  base_.pmem->set_trace(&trace_);
  make_disk();
  counts_.power_losses++;
}

Oracle::Found TwoSides::read_all(Session& session) const {
  Oracle::Found found;
  for (const Extent& extent : extents_of(judge_.sectors()))
    if (const std::string wrong = session.read(extent, &found).text(extent); !wrong.empty())
      throw Failure(wrong);
  return found;
}

void TwoSides::settle() {
  start(Side::kFront);
  start(Side::kBackend);
  if (const int error = session_->flush(); error && error != ETIMEDOUT)
    throw Failure("lost: a flush failed: " + std::string(strerror(error)));
  // What reclaim moves is in the log anew.
  for (int i = 0; i < 10; i++) {
    backend_steps(100);
    session_->advance(20000);
    if (session_->cache().dirty().live_bytes == 0) break;
  }
  if (session_->cache().dirty().live_bytes > 0)
    throw Failure("lost: the backend has written all, and the front does not know it");
  Oracle::Found on_disk;
  std::string wrong = read_device(disk_sectors(), judge_.sectors(), &on_disk);
  if (wrong.empty() && on_disk != read_all(*session_))
    wrong = "lost: what is written back is not what the front has";
  for (const auto& [sector, version] : on_disk)
    if (wrong.empty() && !oracle_.may_read(sector, version))
      wrong = "lost: the disk's sector " + std::to_string(sector) + " holds version " +
              std::to_string(version) + ", written was " + std::to_string(oracle_.newest(sector));
  if (!wrong.empty()) throw Failure(wrong);
}

const Oracle& TwoSides::oracle_at(size_t event) const {
  for (const Era& era : eras_)
    if (event <= era.end) return era.oracle;
  return oracle_;
}

// The same state by a front and a backend, in either order: nobody may refuse it.
void TwoSides::attach_two_sides(const Sectors& device, const Oracle::Found& found) {
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark mark = memory.mark();
  std::map<uint64_t, std::vector<std::byte>> now;
  MemoryDevice disk(kProveLogicalBytes);
  disk.set_identity(prove_backing().text, prove_backing().unique);
  for (const auto& [sector, bytes] : device)
    disk.poke(sector * kSectorBytes, {bytes, kSectorBytes});
  {
    std::unique_ptr<Session> session;
    std::unique_ptr<Backend> backend;
    const auto start_one = [&](bool front) {
      if (front) {
        auto attached = Session::attach(
            *base_.pmem, {}, {.data_crc = base_.data_crc, .disk = &disk, .process = ++processes_});
        if (!attached) throw Failure("refused: by a front: " + attached.error().text);
        session = attached.take();
        return;
      }
      Backend::Options options;
      options.strict = base_.strict;
      options.log = Log([](LogLevel, const char*) {});
      auto attached = Backend::attach(options, base_.pmem->make_pmem(++processes_),
                                      std::make_unique<LentDevice>(disk));
      if (!attached) throw Failure("refused: by a backend: " + attached.error().text);
      backend = attached.take();
    };
    const bool front_first = random_() % 2;
    start_one(front_first);
    start_one(!front_first);
    if (read_all(*session) != found) throw Failure("lost: a front finds something else");
    for (int i = 0; i < 10; i++) {
      for (auto step = backend->step();; step = backend->step()) {
        if (!step) throw Failure("lost: the backend: " + step.error().text);
        if (!Backend::has_moved(step.value())) break;
      }
      session->advance(20000);
      if (session->cache().dirty().live_bytes == 0) break;
    }
    if (session->cache().dirty().live_bytes > 0)
      throw Failure("lost: the backend has written all, and the front does not know it");
    if (read_all(*session) != found)
      throw Failure("lost: written back, a front finds something else");
  }
  for (const uint64_t sector : judge_.sectors()) {
    const auto bytes = disk.peek(sector * kSectorBytes, kSectorBytes);
    if (Oracle::version_of(sector, bytes.data()) != found.at(sector))
      throw Failure("lost: written back, the disk's sector " + std::to_string(sector) +
                    " holds something else");
  }
  memory.rollback(mark);
}

void TwoSides::examine(size_t most_points) {
  UndoMemory& memory = rewind();
  PowerLoss::Options options;
  options.most_points = most_points;
  options.seed = random_();
  options.hash = hash_;
  PowerLoss loss(memory, trace_, device_, options);
  loss.walk(0, [&](const CrashPoint& point) {
    const Oracle& oracle = oracle_at(point.event);
    judge_.look(point, oracle);
    if (random_() % 32 != 0) return;
    totals_.again++;
    attach_two_sides(point.device, judge_.recover(point.device));
  });
  totals_.points += loss.points();
  totals_.sequences++;
}

void run_two_sides(Base& base, uint64_t seed, Totals* totals, TwoSides::Counts* counts) {
  std::mt19937_64 random(seed);
  TwoSides sides(base, random(), totals);
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
  counts->killed_fronts += now.killed_fronts;
  counts->killed_backends += now.killed_backends;
  counts->power_losses += now.power_losses;
  sides.examine(32);
}

}  // namespace pcache
