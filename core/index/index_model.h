// SPDX-License-Identifier: GPL-2.0-or-later
// Test only: a model of the index, one record per sector, and the index compared with it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "index/index.h"

#if defined(__has_feature)
#define PCACHE_HAS_FEATURE(x) __has_feature(x)
#else
#define PCACHE_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || \
    PCACHE_HAS_FEATURE(thread_sanitizer) || PCACHE_HAS_FEATURE(address_sanitizer)
#define PCACHE_TEST_SANITIZED 1  // everything is slower, and resident memory is not ours alone
#else
#define PCACHE_TEST_SANITIZED 0
#endif

namespace pcache {

// All offsets and lengths in the tests below are in sectors.
inline Extent sectors(uint64_t off, uint64_t len) {
  return {off * kSectorBytes, len * kSectorBytes};
}
inline CachePos place(uint32_t seg, uint32_t sector) { return {SegId{seg}, sector * kSectorBytes}; }

struct ModelSector {
  Piece::Kind kind = Piece::Kind::kMiss;
  bool clean = false;
  CachePos pos;
  FillToken token;
  CachePos whole_pos;
  uint32_t whole_len = 0;
  uint32_t crc = 0;

  bool is_hit() const { return kind == Piece::Kind::kHit; }
  bool is_fill(FillToken t) const { return kind == Piece::Kind::kFill && token == t; }
  bool continued_by(const ModelSector& next, uint32_t n) const {
    if (kind != next.kind || clean != next.clean || !(token == next.token)) return false;
    return !is_hit() || (next.pos == pos + n * kSectorBytes && next.whole_pos == whole_pos &&
                         next.whole_len == whole_len && next.crc == crc);
  }
};

class IndexModel {
 public:
  explicit IndexModel(const IndexOptions& options)
      : options_(options),
        index_(Index::create(options).take()),
        sectors_(options.device_bytes / kSectorBytes) {}

  Index& index() { return *index_; }

  void insert(const Extent& e, const Location& l) {
    const IndexAlone alone;
    ASSERT_TRUE(index_->insert(e, l).ok());
    for_each(e, [&](ModelSector& s, uint32_t at) { s = mapped(e, l, at); });
  }
  void begin_fill(const Extent& e, FillToken token) {
    const IndexAlone alone;
    ASSERT_TRUE(index_->begin_fill(e, token).ok());
    for_each(e, [&](ModelSector& s, uint32_t) {
      if (s.kind == Piece::Kind::kMiss) {
        s = ModelSector{};
        s.kind = Piece::Kind::kFill;
        s.token = token;
      }
    });
  }
  // Returns the runs; gives each its own crc when `set_crc`.
  std::vector<Extent> finish_fill(const Extent& e, FillToken token, const Location& l,
                                  bool set_crc = true) {
    const IndexAlone alone;
    std::vector<Extent> runs, expected;
    for (;;) {  // a few at a time
      Extent some[3];
      const auto n = index_->finish_fill(e, token, l, some);
      EXPECT_TRUE(n.has_value());
      if (!n) break;
      runs.insert(runs.end(), some, some + *n);
      if (*n < std::size(some)) break;
    }
    for_each(e, [&](ModelSector& s, uint32_t at) {
      if (!s.is_fill(token)) return;
      s = mapped(e, l, at);
      const Extent one{e.off + at, kSectorBytes};
      if (!expected.empty() && expected.back().end() == one.off)
        expected.back().len += one.len;
      else
        expected.push_back(one);
    });
    EXPECT_EQ(runs, expected);
    for (const Extent& run : runs)
      if (set_crc)
        this->set_crc(run, l.pos + static_cast<uint32_t>(run.off - e.off),
                      l.crc + static_cast<uint32_t>(run.off));
    return runs;
  }
  void set_crc(const Extent& run, CachePos pos, uint32_t crc) {
    const IndexAlone alone;
    index_->set_crc(run, pos, crc);
    if (!options_.with_crc) return;
    for_each(run, [&](ModelSector& s, uint32_t at) {
      if (s.is_hit() && s.pos == pos + at) s = mapped(run, {pos, s.clean, crc}, at);
    });
  }
  void abandon_fill(const Extent& e, FillToken token) {
    const IndexAlone alone;
    index_->abandon_fill(e, token);
    for_each(e, [&](ModelSector& s, uint32_t) {
      if (s.is_fill(token)) s = ModelSector{};
    });
  }
  // As reclaim does after writeback: only clean sectors are removed.
  uint64_t remove(const Extent& e, CachePos pos) {
    mark_clean(e, pos);
    const IndexAlone alone;
    const uint64_t got = index_->remove(e, pos);
    uint64_t expected = 0;
    for_each(e, [&](ModelSector& s, uint32_t at) {
      if (!s.is_hit() || s.pos != pos + at) return;
      s = ModelSector{};
      expected += kSectorBytes;
    });
    EXPECT_EQ(got, expected);
    return got;
  }
  uint64_t mark_clean(const Extent& e, CachePos pos) {
    const IndexAlone alone;
    const uint64_t got = index_->mark_clean(e, pos);
    uint64_t expected = 0;
    for_each(e, [&](ModelSector& s, uint32_t at) {
      if (!s.is_hit() || s.pos != pos + at || s.clean) return;
      s.clean = true;
      expected += kSectorBytes;
    });
    EXPECT_EQ(got, expected);
    return got;
  }

  // lookup() of `e` must give the model's sectors, in the fewest pieces. Returns how many.
  size_t verify(const Extent& e) {
    std::vector<Piece> pieces(e.len / kSectorBytes);
    Index::Snapshot snapshot;
    pieces.resize(index_->lookup(e, pieces, &snapshot));
    EXPECT_TRUE(index_->still_valid(snapshot));
    for (const Piece& p : pieces) verify_pages(p);
    uint64_t at = e.off;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const Piece& p = pieces[i];
      EXPECT_EQ(p.extent.off, at) << "gap or overlap before piece " << i;
      EXPECT_GT(p.extent.len, 0u);
      for_each(p.extent, [&](ModelSector& s, uint32_t n) { check(p, s, n); });
      at = p.extent.end();
      if (i > 0) {
        EXPECT_FALSE(sector(p.extent.off - kSectorBytes).continued_by(sector(p.extent.off), 1))
            << "not merged at sector " << p.extent.off / kSectorBytes;
      }
      if (testing::Test::HasFailure()) return 0;
    }
    EXPECT_EQ(at, e.end());
    return pieces.size();
  }

  // Checks all, and that the memory is the least for it: no page is split without need.
  void verify_all() {
    const uint64_t device = options_.device_bytes;
    uint64_t mapped_bytes = 0, dirty_bytes = 0;
    for (const ModelSector& s : sectors_) {
      mapped_bytes += s.is_hit() ? kSectorBytes : 0;
      dirty_bytes += s.is_hit() && !s.clean ? kSectorBytes : 0;
    }
    EXPECT_EQ(index_->mapped_bytes(), mapped_bytes);
    EXPECT_EQ(index_->dirty_bytes(), dirty_bytes);
    EXPECT_EQ(index_->memory_bytes(), expected_memory());
    for (uint64_t off = 0; off < device; off += kRangeBytes)
      verify({off, std::min<uint64_t>(kRangeBytes, device - off)});
  }

 private:
  // find_page() must find exactly the pages that lookup() has in one mapped piece.
  void verify_pages(const Piece& piece) {
    const uint64_t first = (piece.extent.off + kPageBytes - 1) / kPageBytes * kPageBytes;
    for (uint64_t off = first; off + kPageBytes <= piece.extent.end(); off += kPageBytes) {
      Index::Page page;
      Index::Snapshot snapshot;
      const bool found = index_->find_page(off, &page, &snapshot);
      ASSERT_EQ(found, piece.kind == Piece::Kind::kHit) << "page at " << off;
      if (!found) continue;
      EXPECT_TRUE(index_->still_valid(snapshot));
      const auto at = static_cast<uint32_t>(off - piece.extent.off);
      EXPECT_EQ(page.slot.pos(), piece.pos + at);
      EXPECT_EQ(page.slot.clean(), piece.clean);
      if (!options_.with_crc) continue;
      EXPECT_EQ(page.check.crc(), piece.crc);
      EXPECT_EQ(page.check.len_bytes(), piece.whole_len);
      EXPECT_EQ(page.slot.pos().off - page.check.delta_bytes(), piece.whole_pos.off);
    }
  }
  ModelSector& sector(uint64_t off) { return sectors_.at(off / kSectorBytes); }

  template <class F>
  void for_each(const Extent& e, F f) {
    for (uint64_t off = e.off; off < e.end(); off += kSectorBytes)
      f(sector(off), static_cast<uint32_t>(off - e.off));
  }
  ModelSector mapped(const Extent& e, const Location& l, uint32_t at) const {
    ModelSector s;
    s.kind = Piece::Kind::kHit;
    s.clean = l.clean;
    s.pos = l.pos + at;
    if (options_.with_crc) {
      s.whole_pos = l.pos;
      s.whole_len = static_cast<uint32_t>(e.len);
      s.crc = l.crc;
    }
    return s;
  }
  void check(const Piece& p, const ModelSector& s, uint32_t at) {
    ASSERT_EQ(p.kind, s.kind) << "sector " << (p.extent.off + at) / kSectorBytes;
    ASSERT_EQ(p.clean, s.clean);
    ASSERT_EQ(p.token, s.token);
    if (!s.is_hit()) return;
    ASSERT_EQ(p.pos + at, s.pos);
    ASSERT_EQ(p.whole_pos, options_.with_crc ? s.whole_pos : p.pos);
    ASSERT_EQ(p.whole_len, options_.with_crc ? s.whole_len : p.extent.len);
    ASSERT_EQ(p.crc, s.crc);
  }
  uint64_t expected_memory() const {
    const uint64_t block_bytes = options_.with_crc ? 128 : 64;
    uint64_t bytes = 0;
    for (uint64_t range = 0; range < sectors_.size(); range += 8192) {
      uint64_t blocks = 0;
      for (uint64_t b = range; b < std::min<uint64_t>(range + 8192, sectors_.size()); b += 64)
        blocks += blocks_for(b);
      bytes += blocks * block_bytes + (blocks != 0 ? 576 : 0);
    }
    return bytes;
  }
  uint64_t blocks_for(uint64_t first) const {
    uint64_t split = 0;
    bool any = false;
    for (uint64_t page = first; page < first + 64; page += 8) {
      bool uniform = true;
      for (uint64_t k = 0; k < 8; ++k) {
        const ModelSector s = page + k < sectors_.size() ? sectors_[page + k] : ModelSector{};
        const ModelSector s0 = page < sectors_.size() ? sectors_[page] : ModelSector{};
        any |= s.kind != Piece::Kind::kMiss;
        uniform &= k == 0 || s0.continued_by(s, static_cast<uint32_t>(k));
      }
      split += uniform ? 0 : 1;
    }
    return split + (any ? 1 : 0);
  }

  const IndexOptions options_;
  std::unique_ptr<Index> index_;
  std::vector<ModelSector> sectors_;
};

}  // namespace pcache
