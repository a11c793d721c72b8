// SPDX-License-Identifier: GPL-2.0-or-later
// Data that one thread stores and another makes reachable: the first must have fenced it, or the
// other makes the fence. schedules.h shows this only by chance, these tests always.
#include <gtest/gtest.h>

#include <thread>

#include "prove/judge.h"

namespace pcache {
namespace {

// data_crc, and whether a stripe becomes biased with the second write of a thread.
class Threads : public ::testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  void SetUp() override {
    BiasedMutex::set_first_streak(std::get<1>(GetParam()) ? 0 : UINT32_MAX - 1);
  }
  void TearDown() override { BiasedMutex::set_first_streak(BiasedMutex::kFirstStreak); }
  // Runs `first` in another thread, then a FLUSH in this one; and every crash of that.
  void run(const std::function<void(Session&)>& first) {
    const bool data_crc = std::get<0>(GetParam());
    const auto base = make_base("fresh", data_crc);
    UndoMemory& memory = base->pmem->memory();
    Trace trace;
    Oracle oracle;
    {
      const auto session =
          Session::attach(*base->pmem, {},
                          {.trace = &trace, .oracle = &oracle, .data_crc = data_crc})
              .take();
      std::thread([&] { first(*session); }).join();
      ASSERT_EQ(session->flush(), 0);
      session->stop_tracing();
    }
    memory.rollback(0);
    Totals totals;
    std::vector<uint64_t> sectors;
    for (const uint64_t first : {uint64_t{0}, uint64_t{kRangeBytes - 4096} / kSectorBytes})
      for (uint64_t i = 0; i < 16; i++) sectors.push_back(first + i);
    Judge judge(*base, sectors, 1, &totals);
    PowerLoss loss(memory, trace, {}, {});
    EXPECT_NO_THROW(loss.walk(0, [&](const CrashPoint& point) { judge.look(point, oracle); }));
    EXPECT_EQ(missing_order(trace), "");
    EXPECT_GT(totals.images, 50u);
  }
};

TEST_P(Threads, AWriteIsMadeDurableByAnother) {
  run([](Session& session) { EXPECT_EQ(session.write({0, 4096}), 0); });
}

TEST_P(Threads, AWriteOfSeveralKeysIsMadeDurableByAnother) {
  run([](Session& session) { EXPECT_EQ(session.write({kRangeBytes - 4096, 8192}), 0); });
}

// The first thread leaves out the fences, as the stripe is biased to it: another one makes them.
TEST_P(Threads, WritesOfAThreadThatHasTheStripeAreMadeDurableByAnother) {
  run([](Session& session) {
    for (uint64_t at : {0, 512, 1024}) EXPECT_EQ(session.write({at, 512}), 0);
  });
}

TEST_P(Threads, WritesOfSeveralInOneKsetAreMadeDurableByAnother) {
  run([](Session& session) {
    const auto some = [&session] {
      for (uint64_t at : {0, 512}) EXPECT_EQ(session.write({at, 512}), 0);
    };
    some();
    std::thread(some).join();
    EXPECT_EQ(session.write({1024, 512}), 0);
  });
}

// The thread that fills the kset commits it, with the other thread's keys in it.
TEST_P(Threads, AThreadThatFlushesItselfNeedsTheOthersDataToo) {
  run([](Session& session) {
    for (uint64_t at : {0, 512}) EXPECT_EQ(session.write({at, 512}), 0);
    std::thread([&session] {
      for (uint64_t at : {1024, 1536}) EXPECT_EQ(session.write({at, 512}), 0);
      EXPECT_EQ(session.write({2048, 512}, PCACHE_REQ_FUA), 0);
    }).join();
  });
}

TEST_P(Threads, AFillIsMadeDurableByAnother) {
  run([](Session& session) { EXPECT_EQ(session.read({0, 4096}, nullptr).error, 0); });
}

INSTANTIATE_TEST_SUITE_P(All, Threads, ::testing::Combine(::testing::Bool(), ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "crc_on" : "crc_off") +
                                  (std::get<1>(info.param) ? "_biased" : "_not_biased");
                         });

}  // namespace
}  // namespace pcache
