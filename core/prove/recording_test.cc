// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/recording.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

namespace pcache {
namespace {

using Kind = Recording::Kind;
using ::testing::HasSubstr;

constexpr uint64_t kDevice = 8192, kUsed = 4096;

class RecordingTest : public ::testing::Test {
 protected:
  RecordingTest() { text_.append("pcrecord").append(bytes(kDevice, 8)); }
  ~RecordingTest() override { unlink(path_.c_str()); }

  static std::string bytes(uint64_t value, size_t n) {
    return {reinterpret_cast<const char*>(&value), n};
  }
  void record(Kind kind, uint64_t off, uint32_t len, const std::string& data = {},
              uint8_t flags = 0) {
    text_ += bytes(static_cast<uint8_t>(kind), 1) + bytes(flags, 1) + bytes(0, 2) + bytes(len, 4) +
             bytes(off, 8) + data;
  }
  Result<Recording> read() {
    std::ofstream(path_, std::ios::binary) << text_;
    return Recording::read(path_, kDevice, kUsed);
  }

  std::string text_;
  const std::string path_ = ::testing::TempDir() + "recording-" + std::to_string(getpid());
};

TEST_F(RecordingTest, HasTheRequestsInOrder) {
  record(Kind::kWrite, 512, 1024, std::string(1024, 'x'), 1);
  record(Kind::kMark, 0, 2, "{}");
  record(Kind::kRead, 4096, 4096);  // behind the file system
  record(Kind::kTrim, 0, 4096);
  record(Kind::kFlush, 0, 0);
  const auto recording = read();
  ASSERT_TRUE(recording.ok()) << recording.error().text;
  const auto& requests = recording.value().requests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[0].kind, Kind::kWrite);
  EXPECT_TRUE(requests[0].fua);
  EXPECT_EQ(requests[0].extent.off, 512u);
  EXPECT_EQ(requests[0].data.size(), 1024u);
  EXPECT_EQ(requests[0].data.back(), std::byte{'x'});
  EXPECT_EQ(requests[1].kind, Kind::kMark);
  EXPECT_EQ(requests[2].extent.len, 4096u);
  EXPECT_FALSE(requests[2].fua);
  EXPECT_EQ(requests[3].kind, Kind::kFlush);
}

TEST_F(RecordingTest, DamagedOnesAreRefused) {
  const std::string good = text_;
  const auto refused = [&](const char* words) {
    const auto recording = read();
    ASSERT_FALSE(recording.ok());
    EXPECT_THAT(recording.error().text, HasSubstr(words));
    text_ = good;
  };
  text_.pop_back();
  refused("no recording");
  text_[0] = 'P';
  refused("no recording of a device of 8192 bytes");
  text_[8]++;
  refused("no recording of a device of 8192 bytes");
  record(Kind::kFlush, 0, 0);
  text_.pop_back();
  refused("byte 16: half a record");
  record(Kind::kWrite, 0, 512, std::string(511, 'x'));
  refused("byte 16: half a record");
  record(Kind{7}, 0, 0);
  refused("byte 16: no kind of record");
  record(Kind::kFlush, 0, 0);
  record(Kind::kTrim, 4096, 512);
  refused("byte 32: no sectors of the file system");
  record(Kind::kZero, UINT64_MAX - 511, 512);
  refused("no sectors");
  record(Kind::kRead, 8192, 512);
  refused("no sectors");
  record(Kind::kWrite, 256, 512, std::string(512, 'x'));
  refused("no sectors");
}

}  // namespace
}  // namespace pcache
