// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/result.h"

#include <gtest/gtest.h>

#include "base/log.h"

namespace pcache {
namespace {

// Messages contain paths and texts from media, which may hold any byte.
constexpr const char* kPath =
    "a\nb\rc\x1b[2Jd\x7f"
    "e \xc3\xa9";
constexpr const char* kShown = "a?b?c?[2Jd?e \xc3\xa9";

TEST(Message, OfAnErrorIsOneLine) {
  EXPECT_EQ(make_error(EINVAL, "file %s", kPath).text, std::string("file ") + kShown);
  EXPECT_EQ(error_errno(ENOENT, "file %s", kPath).text,
            std::string("file ") + kShown + ": No such file or directory");
}

TEST(Message, OfALogIsOneLine) {
  std::string line;
  const Log log([&](LogLevel, const char* text) { line = text; });
  log.print(LogLevel::kNotice, "file %s", kPath);
  EXPECT_EQ(line, std::string("file ") + kShown);
}

}  // namespace
}  // namespace pcache
