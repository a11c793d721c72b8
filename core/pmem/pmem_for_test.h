// SPDX-License-Identifier: GPL-2.0-or-later
// Emulated files for tests, on a disk and in memory.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <cinttypes>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "pmem/pmem.h"

namespace pcache {

using ::testing::HasSubstr;

inline constexpr uint64_t kMiB = 1 << 20;

class PmemFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "pcache-pmem-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
    path_ = dir_ / "cache";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  PmemOptions emulated(uint64_t create_bytes = 0) const {
    PmemOptions options;
    options.path = path_;
    options.emulate = true;
    options.create_bytes = create_bytes;
    return options;
  }
  Result<std::unique_ptr<Pmem>> open(const PmemOptions& options) {
    return Pmem::open(options, Log([this](LogLevel level, const char* line) {
                        if (level == LogLevel::kWarning) warnings_.push_back(line);
                      }));
  }
  // The text of the error; checks that it has `code` and names the file.
  std::string refusal(const PmemOptions& options, int code) {
    const Result<std::unique_ptr<Pmem>> result = open(options);
    if (result.ok()) return "(was opened)";
    EXPECT_EQ(result.error().code, code) << result.error().text;
    EXPECT_THAT(result.error().text, HasSubstr("cache device " + options.path));
    return result.error().text;
  }
  void make_file(uint64_t bytes) {
    std::ofstream(path_).close();
    std::filesystem::resize_file(path_, bytes);
  }
  struct stat stat_file() const {
    struct stat st = {};
    EXPECT_EQ(stat(path_.c_str(), &st), 0);
    return st;
  }

  std::filesystem::path dir_, path_;
  std::vector<std::string> warnings_;
};

// Files in memory, whose pages can be made ahead.
class PmemInMemory : public PmemFile {
 protected:
  static constexpr uint64_t kBytes = 100 * kMiB;  // no whole number of pieces

  void SetUp() override {
    struct statfs fs;
    if (statfs("/dev/shm", &fs) != 0 || fs.f_type != TMPFS_MAGIC)
      GTEST_SKIP() << "/dev/shm is no tmpfs";
    std::string name = "/dev/shm/pcache-pmem-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
    path_ = dir_ / "cache";
  }
  void TearDown() override {
    if (!dir_.empty()) PmemFile::TearDown();
  }
  PmemOptions prefaulted() const {
    PmemOptions options = emulated(kBytes);
    options.prefault = true;
    return options;
  }
  // How much of the mapping is in this process's page table, and in huge pages there.
  uint64_t bytes_present() const { return bytes_of("Rss: "); }
  uint64_t bytes_huge() const { return bytes_of("ShmemPmdMapped: "); }

 private:
  uint64_t bytes_of(const std::string& field) const {
    std::ifstream maps("/proc/self/smaps");
    uint64_t bytes = 0;
    bool ours = false;
    for (std::string line; std::getline(maps, line);) {
      uint64_t begin, kib;
      if (sscanf(line.c_str(), "%" SCNx64 "-%*x ", &begin) == 1 && line.find('-') < line.find(' '))
        ours = line.ends_with(path_.string());
      else if (ours && line.starts_with(field) &&
               sscanf(line.c_str() + field.size(), "%" SCNu64, &kib) == 1)
        bytes += kib << 10;
    }
    return bytes;
  }
};

}  // namespace pcache
