// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/bell_file.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "control/bell_listener.h"
#include "control/folder_for_test.h"
#include "testing/shortage/failing_memory.h"

namespace pcache {
namespace {

using Side = Doorbell::Side;

class BellFileTest : public ::testing::Test {
 protected:
  BellFileTest() {
    std::ofstream(cache_) << "cache";
    EXPECT_EQ(setenv("PCACHE_RUNTIME_DIR", (folder_ / "run").c_str(), 1), 0);
  }
  ~BellFileTest() override { unsetenv("PCACHE_RUNTIME_DIR"); }
  static bool is_there(const std::string& path) { return access(path.c_str(), F_OK) == 0; }
  bool meet() {
    front_.say(Doorbell::Hint::kSegments, ++said_);
    return backend_.heard(Doorbell::Hint::kSegments) == said_;
  }

  const TempFolder folder_;
  const std::string cache_ = folder_ / "cache";
  Doorbell front_{Side::kFront}, backend_{Side::kBackend};
  uint64_t said_ = 0;
};

TEST_F(BellFileTest, TheSecondTakesWhatTheFirstHasMadeAndTheLastRemovesIt) {
  BellFile of_front(cache_, front_), of_backend(cache_, backend_);
  ASSERT_TRUE(of_front.keep().ok());
  const std::string path = of_front.path();
  struct stat st;
  ASSERT_EQ(stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode, S_IFREG | 0600u);
  EXPECT_FALSE(meet());
  ASSERT_TRUE(of_backend.keep().ok());
  EXPECT_EQ(of_backend.path(), path);
  EXPECT_TRUE(meet());
  of_front.leave();
  EXPECT_TRUE(is_there(path));
  ASSERT_TRUE(of_front.keep().ok());
  EXPECT_TRUE(meet());
  of_backend.leave();
  of_front.leave();
  EXPECT_FALSE(is_there(path));
}

TEST_F(BellFileTest, BothMeetAgainInTheNextOne) {
  BellFile of_front(cache_, front_), of_backend(cache_, backend_);
  ASSERT_TRUE(of_front.keep().ok() && of_backend.keep().ok());
  const std::string path = of_front.path();
  ASSERT_EQ(unlink(path.c_str()), 0);
  ASSERT_TRUE(of_backend.keep().ok() && of_front.keep().ok());
  EXPECT_TRUE(is_there(path) && meet());
  ASSERT_EQ(truncate(path.c_str(), 0), 0);
  ASSERT_TRUE(of_front.keep().ok() && of_backend.keep().ok());
  EXPECT_TRUE(meet());
  ASSERT_EQ(unlink(path.c_str()), 0);
  std::ofstream(path) << "garbage";
  ASSERT_TRUE(of_front.keep().ok() && of_backend.keep().ok());
  EXPECT_TRUE(meet());
}

// Root would store to what another user has put there.
TEST_F(BellFileTest, WhatHasAnotherNameIsRefused) {
  BellFile file(cache_, front_);
  ASSERT_TRUE(file.keep().ok());
  const std::string path = file.path(), other = folder_ / "other";
  file.leave();
  std::ofstream(other) << "other";
  ASSERT_EQ(link(other.c_str(), path.c_str()), 0);
  EXPECT_EQ(file.keep().error().code, EPERM);
  ASSERT_EQ(unlink(path.c_str()), 0);
  ASSERT_EQ(symlink(other.c_str(), path.c_str()), 0);
  EXPECT_EQ(file.keep().error().code, ELOOP);
  ASSERT_EQ(unlink(path.c_str()), 0);
  ASSERT_EQ(mkdir(path.c_str(), 0700), 0);
  EXPECT_FALSE(file.keep().ok());
  EXPECT_FALSE(meet());
  EXPECT_EQ(std::filesystem::file_size(other), 5u);
}

// Root looks into other users' folders, each of whom may put a link in the place of his.
TEST_F(BellFileTest, AFolderThatIsALinkIsNotLookedInto) {
  const std::string run = folder_ / "run", elsewhere = folder_ / "elsewhere";
  BellFile of_front(cache_, front_), of_backend(cache_, backend_);
  ASSERT_TRUE(of_front.keep().ok());
  const std::string name = name_in_folder(of_front.path());
  of_front.leave();
  ASSERT_EQ(mkdir(elsewhere.c_str(), 0700), 0);
  const std::string bell = elsewhere + "/" + name;
  std::ofstream(bell) << "a bell";
  std::filesystem::remove_all(run);
  ASSERT_EQ(symlink(elsewhere.c_str(), run.c_str()), 0);
  EXPECT_FALSE(of_backend.keep().ok());
  EXPECT_EQ(std::filesystem::file_size(bell), 6u) << "it was made as long as a bell's page";
  remove_bell_if_dead(run + "/" + name);
  EXPECT_TRUE(is_there(bell));
}

// What it has opened it removes, and nothing that stands at the same path now.
TEST_F(BellFileTest, AFolderThatIsReplacedByALinkLeadsNowhere) {
  const std::string run = folder_ / "run", moved = folder_ / "moved",
                    elsewhere = folder_ / "elsewhere";
  BellFile file(cache_, front_);
  ASSERT_TRUE(file.keep().ok());
  const std::string name = name_in_folder(file.path());
  ASSERT_EQ(rename(run.c_str(), moved.c_str()), 0);
  ASSERT_EQ(mkdir(elsewhere.c_str(), 0700), 0);
  ASSERT_EQ(link((moved + "/" + name).c_str(), (elsewhere + "/" + name).c_str()), 0);
  ASSERT_EQ(symlink(elsewhere.c_str(), run.c_str()), 0);
  file.leave();
  EXPECT_TRUE(is_there(elsewhere + "/" + name));
}

// It ends a process that has no memory, too.
TEST_F(BellFileTest, LeavingNeedsNoMemory) {
  BellFile file(cache_, front_);
  ASSERT_TRUE(file.keep().ok());
  const std::string path = file.path();
  {
    const FailingMemory failing(0);
    file.leave();
  }
  EXPECT_GT(allocations_failed(), 0u);
  EXPECT_FALSE(is_there(path));
}

TEST_F(BellFileTest, OnlyADeadOneIsRemoved) {
  BellFile file(cache_, front_);
  ASSERT_TRUE(file.keep().ok());
  remove_bell_if_dead(file.path());
  EXPECT_TRUE(is_there(file.path()));
  const std::string dead = folder_ / "run/1-1.bell";
  std::ofstream(dead) << "left";
  remove_bell_if_dead(dead);
  EXPECT_FALSE(is_there(dead));
}

// Else root would make files where another user wants them.
TEST_F(BellFileTest, TheLockOfAFolderIsMadeByItsOwnerAlone) {
  const std::string folder = folder_ / "a", link = folder_ / "link";
  ASSERT_EQ(mkdir(folder.c_str(), 0700), 0);
  ASSERT_EQ(symlink(folder.c_str(), link.c_str()), 0);
  EXPECT_FALSE(FolderLocked(link).locked());
  EXPECT_FALSE(is_there(folder + "/.lock"));
  if (geteuid() == 0) {
    ASSERT_EQ(chown(folder.c_str(), 1, 1), 0);
    EXPECT_FALSE(FolderLocked(folder).locked());
    EXPECT_FALSE(is_there(folder + "/.lock"));
    ASSERT_EQ(chown(folder.c_str(), 0, 0), 0);
  }
  EXPECT_TRUE(FolderLocked(folder).locked());
  EXPECT_TRUE(is_there(folder + "/.lock"));
}

// By nothing but the ring.
TEST_F(BellFileTest, AListenerTellsOfEachRing) {
  std::atomic<int> rung{0}, beats{0};
  auto listener =
      BellListener::start(cache_, front_, {.rung = [&] { rung++; }, .beats = [&] { beats++; }});
  ASSERT_TRUE(listener.ok());
  BellFile of_backend(cache_, backend_);
  ASSERT_TRUE(of_backend.keep().ok());
  const std::string path = of_backend.path();
  for (int n = 1; n <= 100; n++) {
    const int before = rung.load();
    front_.listen();
    backend_.ring();
    while (rung.load() == before) usleep(100);
  }
  EXPECT_EQ(backend_.rings(), 100u);
  EXPECT_GE(beats.load(), 1);
  EXPECT_NE(backend_.heard(Doorbell::Hint::kBeat), 0u);
  listener.value().reset();
  EXPECT_EQ(backend_.heard(Doorbell::Hint::kBeat), 0u);
  EXPECT_TRUE(is_there(path));
}

}  // namespace
}  // namespace pcache
