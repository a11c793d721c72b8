// SPDX-License-Identifier: GPL-2.0-or-later
// Hazard fill-over-newer: a fill never puts older data over newer. And a gap is fetched once. The
// device completes when the test says so.
#include "request/fill.h"

#include <gmock/gmock.h>

#include <thread>

#include "request/request_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

class FillRaces : public RequestTest, public ::testing::WithParamInterface<bool> {
 protected:
  void begin() {
    RequestOptions options;
    options.data_crc = GetParam();
    start(options);
    device_->hold();
  }
  void finish() {
    device_->release_all();
    reap(*queue_);
    EXPECT_EQ(queue_->in_flight(), 0u);
  }
  // The references of segment 1 are exactly the keys in the log that name it.
  void check_references() {
    ASSERT_EQ(flush(), 0);
    int64_t keys = 0;
    for (const auto& key : logged_keys()) keys += key.cache_seg_id == 1;
    queue_.reset();
    state_->close_heads();
    if (keys > 1) table_->drop_refs(SegId{1}, keys - 1);
    if (keys > 0) {
      EXPECT_EQ(table_->counts().data, 1u);
      table_->drop_refs(SegId{1});
    }
    EXPECT_EQ(table_->counts().data, 0u);
  }
};
INSTANTIATE_TEST_SUITE_P(, FillRaces, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "crc_on" : "crc_off"; });

TEST_P(FillRaces, AWriteBeforeTheFillCompletes) {
  const struct {
    const char* name;
    uint64_t off, len;
    const char *after, *marks;
  } rows[] = {
      {"whole", 0, 8192, "1111111111111111", "DDDDDDDDDDDDDDDD"},
      {"more than whole", 0, 12288, "1111111111111111", "DDDDDDDDDDDDDDDD"},
      {"front page", 0, 4096, "11111111dddddddd", "DDDDDDDDCCCCCCCC"},
      {"back page", 4096, 4096, "dddddddd11111111", "CCCCCCCCDDDDDDDD"},
      {"one sector", 1536, 512, "ddd1dddddddddddd", "CCCDCCCCCCCCCCCC"},
      {"across the pages", 3584, 1024, "ddddddd11ddddddd", "CCCCCCCDDCCCCCCC"},
      {"first sector", 0, 512, "1ddddddddddddddd", "DCCCCCCCCCCCCCCC"},
      {"last sector", 7680, 512, "ddddddddddddddd1", "CCCCCCCCCCCCCCCD"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    begin();
    const auto pending = submit_read(0, 8192);
    ASSERT_EQ(pending->submitted, 0);
    EXPECT_EQ(mapped(0, 8192), "ffffffffffffffff");
    ASSERT_EQ(write(row.off, filled(row.len, 1)), 0);
    finish();
    EXPECT_EQ(pending->request.result, 0);
    EXPECT_EQ(mapped(0, 8192), row.marks);
    EXPECT_EQ(read_sectors(0, 8192), row.after);
    EXPECT_THAT(device_->reads(), SizeIs(1));
    check_references();
  }
}

TEST_P(FillRaces, SeveralWritesCutTheFillIntoRuns) {
  begin();
  const auto pending = submit_read(0, 8192);
  for (const uint64_t sector : {1, 4, 5, 9, 14}) ASSERT_EQ(write(sector * 512, filled(512, 2)), 0);
  finish();
  EXPECT_EQ(read_sectors(0, 8192), "d2dd22ddd2dddd2d");
  EXPECT_EQ(mapped(0, 8192), "CDCCDDCCCDCCCCDC");
  EXPECT_EQ(state_->counters().fill_bytes.load(), 8192u);
  EXPECT_EQ(state_->counters().fill_kept_bytes.load(), 11u * 512);
  check_references();
}

// The log must tell the same story: replayed, the later key wins.
TEST_P(FillRaces, TheLogHasTheWriteAndOnlyTheRunsOfTheFill) {
  begin();
  const auto pending = submit_read(0, 4096);
  ASSERT_EQ(write(1024, filled(512, 1)), 0);
  finish();
  ASSERT_EQ(flush(), 0);
  const auto keys = logged_keys();
  ASSERT_EQ(keys.size(), 3u);
  EXPECT_EQ(keys[0].flags, 0u);
  EXPECT_EQ(keys[1].off, 0u);
  EXPECT_EQ(keys[1].len, 1024u);
  EXPECT_EQ(keys[1].flags, media::kKeyClean);
  EXPECT_EQ(keys[2].off, 1536u);
  EXPECT_EQ(keys[2].len, 2560u);
  for (const auto& key : keys) {
    const std::byte* data =
        image_->memory().data() + table_->media({SegId{1}, key.cache_seg_off}).v;
    EXPECT_EQ(key.data_crc, GetParam() ? data_crc32c(data, key.len) : 0u);
  }
}

// Read, write, writeback and reclaim, read again: the first fill is old by then.
TEST_P(FillRaces, AnOldFillDoesNotInstallIntoTheGapOfANewOne) {
  for (const bool old_first : {true, false}) {
    SCOPED_TRACE(old_first);
    begin();
    const auto old_read = submit_read(0, 4096);
    ASSERT_EQ(write(0, filled(4096, 3)), 0);
    device_->poke(0, filled(4096, 3));  // written back ...
    forget({0, 4096});                  // ... and reclaimed
    const auto new_read = submit_read(0, 4096);
    ASSERT_EQ(new_read->submitted, 0);
    ASSERT_THAT(device_->reads(), SizeIs(2));
    device_->release(old_first ? 0 : 1);
    reap(*queue_);
    if (old_first) {
      EXPECT_EQ(mapped(0, 4096), "ffffffff");
    }
    finish();
    EXPECT_EQ(sectors(0, new_read->data), "33333333");
    EXPECT_EQ(read_sectors(0, 4096), "33333333");
    EXPECT_EQ(mapped(0, 4096), "CCCCCCCC");
  }
}

// The same without a second read: the first fill finds no mark of its own.
TEST_P(FillRaces, AnOldFillDoesNotInstallIntoAnEmptyPlace) {
  begin();
  const auto pending = submit_read(0, 4096);
  ASSERT_EQ(write(0, filled(4096, 3)), 0);
  device_->poke(0, filled(4096, 3));
  forget({0, 4096});
  finish();
  EXPECT_EQ(mapped(0, 4096), "........");
  EXPECT_EQ(read_sectors(0, 4096), "33333333");
}

TEST_P(FillRaces, ASecondReaderJoins) {
  begin();
  const auto first = submit_read(0, 8192);
  const auto second = submit_read(2048, 4096);
  const auto longer = submit_read(4096, 8192);  // joins and fetches the rest
  EXPECT_THAT(device_->reads(), ElementsAre(Extent{0, 8192}, Extent{8192, 4096}));
  EXPECT_EQ(state_->counters().fill_joins.load(), 2u);
  device_->release(0);
  EXPECT_EQ(reap(*queue_), 2);
  EXPECT_EQ(sectors(0, first->data), "dddddddddddddddd");
  EXPECT_EQ(sectors(2048, second->data), "dddddddd");
  finish();
  EXPECT_EQ(sectors(4096, longer->data), "dddddddddddddddd");
  check_references();
}

// What was written and acknowledged before a read was submitted is what it sees.
TEST_P(FillRaces, AReaderThatJoinsAfterAWriteSeesTheWrite) {
  begin();
  const auto first = submit_read(0, 4096);
  ASSERT_EQ(write(1024, filled(512, 1)), 0);
  const auto second = submit_read(0, 4096);
  ASSERT_EQ(second->submitted, 0);
  EXPECT_THAT(device_->reads(), SizeIs(1));
  finish();
  EXPECT_EQ(second->request.result, 0);
  EXPECT_EQ(sectors(0, second->data), "dd1ddddd");
}

TEST_P(FillRaces, AnErrorReachesAllAndLeavesNoMarks) {
  begin();
  device_->set_error(ENODEV);
  const auto first = submit_read(0, 8192);
  const auto second = submit_read(4096, 4096);
  device_->set_error(0);
  const auto both = submit_read(4096, 8192);  // half of it joins the bad one
  device_->set_error(ENODEV);                 // who joined it for a part reads that again
  ASSERT_EQ(write(0, filled(512, 1)), 0);
  finish();
  EXPECT_EQ(first->request.result, -ENODEV);
  EXPECT_EQ(second->request.result, -ENODEV);
  EXPECT_EQ(both->request.result, -ENODEV);
  device_->set_error(0);
  EXPECT_EQ(mapped(0, 12288), "D...............CCCCCCCC");
  EXPECT_EQ(read_sectors(0, 8192), "1ddddddddddddddd");
}

TEST_P(FillRaces, AFullCacheLeavesNoMarks) {
  RequestOptions options;
  options.segments = 3;
  options.data_crc = GetParam();
  start(options);
  device_->hold();
  const auto pending = submit_read(8 << 20, 8192);
  const auto joined = submit_read(8 << 20, 4096);
  for (int i = 0; i < 15; i++) ASSERT_EQ(write(0, filled(1 << 20, 1)), 0);
  ASSERT_EQ(write(0, filled((1 << 20) - media::kSegDataOff, 1)), 0);  // to the segment's end
  finish();
  EXPECT_EQ(sectors(8 << 20, pending->data), "dddddddddddddddd");
  EXPECT_EQ(sectors(8 << 20, joined->data), "dddddddd");
  EXPECT_EQ(mapped(8 << 20, 8192), "................");
  EXPECT_EQ(state_->counters().fill_kept_bytes.load(), 0u);
}

TEST_P(FillRaces, CompletionsInAnyOrder) {
  begin();
  std::vector<std::unique_ptr<Read>> reads;
  for (uint64_t i = 0; i < 4; i++) reads.push_back(submit_read(i * 65536, 4096));
  for (const size_t index : {2u, 0u, 1u, 0u}) {  // of those still held: 2, 0, 3, 1
    device_->release(index);
    EXPECT_EQ(reap(*queue_), 1);
  }
  for (uint64_t i = 0; i < 4; i++) EXPECT_EQ(sectors(i * 65536, reads[i]->data), "dddddddd");
}

class Queues : public RequestTest {};

TEST_F(Queues, AsManyInFlightAsItsDepth) {
  start();
  device_->hold();
  const auto small = make_queue(2);
  const auto a = submit_read(*small, 0, 512), b = submit_read(*small, 4096, 512);
  EXPECT_EQ(small->in_flight(), 2u);
  const auto c = submit_read(*small, 8192, 512);
  EXPECT_EQ(c->submitted, -EAGAIN);
  device_->release_all();
  EXPECT_EQ(reap(*small), 2);
  EXPECT_EQ(small->in_flight(), 0u);
}

TEST_F(Queues, ReapTakesAtMostMaxAndWaitsForMin) {
  start();
  std::vector<std::unique_ptr<Read>> reads;
  for (uint64_t i = 0; i < 5; i++) reads.push_back(submit_read(i * 65536, 512));
  pcache_request* done[8];
  EXPECT_EQ(queue_->reap(done, 1, 2, -1), 2);
  EXPECT_EQ(queue_->reap(done, 100, 8, -1), 3) << "no more than are queued";
  EXPECT_EQ(queue_->reap(done, 1, 8, -1), 0) << "nothing queued: does not wait";
}

TEST_F(Queues, ReapGivesUpAtItsTimeout) {
  start();
  device_->hold();
  const auto pending = submit_read(0, 512);
  pcache_request* done[1];
  EXPECT_EQ(queue_->reap(done, 1, 1, 0), 0);
  EXPECT_EQ(queue_->reap(done, 1, 1, 1000), 0);
  device_->release_all();
  EXPECT_EQ(queue_->reap(done, 1, 1, -1), 1);
}

TEST_F(Queues, ATimeoutMayBeAsLongAsThereIs) {
  start();
  device_->hold();
  device_->set_release_on_wait(true);
  const auto pending = submit_read(0, 512);
  pcache_request* done[1];
  EXPECT_EQ(queue_->reap(done, 1, 1, INT64_MAX), 1);
}

// Two reads of one buffer, which nobody should make: what they leave there is anyone's guess, but
// what others wait for is not.
TEST_F(Queues, WhoSharesABufferSpoilsNobodyElsesRead) {
  start();
  device_->hold();
  const auto first = submit_read(0, 8192);
  Bytes& shared = first->data;
  pcache_request same{PCACHE_OP_READ, 0, 0, 8192, shared.data(), 1, 0, nullptr};
  pcache_request shifted{PCACHE_OP_READ, 0, 512, 7680, shared.data(), 1, 0, nullptr};
  const auto before = submit_read(0, 8192);
  ASSERT_EQ(queue_->submit(&shifted), 0);
  ASSERT_EQ(queue_->submit(&same), 0);
  const auto behind = submit_read(0, 8192);
  EXPECT_THAT(device_->reads(), SizeIs(1));
  device_->release_all();
  EXPECT_EQ(reap(*queue_), 5);
  EXPECT_EQ(sectors(0, before->data), "dddddddddddddddd");
  EXPECT_EQ(sectors(0, behind->data), "dddddddddddddddd");
  EXPECT_EQ(read_sectors(0, 8192), "dddddddddddddddd");
}

// A parked read goes on when its queue is polled by somebody else, too.
TEST_F(Queues, AParkedReadGoesOnWhenAnotherPollsItsQueue) {
  start();
  for (uint64_t off = 0; off < 1 << 20; off += 1024) ASSERT_EQ(write(off, filled(512, 1)), 0);
  device_->hold();
  const auto other = make_queue(4);
  const auto owner = submit_read(*other, 8 << 20, 512);
  const auto small = make_queue(4);
  const auto joined = submit_read(*small, 8 << 20, 512);  // so that it waits to be woken
  const auto parked = submit_read(*small, 0, 1 << 20);
  ASSERT_EQ(small->parked(), 1u);
  std::thread poller([&] {
    device_->release_all();
    set_.poll_all();
  });
  pcache_request* done[2];
  EXPECT_EQ(small->reap(done, 2, 2, -1), 2);
  poller.join();
  EXPECT_EQ(small->free_fills(), Queue::fills_for(4));
  std::string expected;
  for (int i = 0; i < 1024; i++) expected += "1d";
  EXPECT_EQ(sectors(0, parked->data), expected);
  EXPECT_EQ(reap(*other), 1);
}

// The owner of the fill never polls: the joined reader does it for both.
TEST_F(Queues, AJoinedReaderHelpsItself) {
  start();
  device_->hold();
  const auto other = make_queue();
  const auto owner = submit_read(*other, 0, 8192);
  const auto joined = submit_read(4096, 4096);
  ASSERT_EQ(joined->submitted, 0);
  EXPECT_EQ(state_->counters().fill_joins.load(), 1u);
  device_->release_all();
  pcache_request* done[1];
  ASSERT_EQ(queue_->reap(done, 1, 1, -1), 1);
  EXPECT_EQ(sectors(4096, joined->data), "dddddddd");
  EXPECT_EQ(other->in_flight(), 1u) << "not taken yet, but complete";
  EXPECT_EQ(reap(*other), 1);
  EXPECT_EQ(sectors(0, owner->data), "dddddddddddddddd");
}

TEST_F(Queues, AJoinedReaderIsWokenWhenAnotherThreadPolls) {
  start();
  device_->hold();
  const auto other = make_queue();
  const auto owner = submit_read(*other, 0, 8192);
  const auto joined = submit_read(4096, 4096);
  std::thread poller([&] {
    device_->release_all();
    pcache_request* done[1];
    EXPECT_EQ(other->reap(done, 1, 1, -1), 1);
  });
  pcache_request* done[1];
  EXPECT_EQ(queue_->reap(done, 1, 1, -1), 1);
  poller.join();
  EXPECT_EQ(sectors(4096, joined->data), "dddddddd");
}

TEST_F(Queues, DestroyedWithReadsInFlight) {
  start();
  device_->hold();
  device_->set_release_on_wait(true);
  auto other = make_queue();
  const auto first = submit_read(*other, 0, 4096);
  const auto second = submit_read(*other, 65536, 4096);
  const auto joined = submit_read(0, 4096);
  other.reset();  // waits for both
  EXPECT_EQ(set_.size(), 1u);
  EXPECT_EQ(reap(*queue_), 1);
  EXPECT_EQ(sectors(0, joined->data), "dddddddd");
  EXPECT_EQ(mapped(65536, 4096), "CCCCCCCC");
}

TEST_F(Queues, CountersOutliveTheirQueue) {
  start();
  {
    const auto other = make_queue();
    const auto miss = submit_read(*other, 0, 4096);
    reap(*other);
  }
  uint64_t reads = 0, misses = 0;
  set_.each_counters([&](const QueueCounters& counters) {
    reads += counters.reads;
    misses += counters.read_misses;
  });
  EXPECT_EQ(reads, 1u);
  EXPECT_EQ(misses, 1u);
}

// Threads on overlapping ranges: every sector read is the device's or one that somebody wrote
// whole.
TEST_F(Queues, ManyThreadsReadAndWriteTheSameRange) {
  start();
  image_->memory().set_recording(false);
  constexpr uint64_t kSpan = 64 << 10;
  const auto work = [&](unsigned seed) {
    const auto queue = make_queue(4);
    for (unsigned i = 0; i < 400; i++) {
      seed = seed * 1664525 + 1013904223;
      const uint64_t off = seed % (kSpan / 512) * 512;
      const uint64_t len = std::min<uint64_t>(512 * (1 + (seed >> 16) % 24), kSpan - off);
      if (seed >> 28 & 1) {
        const Bytes data = filled(len, 1 + seed % 9);
        pcache_request request{PCACHE_OP_WRITE,
                               i % 16 == 0 ? PCACHE_REQ_FUA : 0,
                               off,
                               len,
                               const_cast<std::byte*>(data.data()),
                               0,
                               0,
                               nullptr};
        ASSERT_EQ(queue->submit(&request), 1);
        ASSERT_EQ(request.result, 0);
        continue;
      }
      const auto read = submit_read(*queue, off, len);
      pcache_request* done[1];
      if (read->submitted == 0) {
        ASSERT_EQ(queue->reap(done, 1, 1, -1), 1);
      }
      ASSERT_EQ(read->request.result, 0);
      ASSERT_EQ(sectors(off, read->data).find('?'), std::string::npos);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned t = 1; t <= 3; t++) threads.emplace_back(work, t * 7919);
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace pcache
