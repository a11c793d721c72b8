// SPDX-License-Identifier: GPL-2.0-or-later
// NewFile: a file that gets its name when it is complete, or never. Before that it has no name, or,
// where the file system cannot do that, one that ends in ".partial", removed on failure.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "blockdev/unique_fd.h"

namespace pcache {

class NewFile {
 public:
  // EEXIST: there is a file of that name.
  static Result<NewFile> create(const std::string& path);
  NewFile(NewFile&&) = default;
  ~NewFile();

  Status resize(uint64_t bytes);
  Status write(uint64_t off, const void* data, size_t len_bytes);
  // Makes it durable, and gives it its name. EEXIST: a file of that name has appeared, and stays.
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
