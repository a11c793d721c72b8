// SPDX-License-Identifier: GPL-2.0-or-later
#include "pcached/disk_server.h"

#include <signal.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/child.h"

namespace pcache {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLook{5};
constexpr std::chrono::seconds kMostStarting{30};

}  // namespace

Result<std::unique_ptr<DiskServer>> DiskServer::start(const std::string& disk,
                                                      const std::string& socket) {
  std::unique_ptr<DiskServer> server(new DiskServer(std::filesystem::absolute(disk).string(),
                                                    std::filesystem::absolute(socket).string()));
  if (auto running = server->run(); !running) return running.error();
  return server;
}

// It binds under a name of its own, which is then given the socket's: an nbdkit that is just ending
// removes the name that it has bound.
Status DiskServer::run() {
  const std::string bound_at = socket_ + ".new-" + std::to_string(getpid());
  const std::string pid_file = bound_at + ".pid";
  if (bound_at.size() >= sizeof(sockaddr_un::sun_path))
    return make_error(ENAMETOOLONG, "--serve %s: the path may have %zu bytes", socket_.c_str(),
                      sizeof(sockaddr_un::sun_path) - 1 - (bound_at.size() - socket_.size()));
  unlink(bound_at.c_str());
  unlink(pid_file.c_str());
  const auto pid =
      start_child({.command = {"nbdkit", "--foreground", "--readonly", "--exit-with-parent",
                               "--unix", bound_at, "--pidfile", pid_file, "file", "file=" + disk_},
                   .err = STDERR_FILENO});
  if (!pid)
    return make_error(pid.error().code, "nbdkit, which is to serve the disk %s, %s%s",
                      disk_.c_str(), pid.error().text.c_str(),
                      pid.error().code == ENOENT
                          ? ": install it, or serve the disk otherwise and leave --serve out"
                          : "");
  pid_ = pid.value();
  auto serves = wait_until_it_serves(pid_file);
  if (serves && rename(bound_at.c_str(), socket_.c_str()) != 0)
    serves = error_errno(errno, "--serve %s", socket_.c_str());
  unlink(pid_file.c_str());
  if (!serves) unlink(bound_at.c_str());
  return serves;
}

// It writes the file when it listens.
Status DiskServer::wait_until_it_serves(const std::string& pid_file) {
  const auto latest = Clock::now() + kMostStarting;
  while (access(pid_file.c_str(), F_OK) != 0) {
    int status;
    if (has_ended(pid_, false, &status)) {
      pid_ = -1;
      return make_error(EIO, "nbdkit, which is to serve the disk %s at %s, %s", disk_.c_str(),
                        socket_.c_str(), ended_text(status).c_str());
    }
    if (Clock::now() > latest)
      return make_error(ETIMEDOUT, "nbdkit, which is to serve the disk %s at %s, does not listen",
                        disk_.c_str(), socket_.c_str());
    std::this_thread::sleep_for(kLook);
  }
  return {};
}

Status DiskServer::keep() {
  int status;
  if (pid_ >= 0 && !has_ended(pid_, false, &status)) return {};
  pid_ = -1;
  return run();
}

// It has nothing to lose.
DiskServer::~DiskServer() {
  int status;
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  (void)has_ended(pid_, true, &status);
  unlink(socket_.c_str());
}

}  // namespace pcache
