// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/check.h"

#include "inspect/survey_for_test.h"

namespace pcache {
namespace {

using media::kKeyClean;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CheckTest : public ImageTest {
 protected:
  template <typename Record>
  void damage(const ReplicaPlace& place, int replica) {
    image_.memory().flip_bit(place.base + (replica * place.stride + sizeof(Record) - 1));
  }
  template <typename Record>
  void rewrite(const ReplicaPlace& place, const std::function<void(Record&)>& change) {
    Replicated<Record> replicated(place);
    Record record = *replicated.load(image_.pmem());
    change(record);
    EXPECT_TRUE(replicated.write(image_.pmem(), record));
    image_.pmem().fence();
  }
};

TEST_F(CheckTest, AnEmptyCacheIsClean) {
  const CheckReport report = check();
  EXPECT_EQ(report.exit_code(), 0);
  EXPECT_TRUE(report.attaches);
  EXPECT_EQ(report.log.segments_in_use(), 1u);
  EXPECT_TRUE(report.log.whole);
}

TEST_F(CheckTest, CountsWhatIsThere) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096}, kKeyClean)});
  image_.kset(image_.last(second, SegId{1}), {page(0, {kB, 0})});
  image_.dirty_tail(second);
  const CheckReport report = check();
  EXPECT_EQ(report.exit_code(), 0);
  EXPECT_EQ(report.log.ksets, 2u);
  EXPECT_EQ(report.log.keys, 3u);
  EXPECT_EQ(report.dirty_bytes, 4096u);
  EXPECT_EQ(report.log.segments_in_use(), 4u);
  EXPECT_EQ(report.log.live_keys[2], 2u);
}

TEST_F(CheckTest, ABlankDeviceIsNoFinding) {
  MemoryPmem memory(device_bytes(kSegments));
  const CheckReport report = check_image(memory.pmem(), {});
  EXPECT_EQ(report.exit_code(), 0);
  EXPECT_TRUE(report.frame.blank);
  EXPECT_TRUE(report.attaches);
}

TEST_F(CheckTest, ATooSmallDevice) {
  MemoryPmem memory(64 << 20);
  const CheckReport report = check_image(memory.pmem(), {});
  EXPECT_EQ(report.exit_code(), 2);
  EXPECT_FALSE(report.attaches);
}

TEST_F(CheckTest, ATornReplicaIsAFinding) {
  image_.dirty_tail({});  // now both of its replicas are written
  damage<media::TailPos>(dirty_tail_place(), 0);
  damage<media::SegmentInfo>(segment_info_place(5), 1);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("torn-replica", "torn-replica"));
  EXPECT_EQ(report.exit_code(), 1);
  EXPECT_TRUE(report.attaches);
  EXPECT_THAT(report.findings.all()[0].where, HasSubstr("segment 5 segment_info"));
}

TEST_F(CheckTest, WithoutTailsTheLogIsLost) {
  damage<media::TailPos>(key_tail_place(), 0);
  damage<media::TailPos>(dirty_tail_place(), 0);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("tail", "tail"));
  EXPECT_FALSE(report.attaches);
  EXPECT_FALSE(report.log.walked);
}

TEST_F(CheckTest, DirtyTailStandsInForKeyTail) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  image_.kset(second, {page(1, {kA, 4096})});
  image_.dirty_tail(second);
  damage<media::TailPos>(key_tail_place(), 0);
  const CheckReport report = check();
  EXPECT_FALSE(report.attaches);
  EXPECT_EQ(report.log.start, second);
  EXPECT_EQ(report.log.ksets, 1u);
}

TEST_F(CheckTest, ADirtyTailBesideEveryKset) {
  image_.kset({}, {page(0, {kA, 0})});
  image_.dirty_tail({SegId{0}, 8});
  EXPECT_THAT(codes(), ElementsAre("dirty-tail"));
  EXPECT_FALSE(check().attaches);
}

TEST_F(CheckTest, EveryBadKeyIsNamed) {
  image_.kset({}, {page(20000, {kA, 0}), page(1, {kA, 4096}), page(30000, {kA, 8192})});
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("bad-key", "bad-key"));
  EXPECT_EQ(report.log.keys, 1u);
  EXPECT_FALSE(report.attaches);
  EXPECT_EQ(check(0).exit_code(), 0) << "how large the backing device is, is not known";
}

TEST_F(CheckTest, DataInTheLog) {
  image_.kset({}, {make_key({0, 4096}, {SegId{0}, 1 << 20})});
  EXPECT_THAT(codes(), ElementsAre("data-in-log"));
  EXPECT_FALSE(check().attaches);
}

TEST_F(CheckTest, ALogThatRunsIntoData) {
  image_.last(image_.kset({}, {page(0, {SegId{1}, 8192})}), SegId{1});
  EXPECT_THAT(codes(), ElementsAre("log-over-data"));
  EXPECT_FALSE(check().attaches);
}

TEST_F(CheckTest, TwoKeysOfOnePlace) {
  image_.kset({}, {page(0, {kA, 0}), page(7, {kA, 0})});
  EXPECT_THAT(codes(), ElementsAre("shared-data"));
  EXPECT_EQ(check().exit_code(), 2);
}

// Writeback appends the key of data that it cannot read again, or keys of its remaining parts.
TEST_F(CheckTest, PartsOfAnExtentThatIsDamagedMayShareIt) {
  image_.kset({}, {page(0, {kA, 0}), make_key({512, 1024}, {kA, 512}), page(0, {kA, 0})});
  image_.memory().checkpoint();
  image_.memory().make_unreadable(image_.off({kA, 0}));
  EXPECT_THAT(codes(), ElementsAre("bad-dirty-data"));
}

// A kset copied over a later one looks so: of the same length, or of another.
TEST_F(CheckTest, AKeyThatComesAgainOverSoundDataIsDamage) {
  const std::vector<media::Key> old = {page(0, {kA, 0}), page(1, {kA, 4096})};
  const CachePos second = image_.kset({}, old);
  const CachePos third = image_.kset(second, {page(0, {kA, 8192}), page(1, {kA, 12288})});
  image_.kset(third, {page(7, {kA, 16384})});
  EXPECT_THAT(codes(), IsEmpty());
  image_.kset(second, old);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("repeated-keys"));
  EXPECT_EQ(report.exit_code(), 2);
  EXPECT_THAT(report.findings.all().back().where, HasSubstr(position_text(second)));
  EXPECT_FALSE(report.trusted_but_for_data()) << "writeback would write old data over new";
}

// Writeback could not read them; then the bad page was cleared, and now it reads as zeros.
TEST_F(CheckTest, AKeyAppendedAgainWhoseDataCanBeReadNowIsNoCopy) {
  const CachePos second =
      image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096}), page(2, {kA, 8192})});
  const CachePos third = image_.kset(second, {page(1, {kA, 4096})});
  image_.kset(third, {page(1, {kA, 4096}), page(2, {kA, 8192})});
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("keys-appended-again", "keys-appended-again"));
  EXPECT_THAT(report.findings.all().back().text, HasSubstr("may not be what was written"));
  EXPECT_EQ(report.exit_code(), 1);
  image_.kset(third, {page(0, {kA, 0}), page(2, {kA, 8192}), page(1, {kA, 4096})});
  EXPECT_THAT(codes(), ElementsAre("keys-appended-again", "keys-appended-again"))
      << "in another order";
}

TEST_F(CheckTest, AnEndThatNoCrashLeavesWithKsetsBehindItIsNoTornEnd) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  const CachePos third =
      image_.kset(second, {page(1, {kA, 4096}), page(2, {kA, 8192}), page(3, {kA, 12288})});
  const CachePos end = image_.kset(third, {page(4, {kA, 16384})});
  image_.memory().poke(image_.off(end), uint64_t{0x1234567});
  EXPECT_THAT(codes(), ElementsAre("torn-tail"));
  image_.clear_header(end);
  image_.kset(second, {page(5, {kB, 0})});  // shorter: what follows it is the middle of a kset
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("log-cut"));
  EXPECT_THAT(report.findings.all().back().text, HasSubstr(position_text(third)));
  EXPECT_EQ(report.exit_code(), 2);
}

// A crash of the kernel target may leave both behind the log's last kset: the middle of an old
// kset, and a whole kset whose keys are live, since newer data keeps their segment.
TEST_F(CheckTest, WhatAnEarlierLifeOfTheLogHasLeftIsNoLoss) {
  const CachePos end = image_.kset({}, {page(1, {kA, 8192})});
  media::KsetHeader middle{};
  middle.crc = 7;
  middle.magic = 4096;
  image_.memory().poke(image_.off(end), middle);
  const CachePos old = end + 640;
  const CachePos older = image_.kset(old, {page(9, {kA, 0})});
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("log-may-be-cut"));
  EXPECT_THAT(report.findings.all().back().text, HasSubstr(position_text(old)));
  EXPECT_EQ(report.exit_code(), 1);
  EXPECT_TRUE(report.trusted_but_for_data());
  image_.kset(older, {page(3, {kA, 4096}), page(4, {kA, 12288})});
  EXPECT_THAT(codes(), ElementsAre("log-cut")) << "of a place that was handed out later";
  image_.kset(older, {page(3, {kA, 4096}), page(4, {kB, 0})});
  EXPECT_THAT(codes(), ElementsAre("log-cut")) << "of a segment that the log does not name";
  image_.kset(older, {page(3, {kA, 4096}), page(4, {kA, 4096}, 0, 1)});
  EXPECT_THAT(codes(), ElementsAre("log-cut")) << "of a generation that the log does not prove";
}

TEST_F(CheckTest, ATornEnd) {
  const CachePos end = image_.kset({}, {page(0, {kA, 0})});
  image_.memory().poke(image_.off(end), media::kKsetMagic);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("torn-tail"));
  EXPECT_EQ(report.exit_code(), 1);
}

TEST_F(CheckTest, BehindADamagedKsetItGoesOn) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  const CachePos third = image_.kset(second, {page(1, {kA, 4096})});
  image_.kset(third, {page(2, {kA, 8192})});
  image_.memory().flip_bit(image_.off(second) + sizeof(media::KsetHeader) + 3);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("log-damaged"));
  EXPECT_EQ(report.log.keys, 2u) << "of the first and the third";
  EXPECT_FALSE(report.log.whole);
  EXPECT_FALSE(report.attaches);
}

TEST_F(CheckTest, ALostGenerationIsTheLogs) {
  image_.generation(kA, 3);
  image_.kset({}, {page(0, {kA, 0}, 0, 3)});
  damage<media::SegmentGen>(segment_gen_place(kA.v), 0);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("torn-replica", "generation-lost"));
  EXPECT_TRUE(report.attaches);
  EXPECT_EQ(report.log.segments->generation(kA), 3u);
}

TEST_F(CheckTest, AGenerationThatNoRecordLostIsNoGeneration) {
  image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096}, 0, 3)});
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("generation-impossible", "dead-dirty-keys", "lost-range"));
  EXPECT_EQ(report.exit_code(), 2);
}

TEST_F(CheckTest, DirtyTailThatFellBackBehindKeyTail) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  image_.kset(second, {page(1, {kA, 4096})});
  image_.dirty_tail(second);
  image_.key_tail(second);
  damage<media::TailPos>(dirty_tail_place(), 1);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("torn-replica", "dirty-tail-lost"));
  EXPECT_TRUE(report.attaches);
  EXPECT_EQ(report.dirty_bytes, 4096u);
}

TEST_F(CheckTest, ADirtyTailBehindTheLogsEndIsNoOldOne) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  image_.dirty_tail(second + 640);
  image_.dirty_tail({});
  damage<media::TailPos>(dirty_tail_place(), 0);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("torn-replica", "dirty-tail"));
  EXPECT_FALSE(report.attaches) << "the log was longer";
}

TEST_F(CheckTest, ADamagedLogIsTakenUpAgainAtDirtyTail) {
  const CachePos second = image_.last(image_.kset({}, {page(0, {kA, 0})}), SegId{7});
  image_.kset(second, {page(1, {kA, 4096})});
  image_.dirty_tail(second);
  image_.memory().checkpoint();
  image_.memory().make_unreadable(image_.off({}));
  CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("dirty-tail", "log-unreadable"));
  EXPECT_EQ(report.log.dirty_keys, 1u);
  for (int replica : {0, 1}) damage<media::TailPos>(dirty_tail_place(), replica);
  report = check();
  EXPECT_THAT(codes(report), ElementsAre("tail", "log-unreadable", "log-searched"))
      << "it is found by what it looks like";
  EXPECT_EQ(report.log.keys, 1u);
}

TEST_F(CheckTest, AWrongCountUnderAValidCrcIsNoEnd) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  auto header = image_.memory().peek<media::KsetHeader>(image_.off(second));
  header.magic = media::kKsetMagic;
  header.crc = record_crc(header);
  image_.memory().poke(image_.off(second), header);
  EXPECT_THAT(codes(), ElementsAre("log-damaged"));
  EXPECT_FALSE(check().attaches);
}

TEST_F(CheckTest, ReplicasThatContradictEachOther) {
  image_.key_tail({SegId{0}, 64});
  image_.key_tail({});
  auto tail = image_.memory().peek<media::TailPos>(key_tail_place().base);
  tail.seg_off = 128;
  const auto newest = image_.memory().peek<media::TailPos>(key_tail_place().base + 16);
  tail.header.seq = newest.header.seq;
  tail.header.crc = record_crc(tail);
  image_.memory().poke(key_tail_place().base, tail);
  EXPECT_TRUE(check().findings.has("same-sequence"));
}

TEST_F(CheckTest, ATornLinkIsAFinding) {
  image_.memory().flip_bit(segment_info_place(5).base + 8);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("segment-link", "torn-replica"));
  EXPECT_TRUE(report.attaches);
}

// A crash of the kernel target's reclaim leaves dead keys before dirty_tail; they must not take or
// drop references (hazard dead-key-references).
TEST_F(CheckTest, DeadKeysBeforeDirtyTailAreANote) {
  image_.generation(kA, 2);
  image_.dirty_tail(image_.kset({}, {page(0, {kA, 0}, 0, 1)}));
  const CheckReport report = check();
  EXPECT_EQ(report.exit_code(), 0);
  EXPECT_TRUE(report.findings.has("dead-keys"));
}

TEST_F(CheckTest, DeadDirtyKeysBehindDirtyTailAreLost) {
  image_.generation(kA, 2);
  CachePos at = image_.kset({}, {page(0, {kA, 0}, 0, 1), page(1, {kA, 4096}, 0, 1),
                                 page(2, {kA, 8192}, kKeyClean, 1), page(9, {kA, 12288}, 0, 1)});
  at = image_.kset(at, {page(1, {kB, 0}), page(9, {kB, 4096}, kKeyClean)});
  const CheckReport report = check();
  EXPECT_EQ(report.exit_code(), 2);
  EXPECT_THAT(codes(report), ElementsAre("dead-dirty-keys", "lost-range", "lost-range"));
  EXPECT_THAT(report.log.lost.ranges(),
              ElementsAre(std::pair<const uint64_t, uint64_t>{0, 4096},
                          std::pair<const uint64_t, uint64_t>{9 * 4096, 10 * 4096}))
      << "page 1 was written again, page 2 is clean, page 9 was only read again";
  EXPECT_TRUE(report.attaches);
  EXPECT_FALSE(report.trusted_but_for_data());
  EXPECT_EQ(report.recovered->replayed.dead_dirty_keys, 3u);
  image_.kset(at, {page(0, {kB, 8192}), page(9, {kB, 12288})});
  EXPECT_EQ(check().log.lost.bytes(), 0u);
  EXPECT_EQ(check().exit_code(), 1) << "all was written again";
}

TEST_F(CheckTest, WhatIsSaidOfAnotherDirtyTailIsANote) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  const CachePos third = image_.kset(second, {page(1, {kA, 4096})});
  const CachePos at = image_.kset(third, {page(0, {kA, 8192}), page(1, {kA, 12288})});
  const uint64_t flags = pass_flags({third, 1});
  image_.kset(at, {page(2, {kA, 16384})}, flags);
  EXPECT_TRUE(check().findings.has("dirty-tail-set-back")) << "it was said from the second on";
  EXPECT_EQ(check().exit_code(), 0);
  image_.dirty_tail(second);
  EXPECT_FALSE(check().findings.has("dirty-tail-set-back"));
  image_.dirty_tail(at);
  EXPECT_FALSE(check().findings.has("dirty-tail-set-back")) << "it has passed that";
  EXPECT_FALSE(check().findings.has("pass-unchecked"));
  image_.kset(at, {page(2, {kA, 16384})},
              flags & ((uint64_t{1} << media::kKsetPassKsetsShift) - 1));
  EXPECT_TRUE(check().findings.has("pass-unchecked"));
  EXPECT_EQ(check().exit_code(), 0);
}

TEST_F(CheckTest, DirtyBytesAreCountedOnce) {
  image_.kset({}, {page(0, {kA, 0}), page(0, {kA, 4096}), page(1, {kA, 8192})});
  const CheckReport report = check();
  EXPECT_EQ(report.dirty_bytes, 8192u);
  EXPECT_EQ(report.log.dirty_key_bytes, 12288u);
}

TEST_F(CheckTest, AReplicaThatWasNeverWrittenIsNoFinding) {
  for (int i = 0; i < 4; i++) image_.generation(kB, 1);
  const media::SegmentGen zeros{};
  image_.memory().poke(segment_gen_place(kB.v).base, zeros);
  const CheckReport report = check();
  EXPECT_EQ(report.exit_code(), 0);
  EXPECT_TRUE(report.findings.has("unwritten-replica"));
}

TEST_F(CheckTest, AnotherVersionOfTheFormatIsNamedAndNotLookedInto) {
  media::Superblock superblock{};
  superblock.crc = 0x98db695a;  // crc32, see other_version_test.cc
  superblock.magic = media::kSuperblockMagic;
  superblock.seg_num = 31;
  image_.memory().poke(MediaOff{media::kSuperblockOff}, superblock);
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("other-version"));
  EXPECT_FALSE(report.attaches);
}

// The log goes on behind the unreadable page, in its segment and in the next one.
TEST_F(CheckTest, KsetsBehindAnUnreadablePageAreFound) {
  std::vector<media::Key> keys;
  for (uint64_t i = 0; i < 120; i++) keys.push_back(page(i, {kA, static_cast<uint32_t>(i * 4096)}));
  const CachePos second = image_.kset({}, keys);  // more than a page
  const CachePos third = image_.last(image_.kset(second, {page(200, {kB, 0})}), SegId{5});
  image_.kset(third, {page(201, {kB, 4096})});
  image_.memory().checkpoint();
  image_.memory().make_unreadable(image_.off({}));
  CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("log-unreadable"));
  EXPECT_EQ(report.log.keys, 2u);
  EXPECT_FALSE(report.attaches);
  for (int replica : {0, 1}) {
    damage<media::TailPos>(key_tail_place(), replica);
    damage<media::TailPos>(dirty_tail_place(), replica);
  }
  report = check();
  EXPECT_EQ(report.log.keys, 2u) << "without tails as well";
  EXPECT_TRUE(report.findings.has("log-searched"));
}

// A segment that the log has left may still lead to it: its ksets are older than key_tail.
TEST_F(CheckTest, WithoutTailsReclaimedKsetsAreLeftOut) {
  image_.generation(kA, 3);
  image_.last(image_.kset({}, {page(0, {kA, 0}, 0, 2)}), SegId{7});
  const CachePos log{SegId{7}, 0};
  image_.last(image_.kset(log, {page(1, {kB, 0})}), SegId{9});
  image_.kset({SegId{9}, 0}, {page(0, {kB, 4096})});
  for (int replica : {0, 1}) {
    damage<media::TailPos>(key_tail_place(), replica);
    damage<media::TailPos>(dirty_tail_place(), replica);
  }
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("tail", "tail", "log-searched"));
  EXPECT_EQ(report.log.start, log);
  EXPECT_EQ(report.log.keys, 2u);
  EXPECT_EQ(report.log.dead_keys, 0u);
}

TEST_F(CheckTest, UnreadablePagesAreNamedByWhatLivesThere) {
  image_.kset({}, {page(0, {kA, 0})});
  image_.memory().checkpoint();
  const uint64_t free = segment_data_off(9).v + 40960;
  for (const uint64_t at : {free, free + 4096, segment_gen_place(4).base.v, uint64_t{8192}})
    image_.memory().make_unreadable(MediaOff{at});
  CheckOptions options;
  options.scan_media = true;
  const CheckReport report = check_image(image_.pmem(), options);
  std::vector<std::string> texts;
  for (const Finding& finding : report.findings.all())
    if (finding.code == "unreadable-page") texts.push_back(finding.where + ": " + finding.text);
  EXPECT_THAT(texts, ElementsAre(HasSubstr("8192: 4096 bytes cannot be read (media error); here is "
                                           "cache_info, replica 0"),
                                 HasSubstr("segment 4's generation"),
                                 AllOf(HasSubstr(std::to_string(free) + ": 8192 bytes"),
                                       HasSubstr("segment 9, which is free"))));
  EXPECT_EQ(report.exit_code(), 1);
  EXPECT_TRUE(report.attaches);
}

// The device has room for more segments, which a resize would use.
TEST_F(CheckTest, AnUnreadablePageBehindTheCachesLastSegmentIsANote) {
  MemoryPmem larger(device_bytes(kSegments + 2));
  std::byte head[media::kSegmentsOff];
  static_assert(sizeof head >= media::kSegDataOff);
  ASSERT_TRUE(image_.pmem().load(head, MediaOff{0}, sizeof head));
  larger.poke(MediaOff{0}, head, sizeof head);
  for (uint32_t i = 0; i < kSegments; i++) {
    const MediaOff at{media::kSegmentsOff + i * media::kSegmentBytes};
    ASSERT_TRUE(image_.pmem().load(head, at, media::kSegDataOff));
    larger.poke(at, head, media::kSegDataOff);
  }
  larger.checkpoint();
  larger.make_unreadable(MediaOff{segment_data_off(kSegments + 1).v + 40960});
  CheckOptions options;
  options.scan_media = true;
  const CheckReport report = check_image(larger.pmem(), options);
  EXPECT_EQ(report.exit_code(), 0);
  EXPECT_TRUE(report.findings.has("unreadable-page"));
  EXPECT_THAT(report.findings.all().back().text, HasSubstr("behind the cache's last segment"));
}

TEST_F(CheckTest, ABlankDeviceThatCannotBeFormattedDoesNotAttach) {
  MemoryPmem memory(device_bytes(kSegments));
  CheckOptions options;
  options.scan_media = true;
  memory.make_unreadable(MediaOff{segment_data_off(3).v + 40960});
  EXPECT_TRUE(check_image(memory.pmem(), options).attaches);
  memory.make_unreadable(segment_info_place(3).base);
  const CheckReport report = check_image(memory.pmem(), options);
  EXPECT_FALSE(report.attaches);
  EXPECT_EQ(report.exit_code(), 2);
}

TEST_F(CheckTest, ABrokenChainIsFollowedAsFormattingMadeIt) {
  image_.kset({}, {page(0, {SegId{9}, 0})});
  rewrite<media::SegmentInfo>(segment_info_place(5), [](auto& info) { info.next_seg = 2; });
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("segment-chain"));
  EXPECT_FALSE(report.attaches);
  EXPECT_EQ(report.frame.frame.chain.size(), kSegments);
  EXPECT_EQ(report.log.keys, 1u);
}

TEST_F(CheckTest, ABackingDeviceThatHasGrown) {
  EXPECT_TRUE(write_identity(image_.pmem(), {"test", kLogicalBytes - 512}, 1).ok());
  const CheckReport report = check();
  EXPECT_TRUE(report.findings.has("backing-grown"));
  EXPECT_THAT(codes(report), ElementsAre());
  EXPECT_TRUE(report.attaches);
  EXPECT_EQ(report.exit_code(), 0);
}

TEST_F(CheckTest, AnotherBackingDevice) {
  EXPECT_TRUE(write_identity(image_.pmem(), {"mine", kLogicalBytes}, 1).ok());
  const CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("other-backing"));
  EXPECT_FALSE(report.attaches);
}

TEST_F(CheckTest, FindingsOfAKindAreLimited) {
  std::vector<media::Key> keys(128, page(1 << 20, {kA, 0}));
  CachePos at{};
  for (int i = 0; i < 3; i++) at = image_.kset(at, keys);
  const CheckReport report = check();
  EXPECT_EQ(report.findings.all().size(), Findings::kMostOfACode + 1) << "and that of no identity";
  EXPECT_EQ(report.findings.omitted(), 3 * 128 - Findings::kMostOfACode);
}

class CheckDataTest : public ImageTest {
 protected:
  CheckDataTest() : ImageTest(FormatOptions{true}) {}
};

// The crc says that the data is sound, so writeback has not appended the key again.
TEST_F(CheckDataTest, AKeyThatComesAgainOverSoundDataIsDamage) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096})});
  image_.kset(second, {page(1, {kA, 4096})});
  EXPECT_THAT(codes(), ElementsAre("repeated-keys"));
}

TEST_F(CheckDataTest, DamagedDataIsNamedByWhatItMeans) {
  image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096}, kKeyClean), page(2, {kA, 8192})});
  image_.memory().flip_bit(image_.off({kA, 4096 + 7}));
  CheckReport report = check();
  EXPECT_THAT(codes(report), ElementsAre("bad-clean-data"));
  EXPECT_EQ(report.exit_code(), 1);
  image_.memory().flip_bit(image_.off({kA, 8192}));
  report = check();
  EXPECT_THAT(codes(report), ElementsAre("bad-clean-data", "bad-dirty-data"));
  EXPECT_EQ(report.exit_code(), 2);
  EXPECT_TRUE(report.attaches);
  EXPECT_THAT(report.findings.all().back().text, HasSubstr("range 8192+4096"));
}

}  // namespace
}  // namespace pcache
