// SPDX-License-Identifier: GPL-2.0-or-later
// Opening while memory is short: the N-th allocation fails, and all later ones, for every N.
#include <signal.h>

#include <cstring>
#include <new>

#include "pmem/pmem_for_test.h"
#include "testing/shortage/failing_memory.h"

namespace pcache {
namespace {

template <typename Fixture>
class WithoutMemory : public Fixture {
 protected:
  // Calls `act` with each N, until no allocation fails.
  template <typename Act>
  void for_every_shortage(Act act) {
    uint64_t pass = 0;
    do {
      SCOPED_TRACE(::testing::Message() << "allocation " << pass);
      act(pass++);
    } while (allocations_failed() > 0 && !this->HasFailure());
    EXPECT_GT(pass, 1u);
  }
  // nullptr: there was no memory.
  std::unique_ptr<Pmem> open_short_of_memory(uint64_t pass, const PmemOptions& options) try {
    const Log silent;
    const FailingMemory failing(pass);
    auto pmem = Pmem::open(options, silent);
    return pmem.ok() ? pmem.take() : nullptr;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
};
using PmemFileWithoutMemory = WithoutMemory<PmemFile>;
using PmemInMemoryWithoutMemory = WithoutMemory<PmemInMemory>;

TEST_F(PmemFileWithoutMemory, AFileThatWasMadeIsGone) {
  const PmemOptions options = emulated(kMiB);
  for_every_shortage([&](uint64_t pass) {
    const bool opened = open_short_of_memory(pass, options) != nullptr;
    EXPECT_EQ(std::filesystem::exists(path_), opened);
  });
}

TEST_F(PmemFileWithoutMemory, AFileThatWasExtendedIsAsItWas) {
  make_file(kMiB);
  const PmemOptions options = emulated(2 * kMiB);
  for_every_shortage([&](uint64_t pass) {
    const bool opened = open_short_of_memory(pass, options) != nullptr;
    EXPECT_EQ(stat_file().st_size, static_cast<off_t>(opened ? 2 * kMiB : kMiB));
  });
}

// Prefaulting only helps: without it page faults make the pages. The caller keeps its signal mask.
TEST_F(PmemInMemoryWithoutMemory, PagesAreMadeBesideOrNot) {
  sigset_t before, after;
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &before), 0);
  for_every_shortage([&](uint64_t pass) {
    const auto pmem = open(emulated(kMiB)).take();
    bool thrown = false;
    try {
      const FailingMemory failing(pass);
      pmem->prefault_beside();
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    EXPECT_FALSE(thrown);
    ASSERT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &after), 0);
    for (int number = 1; number < NSIG; number++)
      EXPECT_EQ(sigismember(&after, number), sigismember(&before, number)) << number;
    ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
    EXPECT_TRUE(pmem->store(MediaOff{0}, "abc", 3));
  });
}

}  // namespace
}  // namespace pcache
