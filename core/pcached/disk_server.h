// SPDX-License-Identifier: GPL-2.0-or-later
// DiskServer: nbdkit, which serves the disk at a UNIX socket for what misses in the front. It reads
// alone, and the kernel ends it with this process. One thread, whose end is that of nbdkit, too:
// the main one.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "base/result.h"

namespace pcache {

class DiskServer {
 public:
  // Serves `disk` when it returns. What stands at `socket` is replaced: it is left of a killed one.
  // ENOENT: there is no nbdkit; EIO: it has ended, and said why on stderr; ENAMETOOLONG.
  static Result<std::unique_ptr<DiskServer>> start(const std::string& disk,
                                                   const std::string& socket);
  ~DiskServer();
  DiskServer(const DiskServer&) = delete;
  DiskServer& operator=(const DiskServer&) = delete;

  // Starts it again if it has ended; the front comes back to it by itself.
  Status keep();
  const std::string& socket() const { return socket_; }  // absolute

 private:
  DiskServer(std::string disk, std::string socket)
      : disk_(std::move(disk)), socket_(std::move(socket)) {}
  Status run();
  Status wait_until_it_serves(const std::string& pid_file);

  const std::string disk_, socket_;
  pid_t pid_ = -1;  // -1: none
};

}  // namespace pcache
