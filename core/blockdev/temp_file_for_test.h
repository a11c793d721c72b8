// SPDX-License-Identifier: GPL-2.0-or-later
// A file for tests, on a file system with O_DIRECT; removed at the end.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "blockdev/unique_fd.h"

namespace pcache {

class TempFile {
 public:
  explicit TempFile(uint64_t size_bytes) {
    // Uses the working directory (the build tree) if the usual place has no O_DIRECT.
    if (!make(testing::TempDir()) && !make("./"))
      ADD_FAILURE() << "no O_DIRECT in " << testing::TempDir() << " nor in the working directory";
    resize(size_bytes);
  }
  ~TempFile() { unlink(path_.c_str()); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  const std::string& path() const { return path_; }
  void resize(uint64_t size_bytes) {
    EXPECT_EQ(truncate(path_.c_str(), static_cast<off_t>(size_bytes)), 0);
  }

 private:
  bool make(const std::string& directory) {
    path_ = directory + "pcache-blockdev-XXXXXX";
    const UniqueFd fd(mkstemp(path_.data()));
    if (!fd.valid()) return false;
    if (UniqueFd(open(path_.c_str(), O_RDWR | O_DIRECT)).valid()) return true;
    unlink(path_.c_str());
    return false;
  }

  std::string path_;
};

}  // namespace pcache
