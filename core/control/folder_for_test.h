// SPDX-License-Identifier: GPL-2.0-or-later
// A folder for the sockets of a test, removed at the end with what is in it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

namespace pcache {

class TempFolder {
 public:
  TempFolder() : path_(testing::TempDir() + "pcache-control-XXXXXX") {
    if (!mkdtemp(path_.data())) ADD_FAILURE() << path_;
  }
  ~TempFolder() {
    std::error_code none;
    std::filesystem::remove_all(path_, none);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace pcache
