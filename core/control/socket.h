// SPDX-License-Identifier: GPL-2.0-or-later
// Where the control sockets of caches are, and listening at one.
//
// A cache's socket stands in the runtime folder of the user whose process has it attached. Its name
// is made of the numbers of the cache device, so who knows the path of a cache finds its socket.
// One process has a cache attached at a time, but for readonly=1: then the name has more to it. The
// modes of the folder and of the socket, at first 0600, decide who may connect. Who asks takes no
// answer from a socket that is neither root's, nor its own, nor of the cache's owner.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/unique_fd.h"
#include "control/runtime_folder.h"

namespace pcache {

// Where a cache is listened for by default. `path`: of the cache device. An errno: it has none.
Result<std::string> default_socket(const std::string& path, bool readonly);
// The same of a backend (pcached).
Result<std::string> backend_socket(const std::string& path);
// Where the disk of a front is served that has started its backend.
Result<std::string> disk_socket(const std::string& path);
// All sockets in the runtime folders that are root's or this user's, for root all, in order of
// their paths; dead ones, too.
std::vector<std::string> all_sockets();
// Of the cache device or file at `path`, or that path itself if it is a socket. ENOENT: there is
// none but dead ones. One of several of a cache that is attached with readonly=1; that of a backend
// if no front has one.
Result<std::string> find_socket(const std::string& path);
// That of a backend alone.
Result<std::string> find_backend_socket(const std::string& path);

class ControlSocket {
 public:
  // Makes the socket, and if `makes_folder` the folder for it. What is left of a dead process is
  // replaced. EADDRINUSE: somebody listens there. EEXIST: what is there is no socket. EPERM: others
  // than this user and root may write to the folder that is to be made, or is there.
  static Result<ControlSocket> listen(const std::string& path, bool makes_folder);
  ControlSocket(ControlSocket&&) noexcept = default;
  ControlSocket& operator=(ControlSocket&&) = delete;
  // Removes it, if it still is this one.
  ~ControlSocket();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  ControlSocket(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  UniqueFd fd_;
  std::string path_;
  dev_t dev_ = 0;  // of the socket's file
  ino_t ino_ = 0;
};

}  // namespace pcache
