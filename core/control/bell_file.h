// SPDX-License-Identifier: GPL-2.0-or-later
// BellFile: the file of a cache's doorbell, NAME.bell in a runtime folder (see Doorbell).
//
// Either side makes it, or takes the one that is there: of its own runtime folder, or of another
// that it looks into for sockets, too. While a side has it a shared flock() says so. Who leaves
// last removes it; of a dead one the next takes it, or whoever makes a control socket in that
// folder removes it. It has mode 0600 at first, and is root's, this user's, or of the cache's
// owner. A folder that is a link is not looked into: its owner would lead root to files elsewhere.
// One thread.
#pragma once

#include <sys/stat.h>

#include <string>

#include "background/doorbell.h"
#include "control/runtime_folder.h"

namespace pcache {

inline constexpr const char* kBellSuffix = ".bell";

class BellFile {
 public:
  // `cache_path`: of the cache device. Nothing is connected yet.
  BellFile(std::string cache_path, Doorbell& bell)
      : cache_path_(std::move(cache_path)), bell_(bell) {}
  ~BellFile() { leave(); }
  BellFile(const BellFile&) = delete;
  BellFile& operator=(const BellFile&) = delete;

  // Connects the doorbell, again if the file was removed, replaced or cut since; to be called again
  // and again. An error: it is not connected.
  Status keep();
  // For this side it is over. Needs no memory.
  void leave();
  const std::string& path() const { return path_; }  // empty: not connected

 private:
  bool is_sound() const;
  Status connect(const std::string& path, bool creates);

  const std::string cache_path_;
  Doorbell& bell_;
  UniqueFd fd_;
  UniqueFd folder_;  // in which the file was opened
  std::string path_;
  dev_t dev_ = 0;
  ino_t ino_ = 0;
};

// If no side has it. The folder is locked.
void remove_bell_if_dead(const std::string& path);

}  // namespace pcache
