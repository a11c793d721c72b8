// SPDX-License-Identifier: GPL-2.0-or-later
// The runtime folders, where the control sockets and doorbells of caches are: CONTROL.md has the
// list. What belongs to a cache has a name made of the numbers of the cache device.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/unique_fd.h"

namespace pcache {

// $PCACHE_RUNTIME_DIR; without that /run/pcache for root, else pcache in $XDG_RUNTIME_DIR, or
// /tmp/pcache-UID.
std::string runtime_folder();
// That; without PCACHE_RUNTIME_DIR also what this user has in another environment, root's, and for
// root those of all users. Not all of them need exist.
std::vector<std::string> runtime_folders();
std::string runtime_folders_text();  // with commas between
// Makes it if it is not there. EPERM: others than this user may write to it.
Status make_runtime_folder(const std::string& folder);

// "DEVICE-INODE" of a file, "MAJOR-MINOR" of a device node, which may have several paths.
Result<std::string> name_of_cache(const std::string& path);

// To open and remove what is in it, whatever becomes of its path meanwhile. Not valid, with errno:
// it is none, or a link, by which another user would lead root elsewhere.
UniqueFd open_runtime_folder(const std::string& folder);

// The paths in a folder; none if it cannot be read.
std::vector<std::string> paths_in(const std::string& folder);
std::string name_in_folder(const std::string& path);

// One process at a time changes what is in a runtime folder, by a lock that nobody else can take.
// The folder's owner alone makes that, and no link is followed.
// Whoever does not get it in time goes on without: then two that replace what is left of a dead one
// may get in each other's way.
class FolderLocked {
 public:
  explicit FolderLocked(const std::string& folder);
  ~FolderLocked();
  FolderLocked(const FolderLocked&) = delete;
  FolderLocked& operator=(const FolderLocked&) = delete;
  bool locked() const { return locked_; }

 private:
  const UniqueFd fd_;
  bool locked_ = false;
};

}  // namespace pcache
