// SPDX-License-Identifier: GPL-2.0-or-later
// For the tests of the key log: each kset has a name, which is in the offsets of its keys.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "keylog/key_log.h"
#include "keylog/log_cursor.h"
#include "testing/image.h"

namespace pcache {

inline constexpr SegId kDataSeg{2};  // what the keys name

// `n` keys of a kset called `name`.
inline std::vector<media::Key> named_keys(uint32_t name, uint32_t n) {
  std::vector<media::Key> keys;
  for (uint32_t i = 0; i < n; i++)
    keys.push_back(make_key({uint64_t{name} * kRangeBytes + i * kSectorBytes, kSectorBytes},
                            {kDataSeg, i * kSectorBytes}));
  return keys;
}

inline KeyLog::Ticket seal_named(KeyLog& log, uint32_t name, uint32_t n) {
  KsetBuffer* kset = log.get_buffer();
  for (const media::Key& key : named_keys(name, n)) kset->keys[kset->n++] = key;
  return log.seal(kset);
}

// Of so many keys two neighbours do not fit one kset.
constexpr uint32_t kAlone = media::kKeysPerKset / 2 + 1;

// "NAMExKEYS", with a + between the runs of keys of one name.
inline std::string name_of(std::span<const media::Key> keys) {
  std::string name;
  for (size_t at = 0, next; at < keys.size(); at = next) {
    const uint64_t range = range_of(keys[at].off);
    for (next = at + 1; next < keys.size() && range_of(keys[next].off) == range;) next++;
    if (at > 0) name.append("+");
    name.append(std::to_string(range)).append("x").append(std::to_string(next - at));
  }
  return name;
}

// What a reader finds: each kset's name_of(), "LAST", "error: TEXT"; "torn" for a torn end.
inline std::vector<std::string> read_log(const Pmem& pmem, const SegmentTable& table, CachePos from,
                                         CachePos* end = nullptr) {
  std::vector<std::string> found;
  LogCursor cursor(pmem, table, from);
  for (;;) {
    const auto next = cursor.next();
    if (!next) {
      found.push_back("error: " + next.error().text);
      return found;
    }
    const LogItem& item = next.value();
    if (item.kind == LogItem::Kind::kEnd) {
      if (item.torn) found.push_back("torn");
      if (end) *end = item.pos;
      return found;
    }
    if (item.kind == LogItem::Kind::kLast)
      found.push_back("LAST");
    else
      found.push_back(name_of(item.keys));
  }
}

using Names = std::vector<std::string>;  // as read_log() gives them

class LogTest : public ::testing::Test {
 protected:
  // A log whose head stands at `head`, in segment 0.
  void start(CachePos head, uint32_t segments = 4, uint32_t log_reserve = 0) {
    image_ = std::make_unique<Image>(segments);
    from_ = head;
    table_ = image_->table(log_reserve);
    table_->replay_log_segment(head.seg);
    log_ = std::make_unique<KeyLog>(image_->pmem(), *table_, LogMark{head});
    image_->memory().checkpoint();
  }
  // An empty log; its head says that `ksets` ksets were found at attach.
  void start_counting(uint64_t ksets) {
    start({});
    log_ = std::make_unique<KeyLog>(image_->pmem(), *table_, LogMark{{}, ksets});
  }
  Names read() { return read_log(image_->pmem(), *table_, from_); }
  const Journal& journal() { return image_->memory().journal(); }
  MediaOff media(CachePos pos) { return table_->media(pos); }

  std::unique_ptr<Image> image_;
  CachePos from_;
  std::unique_ptr<SegmentTable> table_;
  std::unique_ptr<KeyLog> log_;
};

}  // namespace pcache
