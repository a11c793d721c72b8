// SPDX-License-Identifier: GPL-2.0-or-later
// BackendProcess: the pcached of a front with the option `backend`: one that is there, or one that
// is started for it.
//
// - One that is there, and was started by somebody, is used and left as it is.
// - One that is started here serves the disk, too, and ends with the front: at once when that ends
//   in order, or once all is written back when that was killed. That is told by a pipe which it has
//   for its standard input, so nothing has to be sent by who is killed.
// - One that another front has started is that one's alone. If that front was killed it is ended
//   here, and another is started: it would end under the new front.
// A program that has started one has a child process: SIGCHLD comes when that ends, and who waits
// for any child may meet it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "base/log.h"
#include "base/result.h"
#include "blockdev/unique_fd.h"

namespace pcache {

class BackendProcess {
 public:
  struct Options {
    std::string program;  // a path, or kFindBackend: beside this library, or in PATH
    std::string cache_path;
    std::string disk_path;  // a device or file, or the address of a server of it
    bool emulate_pmem = false;
    bool strict = true;
    Log log;  // what it says, a line each, by a thread
    std::chrono::milliseconds most_starting{std::chrono::minutes(5)};
    std::chrono::milliseconds most_ending{std::chrono::seconds(30)};
  };
  static constexpr const char* kFindBackend = "auto";

  // One that has the disk and serves it, when it returns. An error is what it has said when it
  // refused; ENOENT: there is no such program; EBUSY: another front has started the one that is
  // there; EXDEV: that has another disk; ENOTCONN: or does not serve it; ETIMEDOUT. Throws
  // std::bad_alloc.
  static Result<std::unique_ptr<BackendProcess>> have(const Options& options);
  // Ends one that was started here, and waits for that; the front is closed, or killed.
  ~BackendProcess();
  BackendProcess(const BackendProcess&) = delete;
  BackendProcess& operator=(const BackendProcess&) = delete;

  // Where the front reads the disk.
  const std::string& uri() const { return uri_; }

 private:
  struct Offer;
  explicit BackendProcess(const Options& options) : options_(options) {}
  static Result<Offer> ask(const std::string& socket);
  Status use(const Offer& offer);
  Status end_left(const std::string& socket, const Offer& offer) const;
  Status start();
  Result<pid_t> spawn(const std::string& socket, int in, int out, int err) const;
  Status wait_until_it_serves(std::string* said);
  Error refused(const std::string& said);
  void pass_on();

  const Options options_;
  std::string uri_;
  pid_t pid_ = -1;           // of one that was started here
  UniqueFd in_, out_, err_;  // our ends of its standard streams
  std::thread passes_on_;    // what it says on stderr
};

}  // namespace pcache
