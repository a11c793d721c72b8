// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <fstream>

#include "control/client.h"
#include "control/folder_for_test.h"

namespace pcache {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  return names;
}

// As one that was killed leaves it.
void leave_dead(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof address.sun_path);
  memcpy(address.sun_path, path.data(), path.size());
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
}

int code_of(const Result<ControlSocket>& socket) { return socket ? 0 : socket.error().code; }

TEST(ControlSocket, CanBeConnectedToByItsUserAlone) {
  const TempFolder folder;
  const std::string path = folder / "a";
  {
    const auto socket = ControlSocket::listen(path, false);
    ASSERT_TRUE(socket.ok()) << socket.error().text;
    struct stat st;
    ASSERT_EQ(stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode, S_IFSOCK | 0600u);
    EXPECT_TRUE(ControlClient::connect(path).ok());
    EXPECT_THAT(names_in(folder.path()), UnorderedElementsAre("a"));
  }
  EXPECT_THAT(names_in(folder.path()), UnorderedElementsAre());
}

TEST(ControlSocket, OnlyWhatIsDeadIsReplaced) {
  const TempFolder folder;
  leave_dead(folder / "dead");
  EXPECT_EQ(code_of(ControlSocket::listen(folder / "dead", false)), 0);
  const auto alive = ControlSocket::listen(folder / "alive", false);
  ASSERT_TRUE(alive.ok());
  EXPECT_EQ(code_of(ControlSocket::listen(folder / "alive", false)), EADDRINUSE);
  EXPECT_TRUE(ControlClient::connect(folder / "alive").ok()) << "the first goes on";
  std::ofstream(folder / "file") << "mine";
  EXPECT_EQ(code_of(ControlSocket::listen(folder / "file", false)), EEXIST);
  EXPECT_EQ(code_of(ControlSocket::listen(folder / "no/such", false)), ENOENT);
  EXPECT_THAT(names_in(folder.path()), UnorderedElementsAre("alive", "file"));
}

TEST(ControlSocket, TheNextOfItsNameIsNotRemoved) {
  const TempFolder folder;
  auto first = std::make_unique<Result<ControlSocket>>(ControlSocket::listen(folder / "a", false));
  ASSERT_TRUE(first->ok());
  ASSERT_EQ(unlink((folder / "a").c_str()), 0);
  const auto second = ControlSocket::listen(folder / "a", false);
  ASSERT_TRUE(second.ok());
  first.reset();
  EXPECT_TRUE(ControlClient::connect(folder / "a").ok());
}

TEST(ControlSocket, WhatProcessesHaveLeftInTheRuntimeFolderIsRemoved) {
  const TempFolder folder;
  ASSERT_EQ(chmod(folder.path().c_str(), 0700), 0);
  leave_dead(folder / "1-2.sock");
  leave_dead(folder / "another");
  leave_dead(folder / ".new-1-2");
  const auto other = ControlSocket::listen(folder / "3-4.sock", true);
  const auto mine = ControlSocket::listen(folder / "5-6.sock", true);
  ASSERT_TRUE(other.ok() && mine.ok());
  EXPECT_THAT(names_in(folder.path()),
              UnorderedElementsAre(".lock", "another", "3-4.sock", "5-6.sock"));
}

TEST(ControlSocket, ARuntimeFolderIsMadeAndMayBeNobodyElses) {
  const TempFolder folder;
  EXPECT_EQ(code_of(ControlSocket::listen(folder / "made/a.sock", true)), 0);
  ASSERT_EQ(mkdir((folder / "open").c_str(), 0700), 0);
  ASSERT_EQ(chmod((folder / "open").c_str(), 0777), 0);
  const auto open = ControlSocket::listen(folder / "open/a.sock", true);
  ASSERT_FALSE(open.ok());
  EXPECT_EQ(open.error().code, EPERM);
  EXPECT_THAT(open.error().text, HasSubstr("mode 777"));
  ASSERT_EQ(symlink((folder / "made").c_str(), (folder / "link").c_str()), 0);
  EXPECT_EQ(code_of(ControlSocket::listen(folder / "link/a.sock", true)), EPERM);
}

// Who may only look into the folder keeps nobody from listening there.
TEST(ControlSocket, ALockOnTheFolderIsNotWaitedFor) {
  const TempFolder folder;
  const UniqueFd fd(open(folder.path().c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_EQ(flock(fd.get(), LOCK_EX), 0);
  EXPECT_EQ(code_of(ControlSocket::listen(folder / "a.sock", true)), 0);
  struct stat st;
  ASSERT_EQ(stat((folder / ".lock").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u) << "nobody else can take this one";
}

TEST(ControlSocket, IsRemovedFromAnotherWorkingDirectory) {
  const TempFolder folder, other;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  {
    const auto socket = ControlSocket::listen("here", false);
    std::filesystem::current_path(other.path());
    ASSERT_TRUE(socket.ok()) << socket.error().text;
    EXPECT_EQ(socket.value().path(), folder / "here");
  }
  std::filesystem::current_path(before);
  EXPECT_THAT(names_in(folder.path()), UnorderedElementsAre());
}

TEST(ControlSocket, ALongPathIsRefused) {
  const TempFolder folder;
  const auto socket = ControlSocket::listen(folder / std::string(100, 'x'), false);
  ASSERT_FALSE(socket.ok());
  EXPECT_EQ(socket.error().code, ENAMETOOLONG);
  EXPECT_EQ(ControlClient::connect(folder / std::string(100, 'x')).error().code, ENAMETOOLONG);
}

TEST(DefaultSocket, IsNamedByTheCacheDevice) {
  const TempFolder folder;
  for (const char* name : {"a", "b"}) std::ofstream(folder / name) << "x";
  ASSERT_EQ(link((folder / "a").c_str(), (folder / "c").c_str()), 0);
  const auto of = [&](const char* name) { return default_socket(folder / name, false).value(); };
  EXPECT_EQ(of("a"), of("c")) << "one file";
  EXPECT_NE(of("a"), of("b"));
  EXPECT_THAT(of("a"), ::testing::StartsWith(runtime_folder() + "/"));
  const auto readonly = [&] { return default_socket(folder / "a", true).value(); };
  EXPECT_NE(readonly(), readonly()) << "several may have it attached";
  EXPECT_EQ(default_socket(folder / "none", false).error().code, ENOENT);
  EXPECT_EQ(default_socket("/dev/null", false).value(), runtime_folder() + "/c1-3.sock");
}

// It may say what it likes.
TEST(FindSocket, TakesNoneOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "takes root, who gives a socket away";
  const TempFolder folder;
  ASSERT_EQ(setenv("PCACHE_RUNTIME_DIR", folder.path().c_str(), 1), 0);
  std::ofstream(folder / "cache") << "x";
  const std::string path = default_socket(folder / "cache", false).value();
  const auto socket = ControlSocket::listen(path, true);
  ASSERT_TRUE(socket.ok());
  EXPECT_EQ(find_socket(folder / "cache").value(), path);
  constexpr uid_t kNobody = 65534;
  ASSERT_EQ(chown(path.c_str(), kNobody, kNobody), 0);
  EXPECT_EQ(find_socket(folder / "cache").error().code, ENOENT);
  EXPECT_THAT(all_sockets(), ::testing::ElementsAre(path)) << "root lists it all the same";
  ASSERT_EQ(chown((folder / "cache").c_str(), kNobody, kNobody), 0);
  EXPECT_EQ(find_socket(folder / "cache").value(), path) << "the cache is that user's";
  unsetenv("PCACHE_RUNTIME_DIR");
}

// A reader that was killed, beside one that lives, whichever is named first.
TEST(FindSocket, PassesOverDeadOnes) {
  const TempFolder folder;
  ASSERT_EQ(setenv("PCACHE_RUNTIME_DIR", folder.path().c_str(), 1), 0);
  std::ofstream(folder / "cache") << "x";
  const std::string cache = default_socket(folder / "cache", false).value();
  const auto reader = [&](const char* number) {
    return cache.substr(0, cache.size() - strlen("sock")) + "readonly-" + number + ".sock";
  };
  const auto alive = ControlSocket::listen(reader("2"), true);
  ASSERT_TRUE(alive.ok());
  for (const std::string& dead : {reader("1"), reader("3"), cache}) leave_dead(dead);
  EXPECT_EQ(find_socket(folder / "cache").value(), reader("2"));
  unsetenv("PCACHE_RUNTIME_DIR");
}

TEST(RuntimeFolder, IsWhatTheEnvironmentSaysAlone) {
  ASSERT_EQ(setenv("PCACHE_RUNTIME_DIR", "/somewhere/else", 1), 0);
  EXPECT_THAT(runtime_folders(), ::testing::ElementsAre("/somewhere/else"));
  EXPECT_EQ(default_socket("/dev/null", false).value(), "/somewhere/else/c1-3.sock");
  unsetenv("PCACHE_RUNTIME_DIR");
  EXPECT_THAT(runtime_folders(), ::testing::Contains("/run/pcache"));
}

TEST(FindSocket, TakesASocketOrACacheDevice) {
  const TempFolder folder;
  const auto socket = ControlSocket::listen(folder / "s", false);
  ASSERT_TRUE(socket.ok());
  EXPECT_EQ(find_socket(folder / "s").value(), folder / "s");
  std::ofstream(folder / "a") << "x";
  EXPECT_EQ(find_socket(folder / "a").error().code, ENOENT);
  EXPECT_EQ(find_socket(folder / "none").error().code, ENOENT);
}

}  // namespace
}  // namespace pcache
