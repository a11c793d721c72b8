// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace pcache {
namespace {

// Prints byte for byte what nlohmann's ordered_json prints.
template <typename J>
J example() {
  J json;
  json["version"] = 1;
  json["a"] = {{"text", "x"}, {"yes", true}, {"most", UINT64_MAX}, {"least", INT64_MIN}};
  json["a"]["later"] = std::string("y");
  json["a"]["deep"]["er"] = 3u;
  J list = J::array();
  list.push_back({uint64_t{1}, uint64_t{2}});
  list.push_back({uint64_t{3}, uint64_t{4}});
  json["list"] = {{"none", J::array()}, {"pairs", list}};
  json["version"] = 2;
  return json;
}

TEST(Json, PrintsAsTheLibraryDoes) {
  EXPECT_EQ(example<Json>().dump(), example<nlohmann::ordered_json>().dump(2));
  EXPECT_EQ(Json().dump(), "null");
}

TEST(Json, TextsAreEscapedAndWhatIsNotUtf8IsReplaced) {
  for (const std::string text : {"", "plain", "\"quoted\\\" \b\f\n\r\t", "\x01\x1f\x7f",
                                 "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80"}) {
    Json ours;
    nlohmann::ordered_json theirs;
    ours[text] = text;
    theirs[text] = text;
    EXPECT_EQ(ours.dump(), theirs.dump(2)) << text;
  }
  // Cut off, alone, not the shortest form, surrogate, above the last character.
  for (const std::string text : {"\xc3", "\x80", "\xff", "\xc0\xaf", "\xed\xa0\x80", "a\xe2\x82",
                                 "\xf4\x90\x80\x80", "\xc3(", "\xe2\x82("}) {
    const std::string printed = Json(text).dump();
    EXPECT_NE(printed.find("\xef\xbf\xbd"), std::string::npos) << printed;
    EXPECT_TRUE(nlohmann::json::accept(printed)) << printed;
  }
}

}  // namespace
}  // namespace pcache
