// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/two_sides.h"

#include "segment/format_device.h"
#include "testing/lent_device.h"

namespace pcache {

using namespace media;

namespace {

constexpr uint64_t kWordBytes = 8;

}  // namespace

TwoSides::TwoSides(Base& base, uint64_t seed, Totals* totals, const Options& options)
    : base_(base),
      options_(options),
      start_(base.pmem->memory().mark()),
      begun_(start_),
      random_(seed),
      totals_(*totals),
      judge_(base, known_sectors(base.oracle), seed, totals),
      hash_(base.hash + static_cast<uint64_t>(options.mode) * 0x9e3779b97f4a7c15),
      device_(base.device),
      oracle_(base.oracle),
      faults_(random_(), options.fault_one_in) {
  set_mode();
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

void TwoSides::set_mode() {
  if (options_.mode == CacheMode::kWriteback) return;
  const auto pmem = base_.pmem->make_pmem();
  DeviceFrame frame = load_frame(*pmem, Log()).take();
  frame.info.mode = options_.mode;
  PCACHE_CHECK(write_cache_info(*pmem, frame).ok());
  begun_ = base_.pmem->memory().mark();
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
  disk_->set_fate([this](BlockOp op, const Extent& extent) {
    return disk_fails_ && !dead_ ? faults_.fate(op, extent) : MemoryDevice::Fate{};
  });
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

uint64_t TwoSides::disk_failures() {
  uint64_t all = 0;
  for (const auto& [kind, n] : faults_.counts()) all += n;
  return all;
}

// Whether that is the disk's error, which has failed something since.
bool TwoSides::is_by_the_disk(int error, uint64_t failures_before) {
  return disk_failures() > failures_before && (error == EIO || error == ENOSPC);
}

void TwoSides::step() {
  const uint64_t failures = disk_failures();
  const uint64_t before = backend_->counters().passed_ksets;
  const auto stepped = backend_->step();
  counts_.passed += backend_->counters().passed_ksets - before;
  if (!stepped && !is_by_the_disk(stepped.error().code, failures))
    note("lost: the backend: " + stepped.error().text);
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
                                    if (!in_front_ || in_backend_ || !backend_ || dead_) return;
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

void TwoSides::take_down() {
  dead_ = quiet_ = true;
  base_.pmem->set_trace(nullptr);
  if (session_) session_->stop_tracing();
  session_.reset();
  if (backend_) in_backend([this] { backend_.reset(); });
  victim_ = 0;
  dead_ = false;
}

}  // namespace pcache
