// SPDX-License-Identifier: GPL-2.0-or-later
// With programs that take the place of pcached; tests/test_backend_auto.py has it itself.
#include "control/backend_process.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <mutex>
#include <vector>

#include "control/folder_for_test.h"

namespace pcache {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class BackendProcessTest : public testing::Test {
 protected:
  BackendProcessTest() {
    setenv("PCACHE_RUNTIME_DIR", folder_.path().c_str(), 1);
    for (const char* name : {"cache", "disk"}) std::ofstream(folder_ / name) << name;
  }
  ~BackendProcessTest() override { unsetenv("PCACHE_RUNTIME_DIR"); }

  BackendProcess::Options options(const std::string& script) {
    const std::string program = folder_ / "program";
    std::ofstream(program) << "#!/bin/sh\n" << script;
    EXPECT_EQ(chmod(program.c_str(), 0755), 0);
    BackendProcess::Options options;
    options.program = program;
    options.cache_path = folder_ / "cache";
    options.disk_path = folder_ / "disk";
    options.log = Log([this](LogLevel, const char* line) {
      const std::lock_guard lock(mu_);
      lines_.emplace_back(line);
    });
    return options;
  }
  std::string content_of(const std::string& name) {
    std::ifstream file(folder_ / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  TempFolder folder_;
  std::mutex mu_;
  std::vector<std::string> lines_;
};

TEST_F(BackendProcessTest, IsAskedForAllThatTheFrontHas) {
  auto given = options("echo \"$@\" > " + (folder_ / "words") + "; echo ready; cat > " +
                       (folder_ / "input"));
  given.strict = false;
  given.emulate_pmem = true;
  auto backend = BackendProcess::have(given);
  ASSERT_TRUE(backend.ok());
  const std::string words = content_of("words");
  for (const std::string& asked :
       {given.cache_path + " --backing " + given.disk_path, std::string("--until-eof"),
        std::string("--backing-order relaxed"), std::string("--emulate-pmem"),
        "--serve " + folder_.path()})
    EXPECT_THAT(words, HasSubstr(asked));
  EXPECT_THAT(backend.value()->uri(), HasSubstr("nbd+unix:///?socket=" + folder_.path()));
  backend.value().reset();
  EXPECT_EQ(content_of("input"), "end\n");
}

TEST_F(BackendProcessTest, WhatItSaysIsPassedOn) {
  auto backend = BackendProcess::have(
      options("echo before >&2; echo ready; read line; echo \"$line\" behind >&2; echo half >&2"));
  ASSERT_TRUE(backend.ok());
  backend.value().reset();
  EXPECT_THAT(lines_, ElementsAre("before", "end behind", "half"));
}

TEST_F(BackendProcessTest, OneThatSaysNothingIsNotWaitedForForEver) {
  auto given = options("exec sleep 600");
  given.most_starting = std::chrono::milliseconds(50);
  const auto backend = BackendProcess::have(given);
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.error().code, ETIMEDOUT);
}

TEST_F(BackendProcessTest, OneThatDoesNotEndIsKilled) {
  auto given = options("echo ready; exec sleep 600");
  given.most_ending = std::chrono::milliseconds(50);
  auto backend = BackendProcess::have(given);
  ASSERT_TRUE(backend.ok());
  backend.value().reset();  // returns
}

TEST_F(BackendProcessTest, OneThatRefusesSaysWhyInOneLine) {
  const auto backend = BackendProcess::have(options("echo first >&2; echo why >&2; exit 3"));
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.error().text, "why");
  EXPECT_TRUE(lines_.empty());
}

// The address has what is no letter coded.
TEST_F(BackendProcessTest, TheSocketsPathMayBeAnyText) {
  const std::string odd = folder_ / "a b&c";
  ASSERT_EQ(mkdir(odd.c_str(), 0700), 0);
  setenv("PCACHE_RUNTIME_DIR", odd.c_str(), 1);
  auto backend = BackendProcess::have(options("echo ready; read line"));
  ASSERT_TRUE(backend.ok());
  EXPECT_THAT(backend.value()->uri(), HasSubstr("/a%20b%26c/"));
}

}  // namespace
}  // namespace pcache
