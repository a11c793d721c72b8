// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/schedules.h"

#include <algorithm>
#include <array>
#include <thread>

#include "prove/faults.h"

namespace pcache {

namespace {

using Milliseconds = std::chrono::milliseconds;

constexpr unsigned kThreads = 3;
constexpr unsigned kRequests = 60;  // of each thread
// All threads write here, each to sectors of its own, so that they share pages, ranges and fills. A
// part is in another range.
constexpr Extent kShared[] = {{0, 16384}, {kRangeBytes - 4096, 8192}};

std::vector<uint64_t> shared_sectors() {
  std::vector<uint64_t> sectors;
  for (const Extent& extent : kShared)
    for (uint64_t at = extent.off; at < extent.end(); at += kSectorBytes)
      sectors.push_back(at / kSectorBytes);
  return sectors;
}

unsigned owner_of(uint64_t sector) { return static_cast<unsigned>(sector / 2 % kThreads); }

// Yields, with a frequency that differs by seed.
class Yields {
 public:
  explicit Yields(uint64_t seed) : seed_(seed), one_in_(2 + seed % 7) {}
  void operator()() {
    thread_local uint64_t seed = 0;
    thread_local std::mt19937_64 random;
    if (seed != seed_)
      random.seed(seed_ + std::hash<std::thread::id>()(std::this_thread::get_id()));
    seed = seed_;
    if (random() % one_in_ == 0) std::this_thread::yield();
  }

 private:
  const uint64_t seed_, one_in_;
};

// The oracle for several threads: notes requests and their results.
class Witness {
 public:
  Witness(const Oracle& start, Trace& trace) : oracle_(start), trace_(trace) {}
  const Oracle& oracle() const { return oracle_; }

  VersionId begin_write(const Extent& extent) {
    std::lock_guard lock(mu_);
    return oracle_.begin_write(extent, time());
  }
  void end_write(VersionId version, bool durable) {
    std::lock_guard lock(mu_);
    oracle_.end_write(version, durable, time());
  }
  Oracle::Covered begin_flush() {
    std::lock_guard lock(mu_);
    return oracle_.covers();
  }
  void end_flush(Oracle::Covered covered) {
    std::lock_guard lock(mu_);
    oracle_.end_flush(covered, time());
  }
  VersionId newest(uint64_t sector) {
    std::lock_guard lock(mu_);
    return oracle_.newest(sector);
  }

 private:
  Oracle::Time time() {
    trace_.add(TraceEvent::Kind::kMark);
    return static_cast<Oracle::Time>(trace_.now());
  }
  std::mutex mu_;
  Oracle oracle_;
  Trace& trace_;
};

// One user. `wrong` says what it has found wrong.
class User {
 public:
  User(Cache& cache, Witness& witness, unsigned number, uint64_t seed)
      : witness_(witness),
        number_(number),
        random_(seed * 31 + number),
        sectors_(shared_sectors()),
        queue_(cache.create_queue(8).take()) {}

  void run() {
    for (unsigned i = 0; i < kRequests && wrong.empty(); i++) switch (random_() % 8) {
        case 0:
        case 1:
        case 2:
          write(0);
          break;
        case 3:
          write(PCACHE_REQ_FUA);
          break;
        case 4:
          flush();
          break;
        default:
          read();
      }
    queue_.reset();
  }

  std::string wrong;

 private:
  int request(pcache_request request) {
    pcache_request* done[1];
    if (queue_->submit(&request) == 0) PCACHE_CHECK(queue_->reap(done, 1, 1, -1) == 1);
    return request.result;
  }
  void write(uint32_t flags) {
    uint64_t sector;
    do {
      sector = sectors_[random_() % sectors_.size()];
    } while (owner_of(sector) != number_);
    const Extent extent{sector * kSectorBytes, kSectorBytes};
    const VersionId version = witness_.begin_write(extent);
    auto data = Oracle::content(version, extent.off, extent.len);
    const int result =
        request({PCACHE_OP_WRITE, flags, extent.off, extent.len, data.data(), 0, 0, nullptr});
    if (result != 0) return note("lost: a write failed: " + std::to_string(result));
    witness_.end_write(version, flags & PCACHE_REQ_FUA);
  }
  void flush() {
    const auto covered = witness_.begin_flush();
    const int result = request({PCACHE_OP_FLUSH, 0, 0, 0, nullptr, 0, 0, nullptr});
    if (result != 0) return note("lost: a flush failed: " + std::to_string(result));
    witness_.end_flush(covered);
  }
  // Its own sectors must have the newest version, the others none older than it saw before.
  void read() {
    const Extent& extent = kShared[random_() % std::size(kShared)];
    std::vector<std::byte> data(extent.len);
    const int result =
        request({PCACHE_OP_READ, 0, extent.off, extent.len, data.data(), 0, 0, nullptr});
    if (result != 0) return note("lost: a read failed: " + std::to_string(result));
    for (uint64_t at = 0; at < extent.len; at += kSectorBytes) {
      const uint64_t sector = (extent.off + at) / kSectorBytes;
      const auto version = Oracle::version_of(sector, data.data() + at);
      const std::string where = "sector " + std::to_string(sector);
      if (!version) return note("lost: " + where + " is no whole version");
      if (owner_of(sector) == number_ && *version != witness_.newest(sector))
        return note("resurrected: " + where + " reads as version " + std::to_string(*version) +
                    ", its only writer wrote " + std::to_string(witness_.newest(sector)));
      VersionId& seen = seen_[sector];
      if (*version < seen)
        return note("resurrected: " + where + " reads as version " + std::to_string(*version) +
                    " after " + std::to_string(seen));
      seen = *version;
    }
  }
  void note(const std::string& text) { wrong = text; }

  Witness& witness_;
  const unsigned number_;
  std::mt19937_64 random_;
  const std::vector<uint64_t> sectors_;
  std::unique_ptr<Queue> queue_;
  std::map<uint64_t, VersionId> seen_;
};

// Releases the device's requests, late and out of order; sometimes it holds them for a while.
class Delays {
 public:
  Delays(MemoryDevice& device, uint64_t seed) : device_(device), random_(seed) {
    device_.hold();
    thread_ = std::thread([this] { run(); });
  }
  ~Delays() {
    over_ = true;
    thread_.join();
    device_.release_all();
  }
  uint64_t hangs() const { return hangs_; }

 private:
  void run() {
    while (!over_) {
      const size_t held = device_.held();
      if (held > 0 && random_() % 4 == 0) device_.release(random_() % held);
      if (random_() % 4096 == 0) {
        hangs_++;
        for (int i = 0; i < 1000 && !over_; i++) std::this_thread::yield();
      }
      std::this_thread::yield();
    }
  }
  MemoryDevice& device_;
  std::mt19937_64 random_;
  std::atomic<bool> over_{false};
  std::atomic<uint64_t> hangs_{0};
  std::thread thread_;
};

}  // namespace

void run_schedule(Base& base, uint64_t seed, Totals* totals) {
  UndoMemory& memory = base.pmem->memory();
  const UndoMemory::Mark start = memory.mark();
  Trace trace;
  Witness witness(base.oracle, trace);
  Yields yields(seed);
  Faults faults(seed, 5);
  // From at once to never: where a stripe is biased, another thread fences its writer's data.
  BiasedMutex::set_first_streak(std::array<uint32_t, 4>{0, 1, 3, UINT32_MAX - 1}[seed % 4]);
  std::string wrong;
  {
    auto backing = std::make_unique<MemoryDevice>(kProveLogicalBytes);
    backing->set_identity(prove_backing().text, prove_backing().unique);
    for (const auto& [sector, bytes] : base.device)
      backing->poke(sector * kSectorBytes, {bytes, kSectorBytes});
    MemoryDevice& device = *backing;
    // Only writes and flushes fail: a failed read could not be told from a wrong one.
    device.set_fate([&](BlockOp op, const Extent& extent) {
      return op == BlockOp::kRead ? MemoryDevice::Fate{} : faults.fate(op, extent);
    });
    device.set_on_change([&](const MemoryDevice::Change& change) { trace.add(change); });
    base.pmem->set_trace(&trace);
    base.pmem->set_interleave([&](uint32_t) { yields(); });
    Options options;
    options.data_crc = base.data_crc;
    options.flush_delay_ms = 1 + seed % 3;
    options.writeback_interval_ms = 1 + seed % 5;
    options.gc_percent = seed % 2 ? 0 : 70;
    options.log = Log([](LogLevel, const char*) {});
    auto attached =
        Cache::attach({base.pmem->make_pmem(), std::move(backing),
                       std::make_unique<ThreadExecutor>(), std::make_unique<ThreadExecutor>()},
                      options);
    if (!attached) throw Failure("refused: " + attached.error().text);
    const std::unique_ptr<Cache> cache = attached.take();
    {
      std::optional<Delays> delays(std::in_place, device, seed);
      std::vector<std::unique_ptr<User>> users;
      for (unsigned t = 0; t < kThreads; t++)
        users.push_back(std::make_unique<User>(*cache, witness, t, seed));
      std::vector<std::thread> threads;
      for (auto& user : users) threads.emplace_back([&] { user->run(); });
      for (std::thread& thread : threads) thread.join();
      for (const auto& user : users)
        if (wrong.empty()) wrong = user->wrong;
      for (const auto& [kind, n] : faults.counts()) totals->faults[kind] += n;
      totals->faults["hang"] += delays->hangs();
      faults.heal();
    }
    const Status drained = cache->drain();
    if (wrong.empty() && !drained) wrong = "lost: drain: " + drained.error().text;
    const Status closed = cache->close();
    if (wrong.empty() && !closed) wrong = "lost: close: " + closed.error().text;
    for (const uint64_t sector : shared_sectors()) {
      const auto bytes = device.peek(sector * kSectorBytes, kSectorBytes);
      const auto version = Oracle::version_of(sector, bytes.data());
      if (wrong.empty() && version != witness.newest(sector))
        wrong =
            "lost: drained, the device's sector " + std::to_string(sector) + " is not the newest";
    }
    device.set_on_change(nullptr);
    base.pmem->set_trace(nullptr);
    base.pmem->set_interleave(nullptr);
  }
  if (!wrong.empty()) throw Failure(wrong);
  if (wrong = missing_order(trace); !wrong.empty()) throw Failure("lost: " + wrong);
  memory.rollback(start);
  PowerLoss::Options options;
  options.seed = seed;
  options.most_points = 40;
  options.samples = 4;
  options.exhaustive_stores = 3;
  options.hash = base.hash;
  PowerLoss loss(memory, trace, base.device, options);
  std::vector<uint64_t> known = shared_sectors();
  for (const uint64_t sector : base.oracle.sectors()) known.push_back(sector);
  std::sort(known.begin(), known.end());
  Judge judge(base, known, seed, totals);
  loss.walk(0, [&](const CrashPoint& point) { judge.look(point, witness.oracle()); });
  totals->points += loss.points();
  totals->sequences++;
  memory.rollback(start);
}

}  // namespace pcache
