// SPDX-License-Identifier: GPL-2.0-or-later
// What ends the log, what continues it, and what is damage.
#include "keylog/log_cursor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "keylog/log_for_test.h"

namespace pcache {
namespace {

using media::kSegDataBytes;
using media::KsetHeader;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Names = std::vector<std::string>;

constexpr uint32_t kHeader = sizeof(KsetHeader);

class Cursor : public ::testing::Test {
 protected:
  Names read(CachePos from = {}, CachePos* end = nullptr) {
    return read_log(image_.pmem(), *table_, from, end);
  }
  CachePos put(CachePos at, uint32_t name, uint32_t n) {
    return image_.kset(at, named_keys(name, n));
  }
  void change(CachePos at, const std::function<void(KsetHeader&)>& change) {
    auto header = image_.memory().peek<KsetHeader>(image_.off(at));
    change(header);
    image_.memory().poke(image_.off(at), header);
  }
  Image image_{5};
  const std::unique_ptr<SegmentTable> table_ = image_.table();
};

TEST_F(Cursor, AnEmptyLog) {
  CachePos end{SegId{9}, 9};
  EXPECT_THAT(read({}, &end), IsEmpty());
  EXPECT_EQ(end, CachePos{});
}

TEST_F(Cursor, TellsWhereItIs) {
  const CachePos second = put({}, 1, 3);
  const CachePos third = image_.last(put(second, 2, 1), SegId{3});
  LogCursor cursor(image_.pmem(), *table_, {});
  auto item = cursor.next();
  ASSERT_TRUE(item.ok());
  EXPECT_EQ(item.value().pos, CachePos{});
  EXPECT_EQ(item.value().next, second);
  EXPECT_EQ(item.value().keys.size(), 3u);
  EXPECT_EQ(item.value().keys[2].off, 1ull * kRangeBytes + 1024);
  ASSERT_TRUE(cursor.next().ok());
  item = cursor.next();
  ASSERT_TRUE(item.ok());
  EXPECT_EQ(item.value().kind, LogItem::Kind::kLast);
  EXPECT_EQ(item.value().next, third);
  for (int i = 0; i < 2; i++) {  // the end stays the end
    item = cursor.next();
    ASSERT_TRUE(item.ok());
    EXPECT_EQ(item.value().kind, LogItem::Kind::kEnd);
    EXPECT_EQ(item.value().pos, third);
    EXPECT_FALSE(item.value().torn);
  }
}

TEST_F(Cursor, CrossesSegments) {
  put(image_.last(put(image_.last(put({}, 1, 1), SegId{4}), 2, 128), SegId{1}), 3, 1);
  EXPECT_THAT(read(), ElementsAre("1x1", "LAST", "2x128", "LAST", "3x1"));
}

TEST_F(Cursor, LastKsetsThatLeadNowhere) {
  const CachePos at = put({}, 1, 1);
  const struct {
    uint32_t next;
    const char* error;
  } rows[] = {{5, "segment 5 of 5"}, {~0u, "segment 4294967295 of 5"}, {0, "a cycle"}};
  for (const auto& row : rows) {
    image_.last(at, SegId{row.next});
    EXPECT_THAT(read(), ElementsAre("1x1", HasSubstr(row.error)));
  }
  image_.last(image_.last(at, SegId{2}), SegId{2});
  EXPECT_THAT(read(), ElementsAre("1x1", "LAST", HasSubstr("a cycle")));
}

// Our own commit leaves such headers: torn in their first two words.
TEST_F(Cursor, ATornHeaderIsTheEnd) {
  const CachePos at = put({}, 1, 1);
  const struct {
    const char* name;
    std::function<void(KsetHeader&)> torn;
  } rows[] = {
      {"magic missing", [](KsetHeader& h) { h.magic = 0; }},
      {"crc and key_num missing", [](KsetHeader& h) { h.crc = h.key_num = 0; }},
  };
  for (const bool follower : {false, true})
    for (const auto& row : rows) {
      const CachePos behind = put(at, 2, 2);
      if (follower) put(behind, 3, 1);
      change(at, row.torn);
      CachePos end;
      EXPECT_THAT(read({}, &end), ElementsAre("1x1", "torn")) << row.name;
      EXPECT_EQ(end, at);
    }
}

TEST_F(Cursor, ATornLastHeaderIsTheEnd) {
  const CachePos at = put({}, 1, 1);
  put({SegId{3}, 0}, 2, 1);
  image_.last(at, SegId{3});
  change(at, [](KsetHeader& h) { h.magic = 0; });
  EXPECT_THAT(read(), ElementsAre("1x1", "torn"));
  image_.last(at, SegId{3});
  change(at, [](KsetHeader& h) { h.crc = h.key_num = 0; });
  EXPECT_THAT(read(), ElementsAre("1x1", "torn"));
  change(at, [](KsetHeader& h) { h = {}, h.flags = media::kKsetLast; });
  EXPECT_THAT(read(), ElementsAre("1x1", "torn")) << "the third word alone";
}

TEST_F(Cursor, OneDamagedFieldIsDamageEvenAtTheEnd) {
  const CachePos at = put({}, 1, 1);
  const struct {
    const char* name;
    std::function<void(KsetHeader&)> damage;
  } rows[] = {
      {"magic", [](KsetHeader& h) { h.magic ^= 1; }},
      {"key_num less", [](KsetHeader& h) { h.key_num = 1; }},
      {"key_num more", [](KsetHeader& h) { h.key_num = 3; }},
      {"key_num 0", [](KsetHeader& h) { h.key_num = 0; }},
      {"key_num huge", [](KsetHeader& h) { h.key_num = ~0u; }},
      {"flags say LAST", [](KsetHeader& h) { h.flags = media::kKsetLast; }},
      {"unknown flag", [](KsetHeader& h) { h.flags = 1u << 7; }},
  };
  for (const auto& row : rows) {
    put(at, 2, 2);
    change(at, row.damage);
    EXPECT_THAT(read(), ElementsAre("1x1", HasSubstr("one field"))) << row.name;
  }
}

// Where the log has led to it in front of the kset, whatever is left of the flags; elsewhere up to
// two bits.
TEST_F(Cursor, ADamagedPositionIsDamage) {
  const CachePos at = put({}, 1, 1);
  put(at, 2, 2);
  alignas(8) std::byte bytes[media::kMaxKsetBytes];
  ASSERT_TRUE(image_.pmem().load(bytes, image_.off(at), kset_bytes(2)));
  auto* const header = reinterpret_cast<KsetHeader*>(bytes);
  const auto damaged = [&](uint64_t flags) {
    change(at, [&](KsetHeader& h) { h = *header, h.flags = flags; });
    return read();
  };
  for (const CachePos end : {CachePos{SegId{3}, 4096}, at, CachePos{}}) {
    seal_kset(header, {reinterpret_cast<const media::Key*>(header + 1), 2},
              pass_flags({end, 5}) | media::kKsetSameEpoch);
    const uint64_t flags = header->flags;
    EXPECT_THAT(damaged(flags), ElementsAre("1x1", "2x2"));
    const auto is_damage = ElementsAre("1x1", HasSubstr("one field"));
    for (const int bit : {0, 1, 2, 12, 24, 50, 63}) {
      EXPECT_THAT(damaged(flags ^ uint64_t{1} << bit), is_damage) << bit;
      EXPECT_THAT(damaged(flags ^ uint64_t{1} << bit ^ uint64_t{1} << 40), is_damage) << bit;
    }
    if (end.seg.v == 3) continue;
    for (const uint64_t left :
         {uint64_t{0}, ~uint64_t{0}, media::kKsetSameEpoch, ~flags, uint64_t{0x123456789abcdef0}})
      EXPECT_THAT(damaged(left), is_damage) << left;
  }
}

TEST_F(Cursor, ADamagedLastHeaderIsDamage) {
  for (const uint32_t next : {2u, 0u, 7u}) {
    const CachePos at = put({}, 1, 1);
    image_.last(at, SegId{3});
    change(at, [&](KsetHeader& h) { h.key_num = next; });
    EXPECT_THAT(read(), ElementsAre("1x1", HasSubstr("one field"))) << next;
  }
}

TEST_F(Cursor, ABrokenBodyIsTheEndOnlyIfNothingValidFollows) {
  const CachePos at = put({}, 1, 1);
  const CachePos behind = put(at, 2, 2);
  image_.memory().flip_bit(image_.off(at) + kHeader + 5);
  EXPECT_THAT(read(), ElementsAre("1x1", "torn")) << "the kernel target tears so";
  put(behind, 3, 1);
  EXPECT_THAT(read(), ElementsAre("1x1", HasSubstr("a valid one follows at segment 0")));
  image_.last(behind, SegId{2});
  EXPECT_THAT(read(), ElementsAre("1x1", HasSubstr("a valid one follows")));
}

TEST_F(Cursor, AWrongCrcFieldWithAFollowerIsDamage) {
  const CachePos behind = put({}, 1, 1);
  put(behind, 2, 1);
  change({}, [](KsetHeader& h) { h.crc ^= 1; });
  EXPECT_THAT(read(), ElementsAre(HasSubstr("a valid one follows")));
}

TEST_F(Cursor, ABrokenLastKsetWithAFollowerIsDamage) {
  const CachePos at = put({}, 1, 1);
  image_.last(at, SegId{3});
  change(at, [](KsetHeader& h) { h.crc ^= 1; });
  EXPECT_THAT(read(), ElementsAre("1x1", "torn"));
  put({SegId{3}, 0}, 2, 1);
  EXPECT_THAT(read(), ElementsAre("1x1", HasSubstr("a valid one follows at segment 3:0")));
}

TEST_F(Cursor, AtTheSegmentsEnd) {
  CachePos end;
  const CachePos last_place{SegId{0}, kSegDataBytes - kHeader};
  EXPECT_THAT(read(last_place, &end), IsEmpty());
  EXPECT_EQ(end, last_place);
  put(image_.last(last_place, SegId{3}), 2, 1);
  EXPECT_THAT(read(last_place), ElementsAre("LAST", "2x1"));
  const CachePos fits{SegId{0}, kSegDataBytes - kHeader - kset_bytes(4)};
  put(fits, 1, 4);
  EXPECT_THAT(read(fits), ElementsAre("1x4", "LAST", "2x1"));
}

// There is room for one header behind every kset. A crafted kset that leaves none would lead the
// log to a head outside the segment (hazards media-numbers-trusted, read-past-segment).
TEST_F(Cursor, AKsetThatLeavesNoRoomForAHeaderIsDamage) {
  for (const uint32_t room : {0u, 8u, 16u}) {
    Image image(5);
    const CachePos at{SegId{0}, kSegDataBytes - kset_bytes(4) - room};
    image.kset(at, named_keys(1, 4));
    CachePos end;
    const Names found = read_log(image.pmem(), *image.table(), at, &end);
    const bool refused = !found.empty() && found.back().starts_with("error");
    EXPECT_TRUE(refused || end.off <= kSegDataBytes - kHeader)
        << "the log's head would be at " << end.off << " of " << kSegDataBytes;
  }
}

TEST_F(Cursor, AKsetThatWouldOverrunItsSegmentIsNotOne) {
  const CachePos at{SegId{0}, kSegDataBytes - kset_bytes(4) + 8};
  image_.kset(at, named_keys(1, 4));  // its last bytes stand in the next segment's info
  const Names found = read(at);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0], "torn") << "what stands behind the segment was read, and made it valid";
}

TEST_F(Cursor, MediaErrors) {
  // The second kset's header and the third one's keys have pages of their own.
  const CachePos second{SegId{0}, 2 * kPageBytes};
  image_.memory().make_unreadable(image_.off(second));
  EXPECT_THAT(read(second), ElementsAre(HasSubstr("log at segment 0:8192: media error")));
  const CachePos across{SegId{1}, kPageBytes - 100};
  image_.kset(across, named_keys(1, 50));
  image_.memory().make_unreadable(image_.off({SegId{1}, kPageBytes}));
  EXPECT_THAT(read(across), ElementsAre(HasSubstr("media error")));
  LogCursor cursor(image_.pmem(), *table_, second);
  EXPECT_EQ(cursor.next().error().code, EIO);
}

// An empty log may end right before a bad page; no kset there was ever acknowledged.
TEST_F(Cursor, ABadPageBehindTheClearedHeaderDoesNotHurt) {
  const CachePos at{SegId{0}, kPageBytes - kHeader};
  image_.memory().make_unreadable(image_.off({SegId{0}, kPageBytes}));
  EXPECT_THAT(read(at), IsEmpty());
}

// For tools: the log goes on behind the damage of the tests above.
class Salvage : public Cursor {
 protected:
  Names read_on() {
    LogCursor cursor(image_.pmem(), *table_, {}, {.until = std::nullopt, .salvage = true});
    Names names;
    for (;;) {
      const auto next = cursor.next();
      if (!next) {
        names.push_back("error: " + next.error().text);
        return names;
      }
      const LogItem& item = next.value();
      constexpr const char* kKinds[] = {"keys", "LAST", "end", "lost"};
      names.push_back(std::string(item.damage ? "damaged " : "") +
                      kKinds[static_cast<int>(item.kind)] + std::to_string(item.keys.size()));
      if (item.kind == LogItem::Kind::kEnd) return names;
    }
  }
};

TEST_F(Salvage, AHeaderWithOneDamagedFieldIsPutRight) {
  const CachePos second = put({}, 1, 3);
  const CachePos third = put(second, 2, 5);
  put(third, 3, 1);
  change(second, [](KsetHeader& h) { h.key_num = 99; });
  EXPECT_THAT(read_on(), ElementsAre("keys3", "damaged keys5", "keys1", "end0"));
  change(second, [](KsetHeader& h) { h.key_num = 5, h.magic ^= 4; });
  EXPECT_THAT(read_on(), ElementsAre("keys3", "damaged keys5", "keys1", "end0"));
}

TEST_F(Salvage, ABrokenKsetIsPassed) {
  const CachePos second = put({}, 1, 3);
  const CachePos third = put(second, 2, 5);
  put(third, 3, 1);
  image_.memory().flip_bit(image_.off(second) + kHeader + 5);
  EXPECT_THAT(read_on(), ElementsAre("keys3", "damaged lost0", "keys1", "end0"));
}

TEST_F(Salvage, ABrokenLastKsetIsPassedOnce) {
  const CachePos at = put({}, 1, 1);
  image_.last(at, SegId{3});
  image_.last(put({SegId{3}, 0}, 2, 1), SegId{0});
  change(at, [](KsetHeader& h) { h.crc ^= 1; });
  EXPECT_THAT(read_on(), ElementsAre("keys1", "damaged lost0", "keys1", HasSubstr("a cycle")));
}

}  // namespace
}  // namespace pcache
