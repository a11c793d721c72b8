// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <future>

#include "base/forbid_for_test.h"

namespace pcache {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(SteppedExecutor, RunsWhatFallsDueInOrderOfTime) {
  SteppedExecutor executor;
  std::vector<std::string> ran;
  executor.every(milliseconds(3), [&] { ran.push_back("three"); });
  executor.every(milliseconds(2), [&] { ran.push_back("two"); });
  executor.advance(milliseconds(1));
  EXPECT_THAT(ran, IsEmpty());
  executor.advance(milliseconds(4));  // to 5: due at 2, 3, 4
  EXPECT_THAT(ran, ElementsAre("two", "three", "two"));
}

TEST(SteppedExecutor, WakeRunsAtTheNextAdvanceEvenByNothing) {
  SteppedExecutor executor;
  int ran = 0;
  const auto id = executor.every(hours(1), [&] { ran++; });
  executor.advance(milliseconds(0));
  EXPECT_EQ(ran, 0);
  executor.wake(id);
  executor.advance(milliseconds(0));
  EXPECT_EQ(ran, 1);
  executor.advance(milliseconds(1));
  EXPECT_EQ(ran, 1) << "woken once, it is due again after a whole interval";
}

TEST(SteppedExecutor, AWakeMayBeForLater) {
  SteppedExecutor executor;
  int ran = 0;
  const auto id = executor.every(milliseconds(1000), [&] { ran++; });
  executor.wake(id, milliseconds(100));
  executor.advance(milliseconds(99));
  EXPECT_EQ(ran, 0);
  executor.advance(milliseconds(1));
  EXPECT_EQ(ran, 1);
  executor.advance(milliseconds(999));
  EXPECT_EQ(ran, 1) << "a whole interval from then";
  executor.advance(milliseconds(1));
  EXPECT_EQ(ran, 2);
}

TEST(SteppedExecutor, OfTwoWakesTheEarlierCounts) {
  SteppedExecutor executor;
  int ran = 0;
  const auto id = executor.every(milliseconds(50), [&] { ran++; });
  executor.wake(id, milliseconds(10));
  executor.wake(id, milliseconds(30));
  executor.advance(milliseconds(10));
  EXPECT_EQ(ran, 1);
  executor.advance(milliseconds(49));
  EXPECT_EQ(ran, 1) << "the later one went into the earlier";
  executor.wake(id, milliseconds(1000));
  executor.advance(milliseconds(1));
  EXPECT_EQ(ran, 2) << "nor does a wake put off what is due anyway";
}

TEST(SteppedExecutor, ATaskMayWakeItself) {
  SteppedExecutor executor;
  std::vector<int64_t> at;
  Executor::Id id = 0;
  id = executor.every(hours(1), [&] {
    at.push_back(executor.now().count());
    if (at.size() < 3) executor.wake(id, milliseconds(10));
  });
  executor.wake(id);
  executor.advance(milliseconds(100));
  EXPECT_THAT(at, ElementsAre(0, 10, 20));
}

TEST(SteppedExecutor, NowIsWhatWasTurned) {
  SteppedExecutor executor;
  const milliseconds start = executor.now();
  std::vector<int64_t> seen;
  executor.every(milliseconds(7), [&] { seen.push_back((executor.now() - start).count()); });
  executor.advance(milliseconds(20));
  EXPECT_EQ(executor.now() - start, milliseconds(20));
  EXPECT_THAT(seen, ElementsAre(7, 14)) << "in a task it is when the task fell due";
}

TEST(SteppedExecutor, AWakeAfterStopDoesNothing) {
  SteppedExecutor executor;
  int ran = 0;
  const auto id = executor.every(milliseconds(1), [&] { ran++; });
  executor.stop();
  executor.wake(id);
  executor.wake(id, milliseconds(10));
  executor.advance(hours(1));
  EXPECT_EQ(ran, 0);
}

TEST(SteppedExecutor, ATaskMayAddTasks) {
  struct {
    SteppedExecutor executor;
    int added = 0, ran = 0;
  } state;
  // One pointer: small enough to live inside std::function, and so inside the executor's table.
  state.executor.every(hours(1), [s = &state] {
    while (s->added < 64) {
      s->executor.every(hours(1), [s] { s->ran++; });
      s->added++;
    }
  });
  state.executor.advance(hours(1));
  EXPECT_EQ(state.added, 64);
  state.executor.advance(hours(1));
  EXPECT_EQ(state.ran, 64);
}

TEST(SteppedExecutor, NothingRunsAfterStop) {
  SteppedExecutor executor;
  int ran = 0;
  executor.every(milliseconds(1), [&] { ran++; });
  executor.stop();
  executor.stop();
  executor.advance(hours(1));
  EXPECT_EQ(ran, 0);
}

TEST(ThreadExecutor, SaysThatThereIsNoThread) {
  std::thread([] {
    forbid_threads_in_this_thread();
    const auto executor = ThreadExecutor::create();
    ASSERT_FALSE(executor.ok());
    EXPECT_EQ(executor.error().code, EAGAIN);
    EXPECT_THAT(executor.error().text, HasSubstr("no thread for background work can be started"));
  }).join();
}

// If the signal of a fault is blocked the kernel ends the process, even if there is a handler.
TEST(ThreadExecutor, TakesSigbusWhateverItsMakerBlocks) {
  sigset_t all, before, seen;
  sigfillset(&all);
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &all, &before), 0);
  {
    ThreadExecutor executor;
    std::promise<void> looked;
    const auto id = executor.every(hours(1), [&] {
      pthread_sigmask(SIG_SETMASK, nullptr, &seen);
      looked.set_value();
    });
    executor.wake(id);
    looked.get_future().wait();
  }
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
  EXPECT_EQ(sigismember(&seen, SIGBUS), 0);
  for (const int other : {SIGTERM, SIGINT, SIGSEGV, SIGUSR1})
    EXPECT_EQ(sigismember(&seen, other), 1) << "not ours to take, " << other;
}

TEST(ThreadExecutor, RunsATaskAgainAndAgain) {
  ThreadExecutor executor;
  std::promise<void> third;
  int ran = 0;
  executor.every(milliseconds(1), [&] {
    if (++ran == 3) third.set_value();
  });
  third.get_future().wait();
  executor.stop();
  EXPECT_GE(ran, 3);
}

TEST(ThreadExecutor, WakeDoesNotWaitForTheInterval) {
  ThreadExecutor executor;
  std::promise<void> woken;
  int ran = 0;
  const auto id = executor.every(hours(1), [&] {
    if (++ran == 1) woken.set_value();
  });
  executor.wake(id);
  woken.get_future().wait();
  executor.stop();
  EXPECT_EQ(ran, 1);
}

TEST(ThreadExecutor, AWakeForLaterIsNotEarly) {
  ThreadExecutor executor;
  std::promise<milliseconds> woken;
  const auto id = executor.every(hours(1), [&] { woken.set_value(executor.now()); });
  const milliseconds before = executor.now();
  executor.wake(id, milliseconds(20));
  executor.wake(id, hours(2));
  EXPECT_GE(woken.get_future().get() - before, milliseconds(20));
}

TEST(ThreadExecutor, AWakeAfterStopDoesNothing) {
  ThreadExecutor executor;
  int ran = 0;
  const auto id = executor.every(hours(1), [&] { ran++; });
  executor.stop();
  executor.wake(id);
  executor.wake(id, milliseconds(1));
  EXPECT_EQ(ran, 0);
}

// A wake while the task runs makes it run once more.
TEST(ThreadExecutor, AWakeWhileItRunsIsNotLost) {
  ThreadExecutor executor;
  std::promise<void> again;
  Executor::Id id = 0;
  int ran = 0;
  id = executor.every(hours(1), [&] {
    if (++ran == 1)
      executor.wake(id);
    else
      again.set_value();
  });
  executor.wake(id);
  again.get_future().wait();
  executor.stop();
  EXPECT_EQ(ran, 2);
}

TEST(ThreadExecutor, TheClockOnlyGoesForward) {
  ThreadExecutor executor;
  milliseconds last = executor.now();
  for (int i = 0; i < 1000; i++) {
    const milliseconds now = executor.now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(ThreadExecutor, ATaskMayAddAndWakeTasks) {
  ThreadExecutor executor;
  std::promise<void> done;
  bool first = true;
  executor.every(milliseconds(1), [&] {
    if (!first) return;
    first = false;
    const auto id = executor.every(hours(1), [&] { done.set_value(); });
    executor.wake(id);
  });
  done.get_future().wait();
  executor.stop();  // before what the tasks refer to goes
}

TEST(ThreadExecutor, TasksNeverRunAtTheSameTime) {
  ThreadExecutor executor;
  int running = 0, most = 0, ran = 0;  // no lock: tsan watches
  std::promise<void> enough;
  for (int i = 0; i < 4; i++)
    executor.every(milliseconds(1), [&] {
      most = std::max(most, ++running);
      running--;
      if (++ran == 40) enough.set_value();
    });
  enough.get_future().wait();
  executor.stop();
  EXPECT_EQ(most, 1);
}

TEST(ThreadExecutor, NoTaskRunsAfterStop) {
  std::atomic<bool> stopped{false}, late{false};
  ThreadExecutor executor;
  std::promise<void> ran;
  std::atomic<bool> once{false};
  executor.every(milliseconds(1), [&] {
    if (stopped) late = true;
    if (!once.exchange(true)) ran.set_value();
  });
  ran.get_future().wait();
  executor.stop();
  stopped = true;
  executor.stop();
  executor.every(milliseconds(0), [&] { late = true; });
  EXPECT_FALSE(late);
}

}  // namespace
}  // namespace pcache
