// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/option_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "pmem/persist.h"

namespace pcache {
namespace {

using ::testing::HasSubstr;

pcache_options initial() {
  pcache_options options;
  init_options(&options, sizeof options);
  return options;
}

TEST(OptionTable, EachEntryIsWhole) {
  std::set<std::string> names, fio_names;
  for (const OptionEntry& entry : option_table()) {
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
    EXPECT_TRUE(*entry.fio == 0 || fio_names.insert(entry.fio).second) << entry.name;
    for (const char* text : {entry.title, entry.text}) {
      EXPECT_GT(std::string(text).size(), 3u) << entry.name;
      EXPECT_EQ(std::string(text).find('\n'), std::string::npos) << entry.name;
    }
    for (const auto& choice : entry.choices) EXPECT_GT(std::string(choice.text).size(), 3u);
    if (*entry.fio_initial) {
      EXPECT_TRUE(check_option_text(entry, entry.fio_initial)) << entry.name;
    }
    const bool chosen = entry.type == PCACHE_OPTION_CHOICE || entry.type == PCACHE_OPTION_NAME;
    EXPECT_EQ(chosen, chosen && entry.choices.size() > 1) << entry.name;
  }
  EXPECT_TRUE(check_option_values(initial()));
}

TEST(OptionTable, AUnitIsInItsName) {
  for (const OptionEntry& entry : option_table())
    EXPECT_EQ(std::string(entry.unit) == "ms", std::string(entry.name).ends_with("_ms"));
}

// set_option() takes each text that option_text() gives.
TEST(OptionTable, TextsGoRound) {
  for (const OptionEntry& entry : option_table()) {
    pcache_options options = initial();
    const std::string text = option_text(options, entry.name).take();
    if (entry.type == PCACHE_OPTION_TEXT) continue;
    EXPECT_TRUE(set_option(&options, entry.name, text.c_str())) << entry.name << "=" << text;
    EXPECT_EQ(option_text(options, entry.name).take(), text) << entry.name;
  }
}

TEST(SetOption, Table) {
  const struct {
    const char *name, *text;
    const char* result;  // as text again, or the error
  } rows[] = {
      {"gc_percent", "70", "70"},
      {"gc_percent", "0", "0"},
      {"gc_percent", "90", "90"},
      {"gc_percent", "media", "media"},
      {"gc_percent", "91", "option gc_percent=91: expected a number from 0 to 90, or media"},
      {"gc_percent", "-1", "option gc_percent=-1: expected a number from 0 to 90"},
      {"gc_percent", "", "option gc_percent=: expected"},
      {"gc_percent", "7x", "option gc_percent=7x: expected"},
      {"gc_percent", " 7", "option gc_percent= 7: expected"},
      {"gc_percent", "4294967296", "option gc_percent=4294967296: expected"},
      {"gc_percent", "18446744073709551616", "option gc_percent=18446744073709551616: expected"},
      {"flush_delay_ms", "60000", "60000"},
      {"flush_delay_ms", "0", "option flush_delay_ms=0: expected a number from 1 to 60000"},
      {"drain", "1", "1"},
      {"drain", "2", "option drain=2: expected 0 or 1"},
      {"drain", "yes", "option drain=yes: expected 0 or 1"},
      {"data_crc", "1", "1"},
      {"data_crc", "media", "media"},
      {"data_crc", "2", "option data_crc=2: expected 0, 1 or media"},
      {"io_mode", "threads", "threads"},
      {"io_mode", "2", "option io_mode=2: expected auto, io_uring or threads"},
      {"prefault", "Attach", "option prefault=Attach: expected beside or attach"},
      {"persist", "clwb", "clwb"},
      {"persist", "hope", "option persist=hope: expected auto, flushcache, clflushopt, clwb or m"},
      {"cache_path", "/a b", "/a b"},
      {"cache_size", "0", "0"},
      {"cache_size", "536870912", "536870912"},
      {"cache_size", "512m", "536870912"},
      {"cache_size", "512MiB", "536870912"},
      {"cache_size", "1G", "1073741824"},
      {"cache_size", "1gb", "1073741824"},
      {"cache_size", "1Ti", "1099511627776"},
      {"cache_size", "1p", "1125899906842624"},
      {"cache_size", "511m",
       "option cache_size=511m: expected a size in bytes, such as 2g, from 512 MiB to 1024 PiB, or "
       "0"},
      {"cache_size", "1024p", "1152921504606846976"},
      {"writeback_rate", "0", "0"},
      {"writeback_rate", "64k", "65536"},
      {"writeback_rate", "1t", "1099511627776"},
      {"writeback_rate", "1",
       "option writeback_rate=1: expected a size in bytes/s, such as 2g, from 64 KiB to 1 TiB, or "
       "0"},
      {"writeback_rate", "65535", "option writeback_rate=65535: expected a size in bytes/s"},
      {"writeback_rate", "1025g", "option writeback_rate=1025g: expected a size in bytes/s"},
      {"cache_size", "1025p", "option cache_size=1025p: expected"},
      {"cache_size", "999999999999999999p", "option cache_size=999999999999999999p: expected"},
      {"cache_size", "g", "option cache_size=g: expected a size"},
      {"cache_size", "1gi b", "option cache_size=1gi b: expected a size"},
      {"cache_size", "1kk", "option cache_size=1kk: expected a size"},
      {"nonsense", "1", "option nonsense: there is none of this name; expected cache_path, "},
  };
  for (const auto& row : rows) {
    pcache_options options = initial();
    const auto set = set_option(&options, row.name, row.text);
    const std::string result = set ? option_text(options, row.name).take() : set.error().text;
    EXPECT_THAT(result, HasSubstr(row.result)) << row.name << "=" << row.text;
    if (!set) {
      EXPECT_EQ(memcmp(&options, std::array{initial()}.data(), sizeof options), 0) << row.name;
    }
  }
}

TEST(OptionTable, ThePersistMethodsAreTheOnesThatThereAre) {
  for (const auto& choice : find_option("persist")->choices) {
    const auto method = find_persist_method(choice.name);
    EXPECT_TRUE(method || method.error().code == EOPNOTSUPP) << choice.name;
  }
}

// ---- Callers with another pcache.h ----

// The options of an older program: those up to drain.
constexpr uint32_t kOlderBytes = offsetof(pcache_options, readonly);

TEST(OtherSizes, AnOlderStructIsFilledAndReadToItsEnd) {
  std::vector<char> memory(sizeof(pcache_options) + 64, '\x5a');
  auto* older = reinterpret_cast<pcache_options*>(memory.data());
  init_options(older, kOlderBytes);
  EXPECT_EQ(older->size, kOlderBytes);
  EXPECT_EQ(older->flush_delay_ms, 1000);
  EXPECT_TRUE(
      std::all_of(memory.begin() + kOlderBytes, memory.end(), [](char c) { return c == '\x5a'; }));
  ASSERT_TRUE(set_option(older, "drain", "1"));
  const auto set = set_option(older, "readonly", "1");
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code, ENOENT);
  EXPECT_THAT(set.error().text, HasSubstr("option readonly: is not in the pcache_options of 128"));
  EXPECT_FALSE(option_text(*older, "readonly"));
  EXPECT_TRUE(
      std::all_of(memory.begin() + kOlderBytes, memory.end(), [](char c) { return c == '\x5a'; }));
  const pcache_options known = adopt_options(*older).take();
  EXPECT_EQ(known.drain, 1);
  EXPECT_EQ(known.readonly, 0) << "what is behind the older struct is not read";
  EXPECT_EQ(known.size, sizeof known);
}

TEST(OtherSizes, ANewerStructIsTakenAsLongAsNothingUnknownIsSet) {
  std::vector<char> memory(sizeof(pcache_options) + 16, '\x5a');
  auto* newer = reinterpret_cast<pcache_options*>(memory.data());
  init_options(newer, static_cast<uint32_t>(memory.size()));
  newer->readonly = 1;
  EXPECT_EQ(adopt_options(*newer).take().readonly, 1);
  memory.back() = 1;
  const auto adopted = adopt_options(*newer);
  ASSERT_FALSE(adopted);
  EXPECT_THAT(adopted.error().text, HasSubstr("the program needs a newer libpcache"));
}

TEST(OtherSizes, WhatIsNoSizeIsRefused) {
  pcache_options options = initial();
  for (uint32_t size :
       {0u, 8u, kLeastOptionsBytes - 1, kLeastOptionsBytes + 4, 4104u, 0xffffffffu}) {
    options.size = size;
    EXPECT_FALSE(adopt_options(options)) << size;
  }
  options.size = kLeastOptionsBytes;
  EXPECT_TRUE(adopt_options(options));
}

TEST(OtherSizes, WhatIsReservedIsZero) {
  pcache_options options = initial();
  options.reserved = 1;
  const auto adopted = adopt_options(options);
  ASSERT_FALSE(adopted);
  EXPECT_THAT(adopted.error().text, HasSubstr("pcache_options: reserved is 1, expected 0"));
}

TEST(SetOption, NullIsNoTextButForATextThatIsNotGiven) {
  pcache_options options = initial();
  EXPECT_THAT(set_option(&options, nullptr, "1").error().text, HasSubstr("its name is NULL"));
  EXPECT_THAT(option_text(options, nullptr).error().text, HasSubstr("its name is NULL"));
  for (const OptionEntry& entry : option_table()) {
    const auto set = set_option(&options, entry.name, nullptr);
    EXPECT_EQ(set.ok(), entry.type == PCACHE_OPTION_TEXT) << entry.name;
    if (!set) {
      EXPECT_THAT(set.error().text, HasSubstr("its value is NULL; expected")) << entry.name;
    }
  }
}

TEST(OptionTable, ANameThatIsNotGivenIsItsDefault) {
  pcache_options options = initial();
  for (const char* none : {static_cast<const char*>(nullptr), ""}) {
    options.persist = none;
    EXPECT_EQ(option_text(options, "persist").take(), "auto");
  }
}

TEST(OptionTable, NamesInPcachectl) {
  EXPECT_EQ(find_option("gc_percent")->in_ctl("format"), "--gc-percent");
  EXPECT_EQ(find_option("gc_percent")->in_ctl("set"), "gc_percent");
  EXPECT_EQ(find_option("gc_percent")->in_ctl("for"), "");
  EXPECT_EQ(find_option("data_crc")->in_ctl("set"), "");
  EXPECT_EQ(find_option("drain")->in_ctl("format"), "");
}

}  // namespace
}  // namespace pcache
