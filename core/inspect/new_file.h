// SPDX-License-Identifier: GPL-2.0-or-later
// NewFile: a file that appears under its name when it is complete, or never. It has no name until
// then, where the file system can do that; else one that ends in ".partial", removed on failure.
#pragma once

#include <string>

#include "base/result.h"
#include "blockdev/unique_fd.h"

namespace pcache {

class NewFile {
 public:
  // EEXIST when there is something of that name.
  static Result<NewFile> create(const std::string& path);
  NewFile(NewFile&&) = default;
  ~NewFile();

  Status resize(uint64_t bytes);
  Status write(uint64_t off, const void* data, size_t len_bytes);
  // Durable, and under its name; a file that has come there meanwhile stays: EEXIST.
  Status publish();

 private:
  NewFile(std::string path, UniqueFd fd, bool named)
      : path_(std::move(path)), fd_(std::move(fd)), named_(named) {}
  std::string partial() const { return path_ + ".partial"; }

  std::string path_;
  UniqueFd fd_;
  bool named_ = false;  // partial() exists
};

}  // namespace pcache
