// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/plan.h"

#include "background/background_for_test.h"

namespace pcache {
namespace {

using media::Key;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Key sectors(uint64_t first, uint64_t n, uint32_t flags = 0) {
  return make_key({first * kSectorBytes, n * kSectorBytes}, {}, 0, flags);
}

// A log that a test makes up: no pmem, no segments, no index.
class MadeUpKsets final : public KsetSource {
 public:
  Result<LogItem> next() override {
    if (at_ == bad_at) return make_error(EIO, "log: media error");
    LogItem item;
    item.pos = {SegId{0}, at_ * 4096};
    if (at_ == ksets.size()) return item;
    item.kind = LogItem::Kind::kKeys;
    item.next = {SegId{0}, (at_ + 1) * 4096};
    item.same_epoch =
        std::find(epoch_ends.begin(), epoch_ends.end(), from + at_) == epoch_ends.end();
    item.keys = ksets[at_++];
    return item;
  }
  bool is_live(const Key& key) const override { return key.seg_gen == 0; }

  std::vector<std::vector<Key>> ksets;
  uint64_t from = 100;               // the number of the first of them
  std::vector<uint64_t> epoch_ends;  // with these ksets epochs begin
  size_t bad_at = SIZE_MAX;

 private:
  uint32_t at_ = 0;
};

class Plan : public ::testing::Test {
 protected:
  Plan() {
    options_.from = {{SegId{0}, 0}, 100, 1 << 20};
    options_.end_ksets = UINT64_MAX;
    options_.batch_bytes = UINT64_MAX;
  }
  void make() {
    options_.end_ksets = std::min(options_.end_ksets, options_.from.ksets + log_.ksets.size());
    const Status made = make_plan(log_, options_, &plan_);
    ASSERT_TRUE(made.ok()) << made.error().text;
  }
  uint64_t passed() const { return plan_.end.ksets - plan_.begin.ksets; }
  // "FIRST+COUNT=KEY" of each piece, in sectors.
  std::vector<std::string> pieces() const {
    std::vector<std::string> text;
    for (const DirtyBatch::Piece& piece : plan_.pieces)
      text.push_back(std::to_string(piece.extent.off / kSectorBytes) + "+" +
                     std::to_string(piece.extent.len / kSectorBytes) + "=" +
                     std::to_string(piece.key));
    return text;
  }

  MadeUpKsets log_;
  PlanOptions options_;
  BatchPlan plan_;
};

TEST_F(Plan, IsOfTheNewestOfEachSectorByTheKeysAlone) {
  log_.ksets = {{sectors(0, 8), sectors(100, 8)}, {sectors(4, 8)}};
  make();
  EXPECT_THAT(pieces(), ElementsAre("0+4=0", "4+8=2", "100+8=1"));
  EXPECT_EQ(plan_.planned_bytes, 20 * kSectorBytes);
  EXPECT_EQ(plan_.batch.appended_bytes(), 24 * kSectorBytes);
  EXPECT_EQ(passed(), 2u);
  EXPECT_EQ(plan_.end.pos, (CachePos{SegId{0}, 8192}));
  EXPECT_EQ(plan_.end.dirty_bytes, (1 << 20) + 24 * kSectorBytes);
  EXPECT_EQ(plan_.epoch_from, 100u);
}

TEST_F(Plan, EndsWhereTheEpochOfItsFirstKeyEnds) {
  log_.ksets = {
      {sectors(0, 8, media::kKeyClean)}, {sectors(0, 1)}, {sectors(8, 1)}, {sectors(0, 1)}};
  log_.epoch_ends = {101, 103};
  make();
  EXPECT_EQ(passed(), 3u) << "the clean key's epoch bounds nothing";
  EXPECT_EQ(plan_.epoch_from, 101u);
  EXPECT_EQ(plan_.other_keys, 1u);
}

// As the kernel target leaves it.
TEST_F(Plan, WhereNoKsetGoesOnWithAnEpochIsOneKset) {
  log_.ksets = {{sectors(0, 1)}, {sectors(8, 1)}};
  log_.epoch_ends = {100, 101};
  make();
  EXPECT_EQ(passed(), 1u);
}

TEST_F(Plan, ThatIsToBeOfAnEpochUnderWayIsOfNoOther) {
  log_.ksets = {{sectors(0, 1, media::kKeyClean)}, {sectors(8, 1)}};
  log_.epoch_ends = {101};
  options_.in_epoch = true;
  make();
  EXPECT_EQ(passed(), 1u) << "it writes nothing itself";
  options_.from = {{SegId{0}, 4096}, 101, 1 << 20};
  log_ = {};
  log_.ksets = {{sectors(8, 1)}};
  log_.from = 101;
  log_.epoch_ends = {101};
  options_.end_ksets = UINT64_MAX;
  make();
  EXPECT_TRUE(plan_.empty());
  log_ = {};
  log_.ksets = {{sectors(8, 1)}};
  log_.epoch_ends = {100};
  options_.strict = false;
  make();
  EXPECT_EQ(passed(), 1u);
}

TEST_F(Plan, EndsWithTheKsetThatMakesItLargeEnough) {
  log_.ksets = {{sectors(0, 1)}, {sectors(8, 1), sectors(16, 8)}, {sectors(40, 1)}};
  options_.batch_bytes = 2 * kSectorBytes;
  make();
  EXPECT_EQ(passed(), 2u);
}

TEST_F(Plan, DeadKeysArePassed) {
  Key dead = sectors(0, 8);
  dead.seg_gen = 7;
  log_.ksets = {{dead, sectors(4, 1)}};
  make();
  EXPECT_THAT(pieces(), ElementsAre("4+1=0"));
  EXPECT_EQ(plan_.other_keys, 1u);
  EXPECT_EQ(plan_.end.dirty_bytes, (1 << 20) + kSectorBytes);
}

TEST_F(Plan, WhatIsKnownOfAKeyDecides) {
  log_.ksets = {{sectors(0, 1), sectors(8, 1), sectors(16, 1)}};
  options_.fate = [](const Key& key, uint64_t) {
    return key.off == 0                  ? KeyFate::kPass
           : key.off == 8 * kSectorBytes ? KeyFate::kKeep
                                         : KeyFate::kWrite;
  };
  make();
  EXPECT_THAT(pieces(), ElementsAre("16+1=0"));
  ASSERT_EQ(plan_.damaged.size(), 1u);
  EXPECT_EQ(plan_.damaged[0].off, 8 * kSectorBytes);
  EXPECT_EQ(plan_.other_keys, 1u);
  EXPECT_EQ(plan_.end.dirty_bytes, (1 << 20) + 3 * kSectorBytes);
  EXPECT_FALSE(plan_.has_only_damaged());
}

TEST_F(Plan, OfDamagedDataAloneIsKnown) {
  log_.ksets = {{sectors(0, 1)}};
  options_.fate = [](const Key&, uint64_t) { return KeyFate::kKeep; };
  make();
  EXPECT_TRUE(plan_.has_only_damaged());
  EXPECT_EQ(plan_.epoch_from, BatchPlan::kNoEpoch);
}

TEST_F(Plan, EndsInFrontOfAKsetThatAnotherBatchWritesTo) {
  BatchPlan other;
  other.pieces = {{{8 * kSectorBytes, 8 * kSectorBytes}, 0}};
  options_.busy = [&](const Extent& extent) { return other.writes_to(extent); };
  log_.ksets = {{sectors(0, 8)},
                {sectors(16, 1), sectors(8, 8, media::kKeyClean)},
                {sectors(20, 1), sectors(15, 1)},
                {sectors(40, 1)}};
  make();
  EXPECT_EQ(passed(), 2u);
  EXPECT_THAT(pieces(), ElementsAre("0+8=0", "16+1=1"));
}

TEST_F(Plan, IsEmptyWhereTheFirstKsetHasToWait) {
  log_.ksets = {{sectors(0, 8)}};
  options_.busy = [](const Extent&) { return true; };
  make();
  EXPECT_TRUE(plan_.empty());
  EXPECT_FALSE(plan_.has_only_damaged());
  EXPECT_THAT(pieces(), IsEmpty());
}

TEST_F(Plan, WritesToItsPiecesAndNothingElse) {
  log_.ksets = {{sectors(8, 8), sectors(32, 8)}};
  make();
  const auto writes = [&](uint64_t first, uint64_t n) {
    return plan_.writes_to({first * kSectorBytes, n * kSectorBytes});
  };
  EXPECT_FALSE(writes(0, 8));
  EXPECT_TRUE(writes(0, 9));
  EXPECT_TRUE(writes(10, 1));
  EXPECT_TRUE(writes(15, 1));
  EXPECT_FALSE(writes(16, 16));
  EXPECT_TRUE(writes(16, 17));
  EXPECT_TRUE(writes(0, 100));
  EXPECT_FALSE(writes(40, 8));
}

TEST_F(Plan, SavesWhatIsInFrontOfAKsetThatCannotBeRead) {
  log_.ksets = {{sectors(0, 8)}, {sectors(8, 8)}};
  log_.bad_at = 1;
  make();
  EXPECT_EQ(passed(), 1u);
  options_.from = plan_.end;
  const Status made = make_plan(log_, options_, &plan_);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, EIO);
}

TEST_F(Plan, OfALogThatEndsTooEarlyIsAnError) {
  log_.ksets = {{sectors(0, 8)}};
  options_.end_ksets = 102;
  ASSERT_TRUE(make_plan(log_, options_, &plan_).ok());
  EXPECT_EQ(passed(), 1u) << "what is in front of the damage is saved";
  options_.from = plan_.end;
  const Status made = make_plan(log_, options_, &plan_);
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(made.error().text, HasSubstr("ends before its head"));
}

TEST_F(Plan, IsMadeAnewInTheSameValue) {
  log_.ksets = {{sectors(0, 8)}, {sectors(8, 8)}};
  options_.end_ksets = 101;
  make();
  options_.from = plan_.end;
  options_.end_ksets = 102;
  ASSERT_TRUE(make_plan(log_, options_, &plan_).ok());
  EXPECT_THAT(pieces(), ElementsAre("8+8=0"));
  EXPECT_EQ(plan_.begin.ksets, 101u);
  EXPECT_EQ(plan_.epoch_from, 101u);
}

// What a second process can do that has mapped the pmem and holds no index, no stripes and no
// KeyLog: the tails, the segments and the log are on media.
TEST(PlanOfASecondSide, NeedsTheMediaAlone) {
  Image image(8);
  MemoryDevice device(64 << 20);
  RigOptions o;
  image.key_tail({});
  image.dirty_tail({});
  Rig rig(image.pmem(), image, device, o);
  for (uint32_t epoch = 0; epoch < 3; epoch++) {
    for (uint32_t i = 0; i < 100; i++) {
      rig.write((epoch * 100 + i) % 200 * 4096, 4096, epoch * 100 + i);
      if (i % 10 == 0) rig.close();
    }
    rig.flush();
  }

  const auto other_side = image.memory().make_pmem();
  Tails tails;
  ASSERT_TRUE(tails.load(*other_side, Bounds{o.segments, o.logical_bytes}).ok());
  const auto segments = image.table(*other_side);
  LogMark at{tails.dirty_tail(), 0, 0};
  uint64_t keys = 0, epochs = 0;
  for (const LogMark head = rig.log->mark(); at.ksets < head.ksets;) {
    LogKsets log(*other_side, *segments, at.pos, head.pos);
    PlanOptions options{.from = at, .end_ksets = head.ksets, .batch_bytes = 32 << 20};
    BatchPlan plan;
    ASSERT_TRUE(make_plan(log, options, &plan).ok());
    keys += plan.batch.keys().size();
    at = plan.end;
    EXPECT_EQ(keys, ++epochs * 100) << "the log says where the barriers were";
  }
  EXPECT_EQ(keys, 300u);
  EXPECT_EQ(at.pos, rig.log->head());
  EXPECT_EQ(at.dirty_bytes, rig.log->mark().dirty_bytes);
}

}  // namespace
}  // namespace pcache
