// SPDX-License-Identifier: GPL-2.0-or-later
// A whole cache that keeps what is read: a hot set beside data that is written once, with threads,
// over a reopen, and over crashes while background work moves what stays.
#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <random>
#include <thread>

#include "cache/cache_for_test.h"
#include "testing/crash_states.h"
#include "testing/lent_device.h"

namespace pcache {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kPage = kPageBytes;

// What a write of this version leaves in a page; version 0 is the device's first content.
using PageBytes = std::array<uint64_t, kPage / sizeof(uint64_t)>;
PageBytes content(uint64_t page, uint32_t version) {
  PageBytes words;
  if (version == 0)
    memcpy(words.data(), MemoryDevice::pattern(page * kPage, kPage).data(), kPage);
  else
    words.fill(uint64_t{version} << 32 | page);
  return words;
}
// Nothing: it is no whole version of that page.
std::optional<uint32_t> version_of(uint64_t page, const PageBytes& words) {
  const auto version = static_cast<uint32_t>(words[0] >> 32);
  if (words == content(page, version)) return version;
  return words == content(page, 0) ? std::optional(0u) : std::nullopt;
}

// Completes a request in its queue.
int run(Queue& queue, uint32_t op, uint64_t off, uint64_t len, void* data, uint32_t flags = 0) {
  pcache_request request{op, flags, off, len, data, 0, 0, nullptr};
  pcache_request* done[1];
  if (queue.submit(&request) == 0) {
    EXPECT_EQ(queue.reap(done, 1, 1, -1), 1);
  }
  return request.result;
}
std::optional<uint32_t> read_version(Queue& queue, uint64_t page) {
  PageBytes words;
  EXPECT_EQ(run(queue, PCACHE_OP_READ, page * kPage, kPage, words.data()), 0);
  return version_of(page, words);
}

// The user's side: which versions of the pages were written. Each page has one writer at a time.
class Pages {
 public:
  explicit Pages(uint64_t count) : begun_(count), done_(count) {}

  uint64_t count() const { return begun_.size(); }
  uint32_t newest(uint64_t page) const { return done_[page]; }
  void write(Queue& queue, uint64_t first, uint64_t n, uint32_t flags = 0) {
    std::vector<PageBytes> data;
    for (uint64_t page = first; page < first + n; page++)
      data.push_back(content(page, ++begun_[page]));
    EXPECT_EQ(run(queue, PCACHE_OP_WRITE, first * kPage, n * kPage, data.data(), flags), 0);
    for (uint64_t page = first; page < first + n; page++) done_[page].store(begun_[page]);
  }
  // Beside its writer.
  void read(Queue& queue, uint64_t page) const {
    const uint32_t least = done_[page];
    const auto version = read_version(queue, page);
    ASSERT_TRUE(version) << "page " << page;
    EXPECT_GE(*version, least) << "page " << page;
    EXPECT_LE(*version, begun_[page].load()) << "page " << page;
  }
  void expect_newest(Queue& queue) const {
    for (uint64_t page = 0; page < count(); page++)
      ASSERT_EQ(read_version(queue, page), newest(page)) << "page " << page;
  }

 private:
  std::vector<std::atomic<uint32_t>> begun_, done_;
};

class CacheRetention : public CacheTest {
 protected:
  void SetUp() override { options_.policy = policy::PolicyKind::kAdaptive; }
  // Of a blank cache.
  void format(bool data_crc) {
    options_.data_crc = data_crc;
    memory_.poke(MediaOff{0}, Bytes(media::kSegmentsOff).data(), media::kSegmentsOff);
  }
  std::unique_ptr<Cache> attach_to(MemoryPmem& memory, std::unique_ptr<Executor> main,
                                   std::unique_ptr<Executor> writing = nullptr) {
    auto cache = Cache::attach({memory.make_pmem(), std::make_unique<LentDevice>(disk_),
                                std::move(main), std::move(writing)},
                               options_);
    EXPECT_TRUE(cache.ok()) << cache.error().text;
    return cache.ok() ? cache.take() : nullptr;
  }
  std::unique_ptr<Cache> attach_with_threads() {
    return attach_to(memory_, std::make_unique<ThreadExecutor>(),
                     std::make_unique<ThreadExecutor>());
  }

  MemoryDevice disk_{128 << 20};
};

// What adaptive goes by is made for what the cache keeps then.
TEST_F(CacheRetention, GcPercentCountsForAPolicyThatIsSetLater) {
  const auto limit_at = [&](int64_t attached, int64_t then) {
    format(false);
    options_.policy = policy::PolicyKind::kFifo;
    options_.gc_percent = attached;
    const auto cache = attach_to(memory_, std::make_unique<SteppedExecutor>());
    EXPECT_TRUE(cache->set_gc_percent(then).ok());
    EXPECT_TRUE(cache->set("policy", "adaptive").ok());
    return cache->retention().sample_limit();
  };
  const uint64_t small = limit_at(12, 12), large = limit_at(80, 80);
  EXPECT_NE(small, large);
  EXPECT_EQ(limit_at(80, 12), small);
  EXPECT_EQ(limit_at(12, 80), large);
}

// Threads that each write data of their own beside reads of one hot set. How often a hot page is
// read depends on what is written meanwhile, and not on time.
class HotReaders {
 public:
  static constexpr uint32_t kThreads = 3;
  static constexpr uint64_t kHot = 384, kCold = 24 * 1024, kCut = 16;  // pages
  static constexpr uint64_t kWritesOfARound = 96;                      // of each thread
  static constexpr uint64_t kBytesOfARound = kThreads * kWritesOfARound * kCut * kPage;

  HotReaders(Cache& cache, Pages& pages) : cache_(cache), pages_(pages) {
    const auto queue = cache_.create_queue(4).take();
    for (uint64_t page = 0; page < kHot; page++) pages_.read(*queue, page);
  }
  void run_round(uint64_t round) {
    std::vector<std::thread> threads;
    for (uint32_t thread = 0; thread < kThreads; thread++)
      threads.emplace_back([this, thread, round] { work(thread, round); });
    for (std::thread& thread : threads) thread.join();
  }
  uint64_t reads() const { return reads_; }
  uint64_t hits() const { return hits_; }

 private:
  // A hot page after each cold write: with all threads each page after 384 / 3 / 96 rounds.
  void work(uint32_t thread, uint64_t round) {
    const auto queue = cache_.create_queue(4).take(), of_hot = cache_.create_queue(4).take();
    std::mt19937_64 random(round * kThreads + thread);
    for (uint64_t i = 0; i < kWritesOfARound; i++) {
      const uint64_t cut = random() % (kCold / kCut / kThreads) * kThreads + thread;
      pages_.write(*queue, kHot + cut * kCut, kCut, random() % 16 == 0 ? PCACHE_REQ_FUA : 0);
      const uint64_t hot = (thread * kHot / kThreads + round * kWritesOfARound + i) % kHot;
      if (hot % 4 == thread && random() % 8 == 0)
        pages_.write(*queue, hot, 1);
      else
        pages_.read(*of_hot, hot);
      if (i % 8 == 0) pages_.read(*queue, kHot + random() % kCold);
    }
    reads_ += of_hot->counters().reads.load();
    hits_ += of_hot->counters().read_hits.load();
  }

  Cache& cache_;
  Pages& pages_;
  std::atomic<uint64_t> reads_ = 0, hits_ = 0;
};

// Several times what the cache keeps is written. Of a FIFO a third of the reads would miss.
TEST_F(CacheRetention, AHotSetStaysBesideManyWrites) {
  constexpr uint64_t kWritten = 3 * 6 * media::kSegmentBytes;
  options_.gc_percent = 22;  // 6 segments of 31
  memory_.set_recording(false);
  Pages pages(HotReaders::kHot + HotReaders::kCold);
  for (const bool data_crc : {false, true}) {
    format(data_crc);
    std::unique_ptr<Cache> cache = attach_with_threads();
    ASSERT_TRUE(cache);
    HotReaders readers(*cache, pages);
    for (uint64_t round = 0; round < kWritten / HotReaders::kBytesOfARound; round++) {
      readers.run_round(round);
      ASSERT_TRUE(cache->drain().ok());
    }
    EXPECT_GT(readers.hits(), readers.reads() * 17 / 20) << "of " << readers.reads();
    EXPECT_GT(cache->reclaim().kept()->moved_keys.load(), HotReaders::kHot);
    ASSERT_TRUE(cache->close().ok());
    cache = attach_with_threads();
    ASSERT_TRUE(cache);
    pages.expect_newest(*cache->create_queue(4).take());
    ASSERT_TRUE(cache->drain().ok());
    for (uint64_t page = 0; page < pages.count(); page++) {
      PageBytes words;
      memcpy(words.data(), disk_.peek(page * kPage, kPage).data(), kPage);
      ASSERT_EQ(version_of(page, words), pages.newest(page)) << "on the device, page " << page;
    }
  }
}

// All is durable when background work begins: whatever it leaves in a crash has just that.
TEST_F(CacheRetention, ACrashWhileWhatStaysIsMovedLosesNothing) {
  constexpr uint64_t kHot = 12, kCold = 48;  // pages
  options_.gc_percent = 4;                   // one segment: always reached
  options_.writeback_interval_ms = 8000;     // once in each round, in its middle
  std::mt19937_64 random(1);
  Pages pages(kHot + kCold);
  for (const bool data_crc : {false, true}) {
    format(data_crc);
    auto executor = std::make_unique<SteppedExecutor>();
    SteppedExecutor& clock = *executor;
    const auto cache = attach_to(memory_, std::move(executor));
    ASSERT_TRUE(cache);
    const auto queue = cache->create_queue(4).take();
    clock.advance(milliseconds(4000));
    const Counter& moved = cache->reclaim().kept()->moved_keys;
    int states = 0;
    for (int round = 0; round < 3; round++) {
      for (int i = 0; i < 16; i++) pages.write(*queue, kHot + random() % kCold, 1);
      pages.write(*queue, random() % kHot, 1);
      for (uint64_t hot = 0; hot < 2 * kHot; hot++) pages.read(*queue, hot % kHot);
      ASSERT_EQ(run(*queue, PCACHE_OP_FLUSH, 0, 0, nullptr), 0);
      memory_.checkpoint();
      const uint64_t moved_before = moved.load();
      for (int second = 0; second < 8; second++) clock.advance(milliseconds(1000));
      EXPECT_GE(moved.load(), moved_before + kHot) << "round " << round;
      for_each_crash_state(
          memory_.journal(),
          {.exhaustive_words = 4, .exhaustive_stores = 3, .samples = 2, .most_points = 12},
          [&](std::span<const KeptStore> kept, const std::string& what) {
            if (HasFailure()) return;
            SCOPED_TRACE(what);
            states++;
            const auto image = memory_.crash_image(kept);
            const auto again = attach_to(*image, std::make_unique<SteppedExecutor>());
            ASSERT_TRUE(again);
            pages.expect_newest(*again->create_queue(4).take());
          });
    }
    EXPECT_GT(states, 60);
    ASSERT_TRUE(cache->drain().ok());
  }
}

}  // namespace
}  // namespace pcache
