// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations against the model, with fixed seeds.
#include <gtest/gtest.h>

#include <random>

#include "index/index_model.h"

namespace pcache {
namespace {

constexpr uint64_t kDeviceSectors = 2 * 8192 + 2048 + 5;  // the last range is partial, so its page

class RandomOps {
 public:
  RandomOps(uint32_t seed, bool with_crc)
      : model_({.device_bytes = kDeviceSectors * kSectorBytes, .stripes = 2, .with_crc = with_crc}),
        random_(seed) {}

  void step() {
    const uint32_t what = pick(100);
    if (what < 45) {
      write();
    } else if (what < 60) {
      fills_.push_back({some_extent(), {next_token_++}});
      model_.begin_fill(fills_.back().extent, fills_.back().token);
      touched_ = fills_.back().extent;
    } else if (what < 75) {
      end_fill();
    } else if (!written_.empty()) {
      const size_t i = pick(static_cast<uint32_t>(written_.size()));
      const Extent e = part_of(written_[i].extent);
      const CachePos pos = written_[i].pos + static_cast<uint32_t>(e.off - written_[i].extent.off);
      if (what < 90)
        model_.remove(e, pos);
      else
        model_.mark_clean(e, pos);
      touched_ = e;
      if (what < 90) written_.erase(written_.begin() + static_cast<ptrdiff_t>(i));
    }
    model_.verify(around(touched_));
  }
  void empty_out() {
    for (const Fill& f : fills_) model_.abandon_fill(f.extent, f.token);
    std::vector<Piece> pieces(8192);
    for (uint64_t s = 0; s < kDeviceSectors; s += 8192) {
      Index::Snapshot snapshot;
      const Extent all = sectors(s, std::min<uint64_t>(8192, kDeviceSectors - s));
      const size_t n = model_.index().lookup(all, pieces, &snapshot);
      for (size_t i = 0; i < n; ++i)
        if (pieces[i].kind == Piece::Kind::kHit) model_.remove(pieces[i].extent, pieces[i].pos);
    }
    model_.verify_all();
    EXPECT_EQ(model_.index().memory_bytes(), 0u);
  }
  IndexModel& model() { return model_; }

 private:
  struct Fill {
    Extent extent;
    FillToken token;
  };
  struct Written {
    Extent extent;
    CachePos pos;
  };

  uint32_t pick(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  Extent clip(uint64_t first, uint64_t len) {
    const uint64_t end = std::min((first / 8192 + 1) * 8192, kDeviceSectors);
    return sectors(first, std::min(len, end - first));
  }
  // Extents near a few places, the ends of ranges and of the device among them.
  Extent some_extent() {
    constexpr uint64_t kPlaces[] = {0, 64, 8192 - 48, 8192, 16384 - 70, 16384, kDeviceSectors - 50};
    uint64_t first = kPlaces[pick(7)] + pick(48);
    uint64_t len = 1 + pick(40);
    const uint32_t shape = pick(10);
    if (shape < 3) {
      first &= ~7ull;
      len = 8;
    } else if (shape < 5) {
      first &= ~7ull;
      len = 8 * (1 + pick(10));
    } else if (shape < 7) {
      len = 1 + pick(4);
    } else if (pick(200) == 0) {
      len = 2048;
    }
    return clip(std::min(first, kDeviceSectors - 1), len);
  }
  Extent part_of(const Extent& e) {
    if (pick(2) == 0) return e;
    const uint64_t n = e.len / kSectorBytes;
    const uint64_t skip = pick(static_cast<uint32_t>(n));
    return sectors(e.off / kSectorBytes + skip, 1 + pick(static_cast<uint32_t>(n - skip)));
  }
  Extent around(const Extent& e) {
    const uint64_t start = e.off / kSectorBytes;
    const uint64_t range = start / 8192 * 8192;
    const uint64_t first = std::max(range, start > 16 ? start - 16 : 0);
    return clip(first, start - first + e.len / kSectorBytes + 16);
  }
  void write() {
    const Extent e = some_extent();
    CachePos pos = place(1 + pick(50), pick(30000));
    // Often a place behind the last write's, so that neighbours continue each other.
    if (!written_.empty() && pick(2) == 0) {
      const Written& w = written_.back();
      const CachePos next = w.pos + static_cast<uint32_t>(e.off - w.extent.off);
      if (e.off >= w.extent.off && e.off - w.extent.off < 100000 && next.off < 30000 * kSectorBytes)
        pos = next;
    }
    model_.insert(e, {pos, pick(3) == 0, pick(3)});
    written_.push_back({e, pos});
    if (written_.size() > 200) written_.erase(written_.begin());
    touched_ = e;
  }
  void end_fill() {
    if (fills_.empty()) return;
    const size_t i = pick(static_cast<uint32_t>(fills_.size()));
    const Fill f = fills_[i];
    const Extent e = part_of(f.extent);
    const CachePos pos = place(60 + pick(50), pick(30000));
    if (pick(3) != 0) {
      for (const Extent& run : model_.finish_fill(e, f.token, {pos, true, 7}, pick(4) != 0))
        written_.push_back({run, pos + static_cast<uint32_t>(run.off - e.off)});
    }
    model_.verify(around(e));
    model_.abandon_fill(pick(4) != 0 ? f.extent : e, f.token);
    if (fills_.size() > 20 || pick(3) == 0) {
      model_.abandon_fill(f.extent, f.token);
      fills_.erase(fills_.begin() + static_cast<ptrdiff_t>(i));
    }
    touched_ = f.extent;
  }

  IndexModel model_;
  std::mt19937_64 random_;
  std::vector<Fill> fills_;
  std::vector<Written> written_;
  uint64_t next_token_ = 1;
  Extent touched_ = sectors(0, 8);
};

class Random : public testing::TestWithParam<std::tuple<uint32_t, bool>> {};

#if PCACHE_TEST_SANITIZED
constexpr int kSteps = 15'000;
#else
constexpr int kSteps = 100'000;
#endif

TEST_P(Random, AgreesWithTheModel) {
  RandomOps ops(std::get<0>(GetParam()), std::get<1>(GetParam()));
  for (int i = 0; i < kSteps && !HasFailure(); ++i) {
    ops.step();
    if (i % 2000 == 0) ops.model().verify_all();
    if (HasFailure()) FAIL() << "at step " << i;
  }
  ops.empty_out();
}

INSTANTIATE_TEST_SUITE_P(Seeds, Random,
                         testing::Combine(testing::Values(1u, 2u, 3u, 4u), testing::Bool()));

}  // namespace
}  // namespace pcache
