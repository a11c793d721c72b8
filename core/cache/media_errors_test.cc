// SPDX-License-Identifier: GPL-2.0-or-later
// A cache whose device has bad pages, at each kind of place that attach, requests and background
// work store to.
#include "cache/media_errors.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <fstream>

#include "blockdev/temp_file_for_test.h"
#include "cache/cache_for_test.h"
#include "cache/status.h"

namespace pcache {
namespace {

using std::chrono::milliseconds;
using ::testing::Contains;
using ::testing::HasSubstr;

class BadPages : public CacheTest {
 protected:
  int lines_with(const std::string& text) const {
    return static_cast<int>(std::ranges::count_if(
        lines_.lines, [&](const auto& line) { return line.find(text) != line.npos; }));
  }
};

// cache_info stays as it is: it must not be stored over its newest replica.
class BadCacheInfo : public BadPages, public ::testing::WithParamInterface<int> {};

TEST_P(BadCacheInfo, TheCacheGoesOnWithTheOtherReplica) {
  const uint64_t off = media::kCacheInfoOff + GetParam() * media::kCacheInfoStride;
  prepare();
  attach();  // a format writes one replica alone
  detach();
  memory_.make_bad(MediaOff{off});
  for (int i = 1; i < 5; i++) {
    attach();
    EXPECT_EQ(write(0, 4096, i, PCACHE_REQ_FUA), 0);
    detach();
  }
  attach();
  EXPECT_EQ(value_at(0, 4096), 4);
  EXPECT_GE(lines_with("cache_info: media error in its replica at " + std::to_string(off)), 4);
  const Status set = cache_->set_gc_percent(33);
  ASSERT_FALSE(set.ok());
  EXPECT_EQ(set.error().code, EIO);
  EXPECT_EQ(cache_->gc_percent(), media::kGcPercentDefault);
}
INSTANTIATE_TEST_SUITE_P(Each, BadCacheInfo, ::testing::Values(0, 1));

TEST_F(BadPages, UnderTheIdentityBlock) {
  prepare();
  memory_.make_bad(MediaOff{0});
  expect_refused(EIO, "identity block at 0: media error");
  options_.force = true;
  attach();
  EXPECT_EQ(lines_with("attached all the same, and not written"), 1);
  EXPECT_EQ(write(0, 4096, 7, PCACHE_REQ_FUA), 0);
  EXPECT_EQ(value_at(0, 4096), 7);
}

TEST_F(BadPages, WhereABlankDeviceWouldBeFormatted) {
  memory_.make_bad(segment_off(3));
  const auto cache = try_attach();
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.error().code, EIO);
  EXPECT_THAT(cache.error().text,
              HasSubstr("media error in the page at " + std::to_string(segment_off(3).v)));
  EXPECT_EQ(memory_.peek<uint64_t>(MediaOff{media::kSuperblockOff + 8}), 0u) << "still blank";
}

// Nothing on media says that a segment is retired: the next attach meets the page again.
TEST_F(BadPages, OfAFreeSegmentAreFoundInEachAttach) {
  prepare();
  for (const uint32_t seg : {1u, 2u, 20u}) memory_.make_bad(segment_data_off(seg) + (1 << 20));
  int value = 0;
  for (int round = 0; round < 2; round++) {
    attach();
    for (int i = 0; i < 700; i++) {
      value = i / 64 % 100 + 1 + round;
      ASSERT_EQ(write_through(static_cast<uint64_t>(i) % 64 << 20, 1 << 20, value), 0) << i;
    }
    EXPECT_EQ(cache_->segments().counts().retired, 3u);
    EXPECT_THAT(status_json(*cache_), HasSubstr("\"retired\": 3"));
    for (uint64_t at = 0; at < 59; at++) EXPECT_EQ(value_at(at << 20, 1 << 20), value);
    detach();
  }
  EXPECT_EQ(lines_with("takes no more data"), 6) << "each once in an attach";
}

TEST_F(BadPages, UnderAGenerationTheSegmentKeepsItsData) {
  prepare();
  attach();
  ASSERT_EQ(write(0, 1 << 20, 7, PCACHE_REQ_FUA), 0);
  detach();
  for (const uint32_t seg : {1u, 5u}) memory_.make_bad(segment_gen_place(seg).base);
  attach();
  EXPECT_EQ(cache_->segments().counts().retired, 2u);
  EXPECT_EQ(value_at(0, 1 << 20), 7);
  for (int i = 0; i < 700; i++)
    ASSERT_EQ(write_through(static_cast<uint64_t>(i) % 64 << 20, 1 << 20, 8), 0) << i;
  EXPECT_EQ(cache_->segments().counts().retired, 2u);
  detach();
  attach();
  EXPECT_EQ(value_at(0, 1 << 20), 8);
}

TEST_F(BadPages, UnderTheTailsWhatIsDirtyStillReachesTheDevice) {
  prepare();
  attach();
  memory_.make_bad(MediaOff{media::kCacheCtrlOff});
  ASSERT_EQ(write(0, 4 << 20, 7, PCACHE_REQ_FUA), 0);
  const Status drained = cache_->drain();
  ASSERT_FALSE(drained.ok());
  EXPECT_EQ(drained.error().code, EIO);
  EXPECT_EQ(device_->peek(0, 4 << 20), Bytes(4 << 20, std::byte{7}));
  int failed = 0;
  for (int i = 0; i < 600; i++) {
    const int result = write_through(static_cast<uint64_t>(i) % 64 << 20, 1 << 20, 8);
    EXPECT_TRUE(result == 0 || result == -EIO) << result;
    failed += result != 0;
  }
  EXPECT_GT(failed, 0) << "no space comes free";
  EXPECT_EQ(lines_with("says where the log begins"), 2) << "writeback and reclaim, each once";
}

TEST_F(BadPages, UnderTheHeadOfTheLogAtAttach) {
  prepare();
  attach();
  ASSERT_EQ(write(0, 4096, 7, PCACHE_REQ_FUA), 0);
  const CachePos head = cache_->log().head();
  const MediaOff at = cache_->segments().media(head);
  detach();
  memory_.make_bad(at);
  expect_refused(EIO, "media error");
}

// The page can be read, and not be stored to.
TEST_F(BadPages, UnderTheHeadOfTheLogOnceItWasReplayed) {
  prepare();
  attach();
  ASSERT_EQ(write(0, 4096, 7, PCACHE_REQ_FUA), 0);
  const MediaOff head = cache_->segments().media(cache_->log().head());
  detach();
  lines_.lines.clear();
  memory_.set_on_store([&](size_t) { memory_.make_bad(head); });
  const auto cache = try_attach();
  memory_.set_on_store(nullptr);
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.error().code, EIO);
  EXPECT_THAT(cache.error().text, HasSubstr("media error: the log cannot go on"));
  EXPECT_EQ(lines_with("from now on"), 0) << "of a cache that is not attached";
}

// In a file, whose holes are filled before the log begins: a refusal makes them holes again.
class BadHeadInAFile : public ::testing::Test {
 protected:
  // Calls `on_open` when all is replayed and nothing is changed yet.
  struct Device : MemoryDevice {
    explicit Device(std::function<void()> on_open)
        : MemoryDevice(64 << 20), on_open_(std::move(on_open)) {}
    Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) override {
      on_open_();
      return MemoryDevice::open_queue(depth);
    }
    std::function<void()> on_open_;
  };
  Result<std::unique_ptr<Cache>> attach(bool sparse, std::function<void()> on_open) {
    PmemOptions pmem;
    pmem.path = file_.path();
    pmem.emulate = pmem.provisional = true;
    pmem.keep_sparse = sparse;
    return Cache::attach({Pmem::open(pmem, Log()).take(), std::make_unique<Device>(on_open),
                          std::make_unique<SteppedExecutor>()},
                         Options());
  }
  // As poison does: replaces the page in each mapping of the file.
  void make_bad(uint64_t off) {
    const int empty = memfd_create("bad", MFD_CLOEXEC);
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      uint64_t begin, end, first;
      if (!line.ends_with(file_.path()) ||
          sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64, &begin, &end, &first) != 3 ||
          off < first || off - first >= end - begin)
        continue;
      void* const page = reinterpret_cast<void*>(begin + (off - first) / kPageBytes * kPageBytes);
      EXPECT_EQ(mmap(page, kPageBytes, PROT_READ, MAP_SHARED | MAP_FIXED, empty, 0), page);
    }
    close(empty);
  }
  int64_t blocks() const {
    struct stat st = {};
    EXPECT_EQ(stat(file_.path().c_str(), &st), 0);
    return st.st_blocks;
  }

  TempFile file_{media::kMinDeviceBytes};
};

TEST_F(BadHeadInAFile, TheFileIsAsItWas) {
  MediaOff head;
  {
    const auto cache = attach(true, [] {}).take();
    head = cache->segments().media(cache->log().head());
  }
  const int64_t before = blocks();
  ASSERT_LT(before * 512, static_cast<int64_t>(media::kMinDeviceBytes)) << "it has holes";
  const auto cache = attach(false, [&] { make_bad(head.v); });
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.error().code, EIO);
  // A file system may need some more blocks to note the holes.
  EXPECT_LE(blocks(), before + 256);
}

// The log fails at its head; what is in the log is saved.
TEST_F(BadPages, UnderTheHeadOfTheLog) {
  prepare();
  attach();
  ASSERT_EQ(write(0, 4096, 7, PCACHE_REQ_FUA), 0);
  memory_.make_bad(cache_->segments().media(cache_->log().head()));
  EXPECT_EQ(write_through(4096, 4096, 8, PCACHE_REQ_FUA), -EIO);
  EXPECT_EQ(write_through(8192, 4096, 8), -EIO);
  EXPECT_EQ(value_at(8192, 4096), -1) << "reads go on";
  EXPECT_EQ(lines_with("the log cannot go on"), 1);
  EXPECT_EQ(cache_->drain().error().code, EIO);
}

// Dirty data that cannot be read keeps all segments that bad pages have left.
TEST_F(BadPages, NoWriteWaitsForWhatCanNeverBe) {
  prepare();
  attach();
  for (uint64_t i = 0; i < 60; i++) ASSERT_EQ(write_through(i << 20, 1 << 20, 1), 0);
  for (uint32_t seg = 1; seg < 31; seg++)
    for (uint64_t off = 0; off < media::kSegDataBytes; off += 256 << 10)
      memory_.make_bad(segment_data_off(seg) + off);
  int failed = 0;
  for (int i = 0; i < 200; i++) failed += write_through(0, 1 << 20, 2) == -EIO;
  EXPECT_GT(failed, 150);
}

}  // namespace
}  // namespace pcache
