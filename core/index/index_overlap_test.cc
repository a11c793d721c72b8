// SPDX-License-Identifier: GPL-2.0-or-later
// Every way in which a new extent can overlap an old one (Allen's 13 relations), by pages and by
// sectors, and what is left of the old one.
#include <gtest/gtest.h>

#include <tuple>

#include "index/index_model.h"

namespace pcache {
namespace {

struct Relation {
  const char* name;  // of the new extent to the old one
  uint32_t old_off, old_len, new_off, new_len;
  size_t pieces;  // in 0 .. 16 units, holes included
};

// In units; the span looked at is 16 units long.
const Relation kRelations[] = {
    {"Before", 9, 4, 2, 4, 5},   {"After", 2, 4, 9, 4, 5},     {"Meets", 8, 4, 4, 4, 4},
    {"MetBy", 4, 4, 8, 4, 4},    {"Overlaps", 6, 6, 3, 6, 4},  {"OverlappedBy", 3, 6, 6, 6, 4},
    {"Starts", 4, 8, 4, 3, 4},   {"StartedBy", 4, 3, 4, 8, 3}, {"During", 3, 9, 6, 3, 5},
    {"Contains", 6, 3, 3, 9, 3}, {"Finishes", 4, 8, 9, 3, 4},  {"FinishedBy", 9, 3, 4, 8, 3},
    {"Equals", 5, 6, 5, 6, 3},
};

struct Grain {
  const char* name;
  uint32_t unit;   // sectors
  uint32_t start;  // where unit 0 lies
};

const Grain kGrains[] = {
    {"Pages", 8, 64},
    {"Sectors", 1, 64},
    {"SectorsAcrossPages", 1, 61},
    {"UnalignedPages", 8, 67},
    {"ThreeSectors", 3, 64 * 7 + 5},
    {"PagesAcrossBlocks", 8, 64 * 3 - 40},
    {"UnalignedRangeEnd", 5, 8192 - 80},
};

class Overlap : public testing::TestWithParam<std::tuple<Relation, Grain, bool>> {
 protected:
  Extent at(uint32_t unit, uint32_t len) const {
    return sectors(grain_.start + unit * grain_.unit, len * grain_.unit);
  }

  const Relation& r_ = std::get<0>(GetParam());
  const Grain& grain_ = std::get<1>(GetParam());
  IndexModel m_{
      {.device_bytes = 3ull * kRangeBytes, .stripes = 2, .with_crc = std::get<2>(GetParam())}};
};

TEST_P(Overlap, NewWins) {
  m_.insert(at(r_.old_off, r_.old_len), {place(5, 100), true, 0x01d});
  m_.insert(at(r_.new_off, r_.new_len), {place(9, 300), false, 0x2e});
  EXPECT_EQ(m_.verify(at(0, 16)), r_.pieces);
  m_.verify_all();

  // remove() forgets what is left of the old extent, and nothing of the new one.
  m_.remove(at(r_.old_off, r_.old_len), place(5, 100));
  m_.verify_all();
  m_.remove(at(r_.new_off, r_.new_len), place(9, 300));
  m_.verify_all();
  EXPECT_EQ(m_.index().mapped_bytes(), 0u);
  EXPECT_EQ(m_.index().memory_bytes(), 0u);
}

TEST_P(Overlap, FillStaysOffWhatIsThere) {
  m_.insert(at(r_.old_off, r_.old_len), {place(5, 100), false, 0x01d});
  m_.begin_fill(at(r_.new_off, r_.new_len), {77});
  m_.verify_all();
  m_.finish_fill(at(r_.new_off, r_.new_len), {77}, {place(9, 300), true, 0x2e});
  m_.verify_all();
  m_.mark_clean(at(r_.old_off, r_.old_len), place(5, 100));
  m_.verify_all();
}

TEST_P(Overlap, WriteTakesPlaceholderAway) {
  m_.begin_fill(at(r_.old_off, r_.old_len), {77});
  m_.insert(at(r_.new_off, r_.new_len), {place(9, 300), false, 0x2e});
  m_.verify_all();
  m_.finish_fill(at(r_.old_off, r_.old_len), {77}, {place(5, 100), true, 0x01d});
  m_.verify_all();
}

std::string case_name(const testing::TestParamInfo<Overlap::ParamType>& info) {
  return std::string(std::get<0>(info.param).name) + std::get<1>(info.param).name +
         (std::get<2>(info.param) ? "Crc" : "");
}

INSTANTIATE_TEST_SUITE_P(Allen, Overlap,
                         testing::Combine(testing::ValuesIn(kRelations), testing::ValuesIn(kGrains),
                                          testing::Bool()),
                         case_name);

}  // namespace
}  // namespace pcache
