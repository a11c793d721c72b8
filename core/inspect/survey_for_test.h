// SPDX-License-Identifier: GPL-2.0-or-later
// For the tests of this folder: an image with data, checked without a store.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "inspect/check.h"
#include "testing/image.h"

namespace pcache {

class ImageTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kLogicalBytes = 64 << 20;
  static constexpr uint32_t kSegments = 32;  // the smallest device allowed
  static constexpr SegId kA{2}, kB{3};       // data segments

  explicit ImageTest(const FormatOptions& options = {}) : image_(kSegments, options) {}

  // A key of one page. Its data on media identifies the place, and satisfies its crc.
  media::Key page(uint64_t page, CachePos data, uint32_t flags = 0, uint64_t gen = 0) {
    const std::vector<std::byte> bytes(kPageBytes, letter(data));
    image_.memory().poke(image_.off(data), bytes.data(), bytes.size());
    media::Key key = make_key({page * kPageBytes, kPageBytes}, data, gen, flags);
    key.data_crc = data_crc32c(bytes.data(), bytes.size());
    return key;
  }
  static std::byte letter(CachePos data) {
    return std::byte(data.seg.v * 16 + data.off / kPageBytes + 1);
  }
  CheckReport check(uint64_t device_bytes = kLogicalBytes) {
    CheckOptions options;
    if (device_bytes > 0) options.backing = BackingIdentity{"test", device_bytes, true};
    image_.memory().forbid_stores();
    CheckReport report = check_image(image_.pmem(), options);
    image_.memory().allow_stores();
    return report;
  }
  // The codes of the findings, without notes.
  static std::vector<std::string> codes(const CheckReport& report) {
    std::vector<std::string> codes;
    for (const Finding& finding : report.findings.all())
      if (finding.severity != Severity::kNote) codes.push_back(finding.code);
    return codes;
  }
  std::vector<std::string> codes() { return codes(check()); }

  Image image_;
};

}  // namespace pcache
