// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "cache/option_table.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

pcache_options good() {
  pcache_options raw;
  init_options(&raw, sizeof raw);
  raw.cache_path = "/cache";
  raw.backing_path = "/backing";
  return raw;
}

TEST(CheckOptions, Table) {
  const struct {
    const char* name;
    std::function<void(pcache_options&)> change;
    const char* verdict;
  } rows[] = {
      {"as they are", [](auto&) {}, "ok"},
      {"size", [](auto& o) { o.size = 39; },
       "pcache_options: size is 39, expected a multiple of 8 from 40"},
      {"no cache", [](auto& o) { o.cache_path = nullptr; }, "option cache_path: missing"},
      {"empty cache", [](auto& o) { o.cache_path = ""; }, "option cache_path: missing"},
      {"no backing", [](auto& o) { o.backing_path = nullptr; }, "option backing_path: missing"},
      {"empty backing", [](auto& o) { o.backing_path = ""; }, "option backing_path: missing"},
      {"emulate 2", [](auto& o) { o.emulate_pmem = 2; }, "option emulate_pmem: 2 is not 0 or 1"},
      {"emulate -1", [](auto& o) { o.emulate_pmem = -1; }, "option emulate_pmem: -1 is not 0 or 1"},
      {"drain 2", [](auto& o) { o.drain = 2; }, "option drain: 2 is not 0 or 1"},
      {"interval 0", [](auto& o) { o.writeback_interval_ms = 0; },
       "option writeback_interval_ms: 0 is not in 1..3600000"},
      {"interval most", [](auto& o) { o.writeback_interval_ms = 3600000; }, "ok"},
      {"interval more", [](auto& o) { o.writeback_interval_ms = 3600001; },
       "option writeback_interval_ms: 3600001"},
      {"prefault 1", [](auto& o) { o.prefault = PCACHE_PREFAULT_ATTACH; }, "ok"},
      {"prefault 2", [](auto& o) { o.prefault = 2; },
       "option prefault: 2 is not 0 (beside) or 1 (attach)"},
      {"prefault -1", [](auto& o) { o.prefault = -1; }, "option prefault: -1 is not"},
      {"huge pages 1", [](auto& o) { o.huge_pages = PCACHE_HUGE_PAGES_NEVER; }, "ok"},
      {"huge pages 2", [](auto& o) { o.huge_pages = 2; },
       "option huge_pages: 2 is not 0 (auto) or 1 (never)"},
      {"dirty high 101", [](auto& o) { o.dirty_high_percent = 101; },
       "option dirty_high_percent: 101 is not in 0..100"},
      {"a cleaner", [](auto& o) { o.dirty_high_percent = 0; }, "ok"},
      {"dirty low as high", [](auto& o) { o.dirty_low_percent = 100; }, "ok"},
      {"dirty low above high", [](auto& o) { o.dirty_high_percent = 49, o.dirty_low_percent = 50; },
       "option dirty_low_percent: 50 is more than dirty_high_percent, which is 49; set it to that "
       "at most, or to auto"},
      {"rate none", [](auto& o) { o.writeback_rate = 0; }, "ok"},
      {"rate least", [](auto& o) { o.writeback_rate = 65536; }, "ok"},
      {"rate too small", [](auto& o) { o.writeback_rate = 65535; },
       "option writeback_rate: 65535 bytes/s: expected 65536 (64 KiB) to 1099511627776 (1 TiB), or "
       "0: set it to one of these"},
      {"rate 1", [](auto& o) { o.writeback_rate = 1; }, "option writeback_rate: 1 bytes/s: exp"},
      {"rate -1", [](auto& o) { o.writeback_rate = -1; }, "option writeback_rate: -1 bytes/s: exp"},
      {"rate most", [](auto& o) { o.writeback_rate = 1LL << 40; }, "ok"},
      {"rate too large", [](auto& o) { o.writeback_rate = (1LL << 40) + 1; },
       "option writeback_rate: 1099511627777 bytes/s: expected 65536"},
      {"readonly", [](auto& o) { o.readonly = 1; }, "ok"},
      {"readonly 2", [](auto& o) { o.readonly = 2; }, "option readonly: 2 is not 0 or 1"},
      {"readonly drain", [](auto& o) { o.readonly = o.drain = 1; },
       "option drain: contradicts readonly=1"},
      {"readonly gc", [](auto& o) { o.readonly = 1, o.gc_percent = 70; },
       "option gc_percent: contradicts readonly=1"},
      {"readonly force", [](auto& o) { o.readonly = o.force = 1; }, "ok"},
      {"force 2", [](auto& o) { o.force = 2; }, "option force: 2"},
      {"crc 0", [](auto& o) { o.data_crc = 0; }, "ok"},
      {"crc 1", [](auto& o) { o.data_crc = 1; }, "ok"},
      {"crc 2", [](auto& o) { o.data_crc = 2; }, "option data_crc: 2 is not 0, 1 or -1"},
      {"crc -2", [](auto& o) { o.data_crc = -2; }, "option data_crc: -2"},
      {"gc 0", [](auto& o) { o.gc_percent = 0; }, "ok"},
      {"gc 90", [](auto& o) { o.gc_percent = 90; }, "ok"},
      {"gc 91", [](auto& o) { o.gc_percent = 91; }, "option gc_percent: 91 is not in 0..90"},
      // Hazard option-truncated: 256 in eight bits is 0.
      {"gc 256", [](auto& o) { o.gc_percent = 256; }, "option gc_percent: 256"},
      {"gc -2", [](auto& o) { o.gc_percent = -2; }, "option gc_percent: -2"},
      {"gc 2^32", [](auto& o) { o.gc_percent = 1LL << 32; }, "option gc_percent: 4294967296"},
      {"delay 2^32+1", [](auto& o) { o.flush_delay_ms = (1LL << 32) + 1; },
       "option flush_delay_ms: 4294967297"},
      {"io 3", [](auto& o) { o.io_mode = 3; }, "option io_mode: 3"},
      {"io -1", [](auto& o) { o.io_mode = -1; }, "option io_mode: -1"},
      {"delay 0", [](auto& o) { o.flush_delay_ms = 0; },
       "option flush_delay_ms: 0 is not in 1..60000"},
      {"delay 60000", [](auto& o) { o.flush_delay_ms = 60000; }, "ok"},
      {"delay 60001", [](auto& o) { o.flush_delay_ms = 60001; }, "option flush_delay_ms: 60001"},
      {"size of a device", [](auto& o) { o.cache_size = 1 << 30; },
       "option cache_size: only files"},
      {"too small", [](auto& o) { o.emulate_pmem = 1, o.cache_size = (512 << 20) - 1; },
       "option cache_size: 536870911 bytes: expected 536870912 (512 MiB) to 1152921504606846976 "
       "(1024 PiB), or 0: set it to one of these"},
      {"size -1", [](auto& o) { o.emulate_pmem = 1, o.cache_size = -1; },
       "option cache_size: -1 bytes: expected 536870912"},
      {"smallest", [](auto& o) { o.emulate_pmem = 1, o.cache_size = 512 << 20; }, "ok"},
      {"persist auto", [](auto& o) { o.persist = "auto"; }, "ok"},
      {"persist empty", [](auto& o) { o.persist = ""; }, "ok"},
      {"persist unknown", [](auto& o) { o.persist = "hope"; }, "persist=hope: unknown method"},
  };
  for (const auto& row : rows) {
    pcache_options raw = good();
    row.change(raw);
    const auto options = check_options(raw);
    EXPECT_THAT(options ? "ok" : options.error().text, HasSubstr(row.verdict)) << row.name;
  }
}

TEST(CheckOptions, FromMediaIsNothing) {
  const auto options = check_options(good());
  ASSERT_TRUE(options.ok());
  EXPECT_FALSE(options.value().data_crc);
  EXPECT_FALSE(options.value().gc_percent);
}

TEST(CheckOptions, PagesAreMadeBesideUnlessAskedFor) {
  pcache_options raw = good();
  const Options beside = check_options(raw).take();
  EXPECT_TRUE(beside.prefault_beside && !beside.pmem.prefault);
  raw.prefault = PCACHE_PREFAULT_ATTACH;
  const Options attach = check_options(raw).take();
  EXPECT_TRUE(attach.pmem.prefault && !attach.prefault_beside);
  EXPECT_TRUE(attach.pmem.huge_pages);
  raw.huge_pages = PCACHE_HUGE_PAGES_NEVER;
  EXPECT_FALSE(check_options(raw).take().pmem.huge_pages);
}

TEST(CheckOptions, ValuesArriveInside) {
  pcache_options raw = good();
  raw.emulate_pmem = raw.data_crc = raw.force = 1;
  raw.gc_percent = 0;
  raw.cache_size = 1 << 30;
  raw.persist = "flushcache";
  raw.io_mode = PCACHE_IO_THREADS;
  raw.flush_delay_ms = 7;
  const auto checked = check_options(raw);
  ASSERT_TRUE(checked.ok());
  const Options& options = checked.value();
  EXPECT_EQ(options.pmem.path, "/cache");
  EXPECT_EQ(options.backing.path, "/backing");
  EXPECT_TRUE(options.pmem.emulate);
  EXPECT_EQ(options.pmem.create_bytes, 1u << 30);
  EXPECT_EQ(options.pmem.persist, "flushcache");
  EXPECT_EQ(options.backing.io_mode, IoMode::kThreads);
  EXPECT_EQ(options.data_crc, true);
  EXPECT_EQ(options.gc_percent, 0u);
  EXPECT_TRUE(options.force);
  EXPECT_EQ(options.flush_delay_ms, 7u);
}

TEST(CheckOptions, TheLogGoesToTheCallersFunction) {
  std::vector<std::string> lines;
  pcache_options raw = good();
  raw.log = [](void* ctx, pcache_log_level level, const char* line) {
    static_cast<std::vector<std::string>*>(ctx)->push_back(std::to_string(level) + " " + line);
  };
  raw.log_ctx = &lines;
  const auto options = check_options(raw);
  ASSERT_TRUE(options.ok());
  options.value().log.print(LogLevel::kNotice, "number %d", 5);
  EXPECT_THAT(lines, ElementsAre("2 number 5"));
}

TEST(CheckOptions, ABackendIsOfAFrontAlone) {
  pcache_options raw = good();
  raw.backend = "auto";
  const auto both = check_options(raw);
  ASSERT_FALSE(both.ok());
  EXPECT_THAT(both.error().text, HasSubstr("option backend: contradicts role=both"));
  raw.role = PCACHE_ROLE_FRONT;
  const auto front = check_options(raw);
  ASSERT_TRUE(front.ok());
  EXPECT_EQ(front.value().backend, "auto");
  EXPECT_EQ(front.value().backing.path, "/backing");
  raw.backend = "";
  EXPECT_FALSE(check_options(raw).ok());
}

}  // namespace
}  // namespace pcache
