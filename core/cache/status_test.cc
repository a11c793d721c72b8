// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/status.h"

#include <nlohmann/json.hpp>

#include "cache/cache_for_test.h"

namespace pcache {
namespace {

using nlohmann::json;

class StatusTest : public CacheTest {};

TEST_F(StatusTest, LineOfAFreshCacheIsTheKernels) {
  attach();
  // manifest.json of the golden images says for a_empty: "0 131072 pcache 0 31 31 1 70 1182 0:0 0:0
  // 0:0"
  EXPECT_EQ(status_line(*cache_), "0 131072 pcache 0 31 31 1 70 1182 0:0 0:0 0:0");
  detach();
}

TEST_F(StatusTest, LineFollowsTheLog) {
  options_.data_crc = true;
  options_.gc_percent = 3;
  attach();
  ASSERT_EQ(write(0, 4096, 1, PCACHE_REQ_FUA), 0);
  // flags 0xc3: gc_percent 3 << 6, init_done, data_crc
  EXPECT_EQ(status_line(*cache_), "0 131072 pcache 0 31 31 2 3 c3 0:64 0:0 0:0");
  detach();
}

// SEG_TOTAL is what the superblock says, also on a device that has grown since.
TEST_F(StatusTest, SegTotalIsTheSuperblocks) {
  prepare();
  media::Superblock sb = make_superblock(31);
  sb.seg_num = 16;
  sb.crc = record_crc(sb);
  memory_.poke(MediaOff{media::kSuperblockOff}, sb);
  CacheInfoFields fields;
  fields.n_segs = 16;
  fields.init_done = true;
  Replicated<media::CacheInfo> info(cache_info_place());
  info.load(memory_.pmem());
  EXPECT_TRUE(info.write(memory_.pmem(), make_cache_info(fields)));
  attach();
  EXPECT_EQ(status_line(*cache_), "0 131072 pcache 0 16 16 1 70 1182 0:0 0:0 0:0");
  detach();
}

TEST_F(StatusTest, JsonHasAllFields) {
  attach();
  const json status = json::parse(status_json(*cache_), nullptr, false);
  ASSERT_FALSE(status.is_discarded());
  const std::map<std::string, std::vector<std::string>> fields = {
      {"cache", {"pmem_kind", "persist", "readonly", "data_crc", "gc_percent"}},
      {"backing", {"bytes", "block_size", "io_mode", "identity"}},
      {"segments", {"total", "used", "free", "log", "data", "reserved_for_log", "retired"}},
      {"media", {"bad_pages", "log_failed", "tails_failed"}},
      {"log",
       {"key_head", "dirty_tail", "key_tail", "ksets", "groups", "keys", "rolls", "open_keys"}},
      {"replay",
       {"ksets", "keys", "dead_keys", "dirty_keys", "dirty_bytes", "torn_tail", "bad_clean_dropped",
        "bad_dirty_extents"}},
      {"dirty", {"ksets", "bytes"}},
      {"writeback",
       {"state", "last_error", "backoff_ms", "errors", "failed_writes", "batches", "ksets", "keys",
        "bytes", "writes", "written_bytes", "flushes", "bad_extents"}},
      {"reclaim",
       {"state", "ksets", "keys", "dead_keys", "forgotten_bytes", "bad_clean_extents", "errors"}},
      {"latency", {"read_hit", "read_miss", "write", "write_fua", "write_waited", "flush"}},
      {"index", {"mapped_bytes", "memory_bytes"}},
      {"requests",
       {"writes", "write_bytes", "reads", "read_bytes", "read_hits", "read_partial_hits",
        "read_misses", "flushes", "fua_writes", "errors", "waiting_for_space"}},
      {"events",
       {"fills", "fill_bytes", "fill_joins", "fills_uncached", "bad_clean_dropped",
        "bad_dirty_reads", "backing_errors", "waits_on_full"}},
  };
  EXPECT_EQ(status.value("version", 0), 1);
  for (const auto& [object, names] : fields) {
    ASSERT_TRUE(status.contains(object)) << object;
    for (const auto& name : names)
      EXPECT_TRUE(status[object].contains(name)) << object << "." << name;
    EXPECT_EQ(status[object].size(), names.size()) << object << ": name new fields here";
  }
  EXPECT_EQ(status.size(), fields.size() + 1);
  detach();
}

TEST_F(StatusTest, JsonCounts) {
  attach();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(write(8192, 4096, 1, PCACHE_REQ_FUA), 0);
  EXPECT_EQ(value_at(0, 4096), 1);
  EXPECT_EQ(value_at(1 << 20, 4096), -1);
  const json status = json::parse(status_json(*cache_));
  EXPECT_EQ(status["requests"]["writes"], 2);
  EXPECT_EQ(status["requests"]["write_bytes"], 8192);
  EXPECT_EQ(status["requests"]["fua_writes"], 1);
  EXPECT_EQ(status["requests"]["reads"], 2);
  EXPECT_EQ(status["requests"]["read_hits"], 1);
  EXPECT_EQ(status["requests"]["read_misses"], 1);
  EXPECT_EQ(status["events"]["fills"], 1);
  EXPECT_EQ(status["events"]["fill_bytes"], 4096);
  EXPECT_EQ(status["log"]["ksets"], 1);
  EXPECT_EQ(status["log"]["open_keys"], 1);
  EXPECT_EQ(status["log"]["key_head"], "0:104");
  EXPECT_EQ(status["index"]["mapped_bytes"], 12288);
  EXPECT_EQ(status["segments"]["data"], 1);
  EXPECT_EQ(status["segments"]["log"], 1);
  detach();
}

TEST_F(StatusTest, AnIdentityThatIsNotUtf8IsReplaced) {
  backing_ = "disk serial=\xff\xfe";
  attach();
  const json status = json::parse(status_json(*cache_), nullptr, false);
  EXPECT_FALSE(status.is_discarded());
  detach();
}

}  // namespace
}  // namespace pcache
