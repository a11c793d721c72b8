// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/workload.h"

#include <algorithm>
#include <cstring>

namespace pcache {

namespace {

constexpr uint64_t kPage = kPageBytes;

struct WriteOperation {
  Operation name;
  Extent extent;
  uint32_t flags;
  uint32_t op = PCACHE_OP_WRITE;
};
constexpr WriteOperation kWrites[] = {
    {{"sector", "512 bytes in the first page"}, {512, 512}, 0},
    {{"page", "the first page"}, {0, kPage}, 0},
    {{"across", "8 KiB from the middle of the first page on"}, {2048, 2 * kPage}, 0},
    {{"boundary", "8 KiB across a 4 MiB boundary: two keys, two stripes"},
     {kRangeBytes - kPage, 2 * kPage},
     0},
    {{"fua", "1 KiB with FUA, over sector"}, {512, 1024}, PCACHE_REQ_FUA},
    {{"preflush", "the second page with PREFLUSH"}, {kPage, kPage}, PCACHE_REQ_PREFLUSH},
    {{"far", "512 bytes in the third range, with PREFLUSH and FUA"},
     {2 * uint64_t{kRangeBytes}, 512},
     PCACHE_REQ_PREFLUSH | PCACHE_REQ_FUA},
    {{"discard", "DISCARD of the first two pages"}, {0, 2 * kPage}, 0, PCACHE_OP_DISCARD},
    {{"zeroes", "WRITE_ZEROES of 8 KiB across a 4 MiB boundary: two keys of one place"},
     {kRangeBytes - kPage, 2 * kPage},
     0,
     PCACHE_OP_WRITE_ZEROES},
};

enum Other : size_t {
  kFlush,
  kRead,
  kMiss,
  kWriteback,
  kMove,
  kReclaim,
  kGcPercent,
  kThrough,
  kAround,
  kBack,
  kDrain,
  kReopen,
  kFormat,
  kLoseNothingPending,
  kLoseAllPending,
  kLoseSomePending,
};
constexpr Operation kOthers[] = {
    {"flush", "FLUSH"},
    {"read", "reads pages 0 to 3: hits, and misses that are filled"},
    {"miss", "reads 16 KiB that nobody wrote: a fill, CLEAN keys"},
    {"writeback", "the clock goes on by 5 s: old ksets are closed, a batch is written back"},
    {"move", "the clock goes on by 1 s: old ksets are closed; dirty data is moved in the log"},
    {"reclaim",
     "gc_percent 1, of few segments: what is written back leaves the cache, or is moved"},
    {"gc50", "gc_percent 50"},
    {"through", "cache_mode writethrough"},
    {"around", "cache_mode writearound"},
    {"back", "cache_mode writeback"},
    {"drain", "everything is written back"},
    {"reopen", "close and attach"},
    {"format", "formatted anew: the cache's data is given up; attach"},
    {"crash", "the power goes, all that was stored is there; attach"},
    {"crash-none", "the power goes, nothing that was pending is there; attach"},
    {"crash-some", "the power goes, some of what was pending is there; attach"},
};
static_assert(std::size(kOthers) == kLoseSomePending + 1);

constexpr Extent kMissed{2 << 20, 16384};

std::vector<uint64_t> known_sectors(const Oracle& oracle) {
  std::vector<uint64_t> sectors = oracle.sectors();
  const auto add = [&](const Extent& extent) {
    for (uint64_t at = extent.off; at < extent.end(); at += kSectorBytes)
      sectors.push_back(at / kSectorBytes);
  };
  for (const WriteOperation& write : kWrites) add(write.extent);
  add({0, 8 * kPage});  // which has data of an earlier life
  add(kMissed);
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  return sectors;
}

}  // namespace

std::span<const Operation> operations() {
  static const std::vector<Operation> kAll = [] {
    std::vector<Operation> all;
    for (const WriteOperation& write : kWrites) all.push_back(write.name);
    all.insert(all.end(), std::begin(kOthers), std::end(kOthers));
    return all;
  }();
  return kAll;
}

std::optional<size_t> find_operation(std::string_view name) {
  const auto all = operations();
  const auto at = std::find_if(all.begin(), all.end(), [&](auto& op) { return op.name == name; });
  if (at == all.end()) return std::nullopt;
  return static_cast<size_t>(at - all.begin());
}

Workload::Workload(Base& base, uint64_t seed, Totals* totals, Faults* faults)
    : base_(base),
      start_(base.pmem->memory().mark()),
      begun_(start_),
      random_(seed),
      totals_(*totals),
      oracle_(base.oracle),
      hash_(base.hash),
      device_(base.device),
      judge_(base, known_sectors(base.oracle), seed, totals),
      faults_(faults) {
  attach();
}

Workload::~Workload() {
  detach();
  if (!kept_) base_.pmem->memory().rollback(start_);
}

Sectors Workload::keep(std::vector<uint64_t>* sectors) {
  kept_ = true;
  detach();
  UndoMemory& memory = base_.pmem->memory();
  memory.rollback(begun_);
  PowerLoss loss(memory, trace_, device_, {});
  loss.walk(trace_.now() + 1, nullptr);
  *sectors = judge_.sectors();
  return loss.lose_power(PowerLoss::Survive::kNothing);
}

void Workload::detach() {
  if (session_) session_->stop_tracing();  // its close is no part of the workload
  session_.reset();
}

void Workload::attach() {
  Session::Options options;
  options.trace = &trace_;
  options.oracle = &oracle_;
  options.strict = base_.strict;
  options.data_crc = base_.data_crc;
  if (faults_)
    options.fate = [this](BlockOp op, const Extent& extent) { return faults_->fate(op, extent); };
  auto session = Session::attach(*base_.pmem, device_, options);
  if (!session) throw Failure("refused: " + session.error().text);
  session_ = session.take();
}

// Whether the device has failed since the operation began.
bool Workload::excused() { return faults_ && faults_->take_failed(); }

// Writes and flushes go to pmem: a failing device can only make them wait for space.
void Workload::expect_in_pmem(const std::string& what, int error) {
  if (faults_ && error == ETIMEDOUT) {
    const SegmentCounts segments = session_->cache().segments().counts();
    if (segments.free <= segments.log_reserve) return;
    throw Failure("lost: " + what + " waits for space, of which there is some");
  }
  if (error) throw Failure("lost: " + what + " failed: " + strerror(error));
}

void Workload::expect_done(const std::string& what, int error) {
  if (error && !excused()) throw Failure("lost: " + what + " failed: " + strerror(error));
}

void Workload::read(const Extent& extent) {
  Oracle::Found found;
  const Session::ReadResult result = session_->read(extent, &found);
  if (result.error && excused()) return;
  if (const std::string wrong = result.text(extent); !wrong.empty()) throw Failure(wrong);
  for (const auto& [sector, version] : found)
    if (!oracle_.may_read(sector, version))
      throw Failure("resurrected: a read of sector " + std::to_string(sector) + " gives version " +
                    std::to_string(version) + ", written was " +
                    std::to_string(oracle_.newest(sector)));
}

void Workload::run(size_t operation) {
  excused();  // forgets earlier failures
  if (operation < std::size(kWrites)) {
    const WriteOperation& write = kWrites[operation];
    const bool on_device = answers_of(session_->cache().mode()).acks_on_device;
    const int error = session_->write(write.extent, write.flags, write.op);
    if (error && on_device && error != ETIMEDOUT && excused()) return;
    return expect_in_pmem(write.name.name, error);
  }
  switch (operation - std::size(kWrites)) {
    case kFlush:
      return expect_in_pmem("flush", session_->flush());
    case kRead:
      return read({0, 4 * kPage});
    case kMiss:
      return read(kMissed);
    case kWriteback:
      session_->advance(1000);
      return session_->advance(5000);
    case kMove: {
      session_->advance(1000);
      const auto moved = session_->cache().move_step();
      return expect_done("move", moved ? 0 : moved.error().code);
    }
    case kReclaim:
      PCACHE_CHECK(session_->cache().set_gc_percent(1).ok());
      return session_->advance(0);
    case kGcPercent:
      PCACHE_CHECK(session_->cache().set_gc_percent(50).ok());
      return;
    case kThrough:
      return set_mode(CacheMode::kWritethrough);
    case kAround:
      return set_mode(CacheMode::kWritearound);
    case kBack:
      return set_mode(CacheMode::kWriteback);
    case kDrain: {
      const Status drained = session_->cache().drain();
      return expect_done("drain", drained ? 0 : drained.error().code);
    }
    case kReopen: {
      const Status closed = session_->close();
      expect_done("close", closed ? 0 : closed.error().code);
      Sectors now = session_->device_sectors();
      for (auto& [sector, bytes] : now) {
        device_bytes_.emplace_back(bytes, bytes + kSectorBytes);
        bytes = device_bytes_.back().data();
      }
      session_.reset();
      // The trace goes on over the attach, and begins with the device as it was.
      std::swap(device_, now);
      attach();
      std::swap(device_, now);
      return;
    }
    case kFormat:
      return format();
    case kLoseNothingPending:
      return lose_power(PowerLoss::Survive::kAll);
    case kLoseAllPending:
      return lose_power(PowerLoss::Survive::kNothing);
    case kLoseSomePending:
      return lose_power(PowerLoss::Survive::kSome);
    default:
      PCACHE_CHECK(!"no such operation");
  }
}

// What is dirty then goes to the device at once.
void Workload::set_mode(CacheMode mode) {
  PCACHE_CHECK(session_->cache().set_mode(mode).ok());
  session_->advance(0);
}

// Afterwards the data that only the cache had is gone; until then all of it is there, or none.
void Workload::format() {
  const Status closed = session_->close();
  expect_done("close", closed ? 0 : closed.error().code);
  lose_power(PowerLoss::Survive::kAll);
  detach();
  base_.pmem->memory().rollback(begun_);
  trace_.clear();
  Oracle::Found before = judge_.recover(device_), after;
  if (const std::string wrong = read_device(device_, judge_.sectors(), &after); !wrong.empty())
    throw Failure(wrong);
  base_.pmem->set_trace(&trace_);
  FormatOptions options;
  options.data_crc = base_.data_crc;
  const auto pmem = base_.pmem->make_pmem();
  PCACHE_CHECK(format_device(*pmem, options).ok());
  std::vector<Oracle::Time> fences;
  for (size_t i = 0; i < trace_.events().size(); i++)
    if (trace_.events()[i].kind == TraceEvent::Kind::kFence)
      fences.push_back(static_cast<Oracle::Time>(i));
  PCACHE_CHECK(erase_identity(*pmem).ok());
  base_.pmem->set_trace(nullptr);
  oracle_.collapse(after, 0);
  // The first fence is behind the mark of a format, the second behind the clearing of the old
  // magic. The last is behind the clearing of the mark, the one before it behind the new magic.
  oracle_.note_format(before, fences[1], fences[fences.size() - 2]);
  attach();
}

void Workload::lose_power(PowerLoss::Survive survive) {
  detach();
  UndoMemory& memory = base_.pmem->memory();
  memory.rollback(begun_);
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
  from_ = 0;
  begun_ = memory.mark();
  const Oracle::Found found = judge_.recover(device_);
  if (const std::string wrong = oracle_.judge(found, time); !wrong.empty()) throw Failure(wrong);
  oracle_.collapse(found, time);
  attach();
}

void Workload::heal() {
  if (faults_) faults_->heal();
  excused();
  session_->advance(20000);
  if (const Status drained = session_->cache().drain(); !drained)
    throw Failure("lost: drain of a device that works again: " + drained.error().text);
  Oracle::Found on_device;
  std::string wrong = read_device(session_->device_sectors(), judge_.sectors(), &on_device);
  for (const auto& [sector, version] : on_device)
    if (wrong.empty() && !oracle_.may_read(sector, version))
      wrong = "lost: drained, the device's sector " + std::to_string(sector) + " holds version " +
              std::to_string(version);
  if (!wrong.empty()) throw Failure(wrong);
  for (const Extent& extent : extents_of(judge_.sectors())) read(extent);
}

void Workload::examine(size_t most_points) {
  detach();
  if (const std::string wrong = missing_order(trace_); !wrong.empty())
    throw Failure("lost: " + wrong);
  UndoMemory& memory = base_.pmem->memory();
  memory.rollback(begun_);
  PowerLoss::Options options;
  options.most_points = most_points;
  options.seed = random_();
  options.device_lies = device_lies_;
  options.hash = hash_;
  PowerLoss loss(memory, trace_, device_, options);
  loss.walk(from_, [&](const CrashPoint& point) {
    const UndoMemory::Mark mark = memory.mark();
    try {
      judge_.look(point, oracle_);
    } catch (const Failure& failure) {
      if (!totals_.count_failures) throw;
      totals_.failures[failure.kind()]++;
      memory.rollback(mark);
    }
  });
  totals_.points += loss.points();
}

}  // namespace pcache
