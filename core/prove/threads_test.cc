// SPDX-License-Identifier: GPL-2.0-or-later
// What one thread stores and another makes reachable: each must have fenced its own. Among the real
// threads of schedules.h this shows by chance, here always.
#include <gtest/gtest.h>

#include <thread>

#include "prove/judge.h"

namespace pcache {
namespace {

class Threads : public ::testing::TestWithParam<bool> {
 protected:
  // `first` in a thread of its own, then a FLUSH in this one; and every crash of it.
  void run(const std::function<void(Session&)>& first) {
    const auto base = make_base("fresh", GetParam());
    UndoMemory& memory = base->pmem->memory();
    Trace trace;
    Oracle oracle;
    {
      const auto session =
          Session::attach(*base->pmem, {},
                          {.trace = &trace, .oracle = &oracle, .data_crc = GetParam()})
              .take();
      std::thread([&] { first(*session); }).join();
      ASSERT_EQ(session->flush(), 0);
      session->stop_tracing();
    }
    memory.rollback(0);
    Totals totals;
    Judge judge(*base, {0, 1, 2, 3, 4, 5, 6, 7}, 1, &totals);
    PowerLoss loss(memory, trace, {}, {});
    EXPECT_NO_THROW(loss.walk(0, [&](const CrashPoint& point) { judge.look(point, oracle); }));
    EXPECT_GT(totals.images, 50u);
  }
};

TEST_P(Threads, AWriteIsMadeDurableByAnother) {
  run([](Session& session) { EXPECT_EQ(session.write({0, 4096}), 0); });
}

TEST_P(Threads, AFillIsMadeDurableByAnother) {
  run([](Session& session) { EXPECT_EQ(session.read({0, 4096}, nullptr).error, 0); });
}

INSTANTIATE_TEST_SUITE_P(Crc, Threads, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "crc_on" : "crc_off"; });

}  // namespace
}  // namespace pcache
