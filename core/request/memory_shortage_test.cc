// SPDX-License-Identifier: GPL-2.0-or-later
// Requests while memory is short: for every kind of request the N-th allocation fails, alone or
// with all that follow, for every N there is. Nothing is lost: no slot, no fill or its token, no
// place; what was begun ends, and no buffer is written to behind its request. Then all works.
#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <new>

#include "request/request_for_test.h"
#include "testing/shortage/failing_memory.h"

namespace pcache {
namespace {

constexpr uint64_t kPage = kPageBytes, kMiB = 1 << 20;

class MemoryShortage : public RequestTest, public ::testing::WithParamInterface<bool> {
 protected:
  static constexpr uint32_t kDepth = 4;

  struct Request {
    pcache_request request{};
    Bytes data;
    Queue* queue = nullptr;
    int submitted = -1;
    bool over = false;
  };

  void begin(uint32_t segments = 8) {
    drop_queues();
    RequestOptions options;
    options.data_crc = GetParam();
    options.segments = segments;
    start(options);
    image_->memory().set_recording(false);
    queue_ = make_queue(kDepth);
    other_ = make_queue(kDepth);
    requests_.clear();
  }
  void drop_queues() {
    other_.reset();
    queue_.reset();
  }
  void TearDown() override {
    drop_queues();
    RequestTest::TearDown();
  }

  Request& add(uint32_t op, uint64_t off, uint64_t len, uint32_t flags = 0, int value = 0xdd) {
    requests_.push_back(std::make_unique<Request>());
    Request& r = *requests_.back();
    r.data.assign(len, std::byte(value));
    r.request = {op, flags, off, len, len > 0 ? r.data.data() : nullptr, 0, 0, nullptr};
    r.queue = queue_.get();
    return r;
  }
  Request& add_read(uint64_t off, uint64_t len) { return add(PCACHE_OP_READ, off, len); }
  Request& add_write(uint64_t off, uint64_t len, uint32_t flags = 0) {
    return add(PCACHE_OP_WRITE, off, len, flags, 7);
  }

  // A batch of one.
  static void submit(Request& r) {
    pcache_request *one = &r.request, *done = nullptr;
    uint32_t done_count = 0;
    EXPECT_EQ(r.queue->submit_batch({&one, 1}, &done, &done_count), 1);
    r.submitted = static_cast<int>(done_count);
    r.over = r.submitted != 0;
  }
  void reap_from(Queue& queue) {
    pcache_request* done[8];
    int n = 0;
    try {
      n = queue.reap(done, 1, 8, 50'000'000);
    } catch (const std::bad_alloc&) {
    }
    for (int i = 0; i < n; i++)
      for (const auto& r : requests_)
        if (done[i] == &r->request) r->over = true;
  }
  // Submits all that were added and takes them out again. False: some never come.
  bool run() {
    for (const auto& r : requests_) submit(*r);
    if (between_) between_();
    for (int rounds = 0; rounds < 50; rounds++) {
      if (std::all_of(requests_.begin(), requests_.end(), [](auto& r) { return r->over; }))
        return true;
      for (Queue* queue : {queue_.get(), other_.get()})
        if (queue->in_flight() > 0) reap_from(*queue);
    }
    return false;
  }

  void expect_nothing_held() {
    for (Queue* queue : {queue_.get(), other_.get()}) {
      EXPECT_EQ(queue->in_flight(), 0u);
      EXPECT_EQ(queue->parked(), 0u);
      EXPECT_EQ(queue->free_fills(), Queue::fills_for(kDepth));
    }
    for (uint64_t off = 0; off < 4 * kRangeBytes; off += kRangeBytes) {
      EXPECT_EQ(mapped(off, kRangeBytes).find('f'), std::string::npos) << off;
      Stripe& stripe = stripes_->of(off);
      StripeLock lock(stripe);
      EXPECT_EQ(stripe.fills.size(), 0u);
    }
  }
  // The same requests, with memory: all of them succeed, and reads are what was written or is on
  // the device.
  void expect_all_works() {
    for (const auto& r : requests_) {
      r->over = false;
      if (r->request.op == PCACHE_OP_READ)
        std::fill(r->data.begin(), r->data.end(), std::byte{0xee});
    }
    device_->release_all();
    ASSERT_TRUE(run());
    for (const auto& r : requests_) {
      ASSERT_EQ(r->request.result, 0);
      if (r->request.op == PCACHE_OP_READ) {
        EXPECT_TRUE(right(*r));
      }
      if (r->request.op == PCACHE_OP_WRITE) {
        EXPECT_EQ(read(r->request.off, r->request.len), r->data);
      }
    }
    expect_nothing_held();
  }
  // Each sector is the device's, or one of those that hold 1.
  bool right(const Request& r) {
    const std::string found = sectors(r.request.off, r.data);
    for (size_t i = 0; i < found.size(); i++) {
      const bool written = written_(r.request.off + i * kSectorBytes);
      if (found[i] != (written ? '1' : 'd')) return false;
    }
    return true;
  }
  // Each place that was handed out is named by a key, and no other reference is held.
  void expect_no_place_lost() {
    ASSERT_EQ(flush(), 0);
    const auto keys = logged_keys();
    drop_queues();
    state_->close_heads();
    for (const auto& key : keys)
      if (key.seg_gen == table_->generation(SegId{key.cache_seg_id}))
        table_->drop_refs(SegId{key.cache_seg_id});
    EXPECT_EQ(table_->counts().data, 0u);
  }

  // `prepare` brings a cache into the state that is wanted, with memory; then what it has added is
  // run without. Returns how many allocations that asked for when all succeeded.
  uint64_t for_every_shortage(const std::function<void()>& prepare) {
    for (const uint64_t fail : {uint64_t{1}, FailingMemory::kAll}) {
      for (uint64_t pass = 0;; pass++) {
        SCOPED_TRACE(::testing::Message() << "allocation " << pass << (fail == 1 ? "" : " and on"));
        begin();
        written_ = [](uint64_t) { return false; };
        between_ = nullptr;
        written_later_ = nullptr;
        prepare();
        bool came = false;
        {
          const FailingMemory failing(pass, fail);
          came = run();
        }
        const uint64_t failed = allocations_failed();
        between_ = nullptr;
        if (!came) {
          ADD_FAILURE() << "a request never ends";
          std::abort();  // nothing that could be destroyed
        }
        for (const auto& r : requests_) {
          EXPECT_THAT(r->request.result, ::testing::AnyOf(0, -ENOMEM));
          if (r->request.op == PCACHE_OP_READ && r->request.result == 0) {
            EXPECT_TRUE(right(*r));
          }
        }
        if (written_later_) written_ = written_later_;
        expect_nothing_held();
        expect_all_works();
        expect_no_place_lost();
        if (HasFailure() || failed == 0) break;
      }
    }
    return allocations_seen();
  }

  // Whether it was done at once.
  bool submit_at(uint32_t op, uint64_t off, uint64_t len) {
    Request& r = add(op, off, len, 0, 1);
    submit(r);
    return r.over;
  }
  // As reclaim does it: forgets all keys of segment 1, and frees it.
  void free_data() {
    ASSERT_TRUE(stripes_->close_all().ok());
    int64_t n = 0;
    for (const media::Key& key : logged_keys()) {
      StripeLock lock(stripes_->of(key.off));
      const CachePos pos{SegId{key.cache_seg_id}, key.cache_seg_off};
      index_->mark_clean({key.off, key.len}, pos);
      index_->remove({key.off, key.len}, pos);
      n++;
    }
    table_->drop_refs(SegId{1}, n);
  }

  std::unique_ptr<Queue> other_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::function<void()> between_;
  std::function<bool(uint64_t off)> written_;        // with 1, of what reads look at
  std::function<bool(uint64_t off)> written_later_;  // when they are read once more
};
INSTANTIATE_TEST_SUITE_P(, MemoryShortage, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "crc_on" : "crc_off"; });

TEST_P(MemoryShortage, ReadHits) {
  EXPECT_EQ(for_every_shortage([this] {
              ASSERT_EQ(write(0, filled(256 << 10, 1)), 0);
              written_ = [](uint64_t off) { return off < 256 << 10; };
              add_read(0, kPage);
              add_read(512, 64 << 10);
            }),
            0u);
}

TEST_P(MemoryShortage, ReadMisses) {
  EXPECT_LE(for_every_shortage([this] {
              add_read(0, kPage);
              add_read(kRangeBytes - kPage, 2 * kPage);
            }),
            8u)
      << "tables of fills grow, and nothing else asks";
}

TEST_P(MemoryShortage, AReadOfManyGaps) {
  for (const uint64_t step : {uint64_t{2} * kPage, uint64_t{1024}}) {
    EXPECT_LE(for_every_shortage([this, step] {
                for (uint64_t off = 0; off < 256 << 10; off += step)
                  ASSERT_EQ(write(off, filled(step / 2, 1)), 0);
                written_ = [step](uint64_t off) {
                  return off < 256 << 10 && off % step < step / 2;
                };
                add_read(0, 512 << 10);
              }),
              12u);
  }
}

// Of the same queue and another's, while the device holds what they wait for.
TEST_P(MemoryShortage, ReadsThatJoin) {
  EXPECT_LE(for_every_shortage([this] {
              for (uint64_t off = 0; off < 64 << 10; off += 2 * kPage)
                ASSERT_EQ(write(off, filled(kPage, 1)), 0);
              written_ = [](uint64_t off) { return off < 64 << 10 && off % (2 * kPage) < kPage; };
              device_->hold();
              add_read(0, 64 << 10);
              add_read(0, 128 << 10).queue = other_.get();
              add_read(32 << 10, 32 << 10);
              between_ = [this] {
                const PassAllocations pass;
                device_->release_all();
              };
            }),
            12u);
}

TEST_P(MemoryShortage, AFillThatWritesCutIntoRuns) {
  EXPECT_LE(for_every_shortage([this] {
              device_->hold();
              add_read(0, 64 << 10);
              written_later_ = [](uint64_t off) { return off < 64 << 10 && off % 1024 < 512; };
              between_ = [this] {
                const PassAllocations pass;
                for (uint64_t off = 0; off < 64 << 10; off += 1024)
                  EXPECT_EQ(write(off, filled(512, 1)), 0);
                device_->release_all();
              };
            }),
            8u);
}

TEST_P(MemoryShortage, Writes) {
  EXPECT_EQ(for_every_shortage([this] {
              add_write(0, kPage);
              add_write(kRangeBytes + 512, 512);
              add_write(2 * kRangeBytes - 64 * kPage, 128 * kPage);
              add_write(0, 6 * kMiB);
            }),
            0u);
}

TEST_P(MemoryShortage, Barriers) {
  EXPECT_EQ(for_every_shortage([this] {
              add_write(0, kPage);
              add(PCACHE_OP_FLUSH, 0, 0);
              add_write(kPage, kPage, PCACHE_REQ_FUA);
              add_write(2 * kPage, kMiB, PCACHE_REQ_FUA | PCACHE_REQ_PREFLUSH);
            }),
            0u);
}

// What memory there is for keys is open in other stripes: it is closed, and had again.
TEST_P(MemoryShortage, AWriteFindsTheKeysMemoryOfOthers) {
  begin();
  std::vector<KsetBuffer*> taken;
  for (uint32_t i = 0; i + 1 < KeyLog::kReserveBuffers; i++) taken.push_back(log_->get_buffer());
  for (uint64_t i = 0; i < 64; i++) add_write(i % 4 * kRangeBytes + i * kPage, kPage);
  // Nothing is in this one: a fill that has found all of its range written since.
  Stripe& empty = stripes_->of(3 * kRangeBytes);
  {
    StripeLock lock(empty);
    ASSERT_TRUE(stripes_->prepare(empty));
  }
  {
    const FailingMemory failing(0);
    ASSERT_TRUE(run());
  }
  for (const auto& r : requests_) EXPECT_EQ(r->request.result, 0);
  for (KsetBuffer* buffer : taken) log_->put_back(buffer);
  for (const auto& r : requests_) EXPECT_EQ(read(r->request.off, r->request.len), r->data);
  expect_no_place_lost();
}

// And where the log has no room for what is to be closed, the write waits as any other does.
TEST_P(MemoryShortage, AWriteWithoutMemoryInAFullCacheWaits) {
  begin(3);
  uint64_t written = 0;
  while (submit_at(PCACHE_OP_WRITE, written % 16 * kMiB, kMiB)) written++;
  EXPECT_EQ(queue_->in_flight(), 1u);
  {
    const FailingMemory failing(0);
    state_->deferred().run();
  }
  EXPECT_EQ(queue_->in_flight(), 1u) << "still waits";
  EXPECT_EQ(allocations_failed(), 0u);
  free_data();
  {
    const FailingMemory failing(0);
    state_->deferred().run();
    reap_from(*queue_);
  }
  EXPECT_EQ(queue_->in_flight(), 0u);
  EXPECT_EQ(requests_.back()->request.result, 0);
  expect_nothing_held();
}

TEST_P(MemoryShortage, MakingAQueue) {
  for (uint64_t pass = 0;; pass++) {
    begin();
    const size_t queues = set_.size();
    std::unique_ptr<Queue> made;
    {
      const FailingMemory failing(pass, 1);
      try {
        auto result = Queue::create(*state_, set_, 16);
        if (result) made = result.take();
      } catch (const std::bad_alloc&) {
      }
    }
    EXPECT_EQ(set_.size(), queues + (made ? 1 : 0));
    if (allocations_failed() == 0) {
      EXPECT_TRUE(made);
      return;
    }
  }
}

TEST_P(MemoryShortage, DestroyingAQueueWithRequestsOfEachKind) {
  begin(3);
  device_->hold();
  for (uint64_t off = 2 * kMiB; off < 3 * kMiB; off += 1024)
    ASSERT_EQ(write(off, filled(512, 1)), 0);
  Request& first = add_read(8 * kMiB, 64 << 10);
  first.queue = other_.get();
  submit(first);
  submit(add_read(8 * kMiB, 64 << 10));  // joins
  Request& parked = add_read(2 * kMiB, kMiB);
  submit(parked);
  EXPECT_EQ(queue_->parked(), 1u);
  EXPECT_EQ(queue_->free_fills(), 0u);
  for (uint64_t i = 0; submit_at(PCACHE_OP_WRITE, i % 2 * kMiB + 16 * kMiB, kMiB);) i++;
  EXPECT_EQ(queue_->in_flight(), 3u);
  device_->release_all();
  {
    const FailingMemory failing(0);
    queue_.reset();
  }
  EXPECT_EQ(parked.request.result, -ECANCELED);
  EXPECT_EQ(requests_.back()->request.result, -ECANCELED);
  reap_from(*other_);
  EXPECT_EQ(first.request.result, 0);
  EXPECT_TRUE(first.over);
  queue_ = make_queue(kDepth);
  expect_nothing_held();
}

// More gaps than a table holds: they are read, each for itself.
TEST_P(MemoryShortage, AFullTableOfFills) {
  begin();
  for (uint64_t off = 0; off < 64 << 10; off += 1024) ASSERT_EQ(write(off, filled(512, 1)), 0);
  written_ = [](uint64_t off) { return off < 64 << 10 && off % 1024 < 512; };
  {
    Stripe& stripe = stripes_->of(0);
    StripeLock lock(stripe);
    stripe.fills = FillTable(0, 3);
  }
  device_->hold();
  add_read(0, 48 << 10);
  add_read(0, 48 << 10).queue = other_.get();
  between_ = [this] { device_->release_all(); };
  ASSERT_TRUE(run());
  for (const auto& r : requests_) EXPECT_TRUE(right(*r));
  EXPECT_EQ(mapped(0, 4096), "DCDCDCD.");
  EXPECT_EQ(state_->counters().fill_joins.load(), 3u);
  expect_nothing_held();
}

}  // namespace
}  // namespace pcache
