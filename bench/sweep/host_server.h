// SPDX-License-Identifier: GPL-2.0-or-later
// HostServer: what runs fio's server on a host, started by the user's command. What it says is
// kept: an engine's refusal is on the server's stderr alone. It ends with us. Of the main thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace pcache::sweep {

class HostServer {
 public:
  // `log`: a new file for what it says. Throws Wrong: it cannot be started.
  HostServer(const std::vector<std::string>& command, std::string log);
  ~HostServer();
  HostServer(const HostServer&) = delete;
  HostServer& operator=(const HostServer&) = delete;

  // It runs no more, as far as we see.
  bool has_ended();
  // What it has said since the last call, as whole lines.
  std::vector<std::string> new_lines();

 private:
  const std::string log_;
  pid_t child_ = -1;  // -1: has ended, and is reaped
  size_t read_ = 0;   // bytes of the log
};

}  // namespace pcache::sweep
