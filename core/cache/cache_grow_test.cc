// SPDX-License-Identifier: GPL-2.0-or-later
// A backing device that grows while its cache is attached.
#include <random>
#include <thread>

#include "cache/cache_for_test.h"
#include "testing/crash_states.h"

namespace pcache {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kOld = 64 << 20, kNew = 160 << 20;  // by whole ranges of the index and more
constexpr uint64_t kPage = kPageBytes;

class BackingGrows : public CacheTest {
 protected:
  // What the identity block says; 0: there is none.
  static uint64_t recorded(MemoryPmem& memory) {
    const auto identity = load_identity(memory.pmem());
    EXPECT_TRUE(identity.ok()) << identity.error().text;
    return identity && identity.value() ? identity.value()->backing_bytes : 0;
  }
  // The device has another size from now on, and the cache is told.
  Result<Cache::Resized> resize_to(uint64_t bytes) {
    device_->set_real_size(bytes);
    return cache_->resize_backing();
  }
  void expect_no_resize(int code, const std::string& text) {
    const auto resized = cache_->resize_backing();
    ASSERT_FALSE(resized.ok());
    EXPECT_EQ(resized.error().code, code) << resized.error().text;
    EXPECT_THAT(resized.error().text, HasSubstr(text));
    EXPECT_EQ(cache_->logical_bytes(), kOld);
    EXPECT_EQ(write(kOld, kPage, 9), -ENXIO);
    EXPECT_EQ(write(kOld - kPage, kPage, 9), 0);
  }
};

TEST_F(BackingGrows, AllOfItIsUsedByQueuesThatAreOpen) {
  attach();
  ASSERT_EQ(write(kOld - kPage, kPage, 1), 0);
  device_->set_real_size(kNew);
  EXPECT_EQ(write(kOld, kPage, 2), -ENXIO) << "until it is told";
  EXPECT_EQ(cache_->logical_bytes(), kOld);
  const auto resized = cache_->resize_backing();
  ASSERT_TRUE(resized.ok()) << resized.error().text;
  EXPECT_EQ(resized.value().before, kOld);
  EXPECT_EQ(resized.value().now, kNew);
  EXPECT_EQ(cache_->logical_bytes(), kNew);
  EXPECT_EQ(recorded(memory_), kNew);
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("has grown from 67108864 to 167772160 bytes")));
  // A write over the old end, reads of what the device has there, of a range and of the last page.
  EXPECT_EQ(write(kOld - 512, kPage, 3, PCACHE_REQ_FUA), 0);
  EXPECT_EQ(value_at(kOld - 512, kPage), 3);
  EXPECT_EQ(value_at(kNew - kPage, kPage), -1);
  EXPECT_EQ(value_at(kOld + kRangeBytes, kRangeBytes), -1);
  EXPECT_EQ(write(kNew - kPage, kPage, 4, PCACHE_REQ_FUA), 0);
  EXPECT_EQ(write(kNew - 512, 1024, 5), -ENXIO);
  EXPECT_EQ(value_at(kNew - kPage, kPage), 4);
  ASSERT_TRUE(cache_->drain().ok());
  EXPECT_EQ(device_->peek(kNew - kPage, kPage), Bytes(kPage, std::byte{4}));
  EXPECT_EQ(device_->peek(kOld, 3584), Bytes(3584, std::byte{3}));
  detach();
  logical_bytes_ = kNew;
  lines_.lines.clear();
  attach();  // on a device with the old content, so what is dirty no longer is read from there
  EXPECT_EQ(cache_->logical_bytes(), kNew);
  EXPECT_THAT(lines_.lines, Not(Contains(HasSubstr("grown")))) << "it is known already";
  EXPECT_EQ(value_at(kNew - kPage, kPage), 4);
}

TEST_F(BackingGrows, WithDataCrcToo) {
  options_.data_crc = true;
  attach();
  ASSERT_TRUE(resize_to(kNew).ok());
  for (uint64_t off = kOld - kPage; off < kNew; off += kRangeBytes + kPage)
    ASSERT_EQ(write(off, kPage, static_cast<int>(off / kRangeBytes)), 0);
  for (uint64_t off = kOld - kPage; off < kNew; off += kRangeBytes + kPage)
    EXPECT_EQ(value_at(off, kPage), static_cast<int>(off / kRangeBytes));
}

TEST_F(BackingGrows, InStepsAndNotWhenThereIsNothing) {
  attach();
  for (const uint64_t bytes : {kOld + 512, kOld + 1024, kNew, kOld * 4}) {
    const auto resized = resize_to(bytes);
    ASSERT_TRUE(resized.ok()) << resized.error().text;
    EXPECT_EQ(write(bytes - 512, 512, 1), 0);
    EXPECT_EQ(write(bytes, 512, 1), -ENXIO);
    EXPECT_EQ(recorded(memory_), bytes);
  }
  memory_.checkpoint();
  const auto again = cache_->resize_backing();
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again.value().before, again.value().now);
  EXPECT_TRUE(memory_.journal().empty()) << "nothing is stored";
}

TEST_F(BackingGrows, ASmallerDeviceIsRefused) {
  attach();
  device_->set_real_size(kOld - 512);
  expect_no_resize(EINVAL, "has 67108352 bytes, and the cache uses 67108864 of it");
}

TEST_F(BackingGrows, WhatOutgrowsTheAddressSpaceIsRefused) {
  attach();
  device_->set_real_size(uint64_t{2} << 40);
  expect_no_resize(EFBIG, "attach the cache again");
  EXPECT_EQ(recorded(memory_), kOld);
}

TEST_F(BackingGrows, ReadonlyIsRefused) {
  prepare();
  options_.readonly = true;
  attach();
  device_->set_real_size(kNew);
  const auto resized = cache_->resize_backing();
  ASSERT_FALSE(resized.ok());
  EXPECT_EQ(resized.error().code, EROFS);
  EXPECT_EQ(cache_->logical_bytes(), kOld);
}

TEST_F(BackingGrows, AFrontIsRefused) {
  prepare();
  options_.front = true;
  attach();
  device_->set_real_size(kNew);
  expect_no_resize(EOPNOTSUPP, "role=front, and its backend has the disk");
}

TEST_F(BackingGrows, WithoutThePageOfTheIdentityItStaysAsItIs) {
  attach();
  memory_.make_bad(MediaOff{0});
  device_->set_real_size(kNew);
  expect_no_resize(EIO, "identity block at 0: media error");
  device_->set_real_size(kNew - kOld / 2);
  expect_no_resize(EIO, "identity block at 0: media error");
}

TEST_F(BackingGrows, WhatAPowerFailureMayUndoIsNotRecorded) {
  attach();
  device_->set_real_size(kNew);
  device_->set_sync_error(ENOSPC);
  expect_no_resize(ENOSPC, "fsync fails");
  EXPECT_EQ(recorded(memory_), kOld);
  device_->set_sync_error(0);
  ASSERT_TRUE(cache_->resize_backing().ok());
  EXPECT_EQ(recorded(memory_), kNew);
}

// Its error says that there may be no block now, and what writes one.
TEST_F(BackingGrows, WhatCannotBeRecordedIsNotUsed) {
  attach();
  device_->set_real_size(kNew);
  memory_.set_on_store([&](size_t) { memory_.make_bad(MediaOff{0}); });
  const auto resized = cache_->resize_backing();
  memory_.set_on_store(nullptr);
  ASSERT_FALSE(resized.ok());
  EXPECT_EQ(resized.error().code, EIO);
  EXPECT_THAT(resized.error().text, HasSubstr("goes on with 67108864 bytes"));
  EXPECT_THAT(resized.error().text, HasSubstr("pcachectl identity set records that"));
  expect_no_resize(EIO, "identity block at 0: media error");
}

// As an image of the kernel target that something else has its first page of.
TEST_F(BackingGrows, AFirstPageThatIsNotOursStays) {
  prepare();
  const Bytes foreign(kPage, std::byte{0x5a});
  memory_.poke(MediaOff{0}, foreign.data(), foreign.size());
  attach();
  ASSERT_TRUE(resize_to(kNew).ok());
  EXPECT_EQ(write(kNew - kPage, kPage, 1), 0);
  EXPECT_EQ(memcmp(memory_.data(), foreign.data(), foreign.size()), 0);
}

// Hazard grown-before-identity: until the block is durable with the new size no request goes there.
TEST_F(BackingGrows, NoRequestGoesBeyondWhatIsDurablyRecorded) {
  attach();
  auto other = cache_->create_queue(1).take();
  device_->set_real_size(kNew);
  memory_.checkpoint();
  int stores = 0;
  memory_.set_on_store([&](size_t) {
    stores++;
    ASSERT_EQ(cache_->logical_bytes(), kOld) << "before store " << stores;
    Bytes data(kPage);
    pcache_request request{PCACHE_OP_READ, 0, kOld, kPage, data.data(), 0, 0, nullptr};
    ASSERT_EQ(other->submit(&request), 1) << "not refused at once";
    EXPECT_EQ(request.result, -ENXIO) << "before store " << stores;
  });
  ASSERT_TRUE(cache_->resize_backing().ok());
  memory_.set_on_store(nullptr);
  EXPECT_GE(stores, 3);
  EXPECT_TRUE(all_durable(memory_.journal()));
  EXPECT_EQ(recorded(memory_), kNew);
}

// With what was acknowledged before, and by a device that has the new size already.
TEST_F(BackingGrows, ACrashLeavesACacheThatAttaches) {
  attach();
  ASSERT_EQ(write(kOld - kPage, kPage, 1, PCACHE_REQ_FUA), 0);
  memory_.checkpoint();
  ASSERT_TRUE(resize_to(kNew).ok());
  ASSERT_EQ(write(kNew - kPage, kPage, 2, PCACHE_REQ_FUA), 0);
  std::map<uint64_t, int> seen;
  int with_data = 0;
  for_each_crash_state(
      memory_.journal(), {.samples = 10},
      [&](std::span<const KeptStore> kept, const std::string& what) {
        const auto image = memory_.crash_image(kept);
        const uint64_t size = recorded(*image);
        ASSERT_TRUE(size == kOld || size == kNew) << what << ": " << size;
        seen[size]++;
        auto other = std::make_unique<MemoryDevice>(kNew);
        other->set_identity("another disk", unique_backing_);
        auto refused = Cache::attach(
            {image->make_pmem(), std::move(other), std::make_unique<SteppedExecutor>()}, {});
        ASSERT_FALSE(refused.ok()) << what;
        EXPECT_EQ(refused.error().code, EXDEV) << what << ": " << refused.error().text;
        auto backing = std::make_unique<MemoryDevice>(kNew);
        backing->set_identity(backing_, unique_backing_);
        auto left = Cache::attach(
            {image->make_pmem(), std::move(backing), std::make_unique<SteppedExecutor>()}, {});
        ASSERT_TRUE(left.ok()) << what << ": " << left.error().text;
        EXPECT_EQ(left.value()->logical_bytes(), kNew) << what;
        EXPECT_EQ(recorded(*image), kNew) << what;
        Piece piece;
        Index::Snapshot snapshot;
        ASSERT_EQ(left.value()->index().lookup({kOld - kPage, kPage}, {&piece, 1}, &snapshot), 1u);
        EXPECT_EQ(piece.kind, Piece::Kind::kHit) << what;
        ASSERT_EQ(left.value()->index().lookup({kNew - kPage, kPage}, {&piece, 1}, &snapshot), 1u);
        if (piece.kind != Piece::Kind::kHit) return;
        with_data++;
        EXPECT_EQ(size, kNew) << what << ": a key beyond what is recorded";
      });
  EXPECT_GT(seen[kOld], 0);
  EXPECT_GT(seen[kNew], 0);
  EXPECT_GT(with_data, 0);
}

// For tsan, and for the index's memory: threads that go to the end as they see it.
TEST_F(BackingGrows, UnderThreadsThatReadAndWriteToItsEnd) {
  constexpr int kThreads = 3;
  memory_.set_recording(false);
  attach();
  std::atomic<bool> ends{false};
  std::atomic<int> begun{0};
  std::atomic<int> beyond{0};
  std::atomic<int> stopped{0};
  const auto use = [&](int thread) {
    auto queue = cache_->create_queue(4).take();
    std::mt19937 random(static_cast<unsigned>(thread + 1));
    std::map<uint64_t, std::byte> written;
    Bytes data(kPage);
    bool was_beyond = false;
    const auto run = [&](uint32_t op, uint64_t page) {
      pcache_request request{op, 0, page * kPage, kPage, data.data(), 0, 0, nullptr};
      if (queue->submit(&request) == 0) {
        pcache_request* done[1];
        EXPECT_EQ(queue->reap(done, 1, 1, -1), 1);
      }
      EXPECT_EQ(request.result, 0) << "page " << page;
    };
    for (int n = 0; n < 400 || !ends; n++) {
      // Its own pages: those whose number leaves this rest.
      const uint64_t pages = cache_->logical_bytes() / kPage / kThreads;
      const uint64_t page = (n % 2 ? pages - 1 - random() % 64 : random() % pages) * kThreads +
                            static_cast<uint64_t>(thread);
      if (n % 3 == 0 && written.size() < 1000) {
        const auto value = static_cast<std::byte>(random());
        std::fill(data.begin(), data.end(), value);
        run(PCACHE_OP_WRITE, page);
        written[page] = value;
      } else {
        run(PCACHE_OP_READ, page);
        const auto at = written.find(page);
        ASSERT_EQ(data, at == written.end() ? MemoryDevice::pattern(page * kPage, kPage)
                                            : Bytes(kPage, at->second));
      }
      if (n == 100) begun++;
      if (page * kPage >= kOld && !was_beyond) {
        was_beyond = true;
        beyond++;
      }
      if (n > 400) std::this_thread::yield();
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++)
    threads.emplace_back([&, i] {
      use(i);
      stopped++;
    });
  // A thread stops before the end only where it fails.
  const auto wait_for_all = [&](const std::atomic<int>& count) {
    while (count < kThreads && stopped == 0) std::this_thread::yield();
  };
  wait_for_all(begun);
  for (uint64_t bytes = kOld; bytes <= 4 * kOld; bytes += kOld / 4) {
    const auto resized = resize_to(bytes);
    ASSERT_TRUE(resized.ok()) << resized.error().text;
    for (int n = 0; n < 100; n++) std::this_thread::yield();
  }
  wait_for_all(beyond);
  ends = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(beyond, kThreads);
  EXPECT_EQ(recorded(memory_), 4 * kOld);
}

}  // namespace
}  // namespace pcache
