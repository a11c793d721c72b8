// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/status.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

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

// SEG_TOTAL is the superblock's, also if the device has grown since.
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
  std::map<std::string, std::set<std::string>> fields;
  for (size_t i = 0; i < status_field_count(); i++) {
    const StatusField& field = status_field(i);
    EXPECT_TRUE(fields[field.object].insert(field.name).second) << field.name << " is there twice";
    EXPECT_GT(std::string(field.text).size(), 2u) << field.name;
  }
  EXPECT_EQ(status.value("version", 0), 1);
  for (const auto& [object, names] : fields) {
    const json& part = object.empty() ? status : status[object];
    for (const auto& name : names) EXPECT_TRUE(part.contains(name)) << object << "." << name;
    if (!object.empty()) {
      EXPECT_EQ(part.size(), names.size()) << object;
    }
  }
  EXPECT_EQ(status.size(), fields.size() - 1 + fields[""].size());
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

// Who waits for something to happen compares two.
TEST_F(StatusTest, StaysTheSameWhileNothingHappens) {
  attach();
  ASSERT_EQ(write(0, 4096, 1), 0);
  const std::string before = status_json(*cache_);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(status_json(*cache_), before);
  detach();
}

// Of a queue that is gone, too; what is so, and no count, stays.
TEST_F(StatusTest, CountersBeginAnew) {
  attach();
  for (uint64_t i = 0; i < 3 * kSampling; i++) ASSERT_EQ(write(i * 4096, 4096, 1), 0);
  ASSERT_EQ(write(0, 4096, 1, PCACHE_REQ_FUA), 0);
  queue_ = cache_->create_queue(16).take();
  const json before = json::parse(status_json(*cache_));
  ASSERT_EQ(before["requests"]["writes"], 3 * kSampling + 1);
  ASSERT_EQ(before["latency"]["write"]["count"], 3);
  cache_->reset_counters();
  const json reset = json::parse(status_json(*cache_));
  for (size_t i = 0; i < status_field_count(); i++) {
    const StatusField& field = status_field(i);
    if (std::string(field.object) == "time") continue;  // says when that was
    const auto of = [&](const json& status) {
      return *field.object ? status[field.object][field.name] : status[field.name];
    };
    if (field.kind == StatusKind::kCounter)
      EXPECT_EQ(of(reset), 0) << field.object << "." << field.name;
    else if (field.kind == StatusKind::kState)
      EXPECT_EQ(of(reset), of(before)) << field.object << "." << field.name;
    else
      EXPECT_EQ(of(reset)["count"], 0) << field.object << "." << field.name;
  }
  ASSERT_EQ(write(0, 8192, 2), 0);
  const json after = json::parse(status_json(*cache_));
  EXPECT_EQ(after["requests"]["writes"], 1);
  EXPECT_EQ(after["requests"]["write_bytes"], 8192);
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
