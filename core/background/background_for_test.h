// SPDX-License-Identifier: GPL-2.0-or-later
// A cache over memory without its requests' side: extents are entered as the write path enters
// them, and what a reader would see is read. The test is the only thread.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "background/reclaim.h"
#include "background/writeback.h"
#include "base/process_barrier.h"
#include "parts/parts.h"
#include "recovery/replay.h"
#include "recovery/verify.h"
#include "segment/data_head.h"
#include "segment/media_crc.h"
#include "testing/crash_states.h"
#include "testing/image.h"
#include "testing/memory_device.h"

namespace pcache {

struct RigOptions {
  uint32_t segments = 8;
  uint32_t log_reserve = 1;
  bool data_crc = false;
  uint64_t logical_bytes = 64 << 20;
  uint32_t log_head = 0;            // in segment 0; near its end the log soon goes on in another
  uint64_t batch_bytes = 32 << 20;  // of writeback
  uint64_t crc_extent_bytes = 16 << 10;  // longer than ours, as the kernel target's
  Writeback::Options writeback{};
  bool follows = false;  // another process writes back
  policy::PolicyKind policy = policy::PolicyKind::kFifo;
  uint64_t kept_bytes = 64 << 20;  // what the policy takes for the capacity
};

// What one attach makes, over somebody's memory and device.
class Rig {
 public:
  using Bytes = std::vector<std::byte>;
  Rig(Pmem& pmem, const Image& image, MemoryDevice& device, const RigOptions& o)
      : o(o), pmem(pmem), device(device) {
    const Bounds bounds{o.segments, o.logical_bytes};
    const Status loaded = tails.load(pmem, bounds);
    PCACHE_CHECK(loaded.ok());
    table = image.table(pmem, o.log_reserve);
    index = Index::create({o.logical_bytes, 4, o.data_crc, 0}).take();
    messages = lines.log();
    auto replayed_or = replay(pmem, *table, *index, tails, bounds);
    EXPECT_TRUE(replayed_or.ok()) << replayed_or.error().text;
    replayed = replayed_or.value();
    EXPECT_FALSE(replayed.generations_lost);
    if (o.data_crc) {
      auto verified_or = verify_replayed(pmem, *table, *index, tails, messages);
      EXPECT_TRUE(verified_or.ok());
      verified = verified_or.value();
    }
    log = std::make_unique<KeyLog>(
        pmem, *table, LogMark{replayed.head, replayed.dirty_ksets, replayed.dirty_bytes});
    log->clear_head();
    stripes = std::make_unique<Stripes>(4, *log);
    retention = std::make_unique<policy::Retention>(o.policy, pmem.size_bytes(), o.kept_bytes);
    parts = std::make_unique<Parts>(Parts{pmem, *table, *index, *log, *stripes, tails, device,
                                          *retention, messages, o.data_crc});
    table->set_events({[this](SegId seg) { forget_marks(seg); }});
    parts->mode = &mode;
    parts->follows = o.follows;
    parts->max_extent_bytes = o.data_crc ? kCrcExtentBytes : kRangeBytes;
    writeback = Writeback::create(*parts, o.writeback).take();
    reclaim = std::make_unique<Reclaim>(*parts);
    head = std::make_unique<DataHead>(*table, 512);
  }
  ~Rig() { head.reset(); }

  // Every sector holds `value`. False: no space.
  bool write(uint64_t off, uint64_t len, uint32_t value) {
    return enter({off, len}, false, [&](const Extent& part) { return filled(part.len, value); });
  }
  // As a read miss leaves it.
  bool fill(uint64_t off, uint64_t len) {
    return enter({off, len}, true, [&](const Extent& part) { return on_device(part); });
  }
  // As a DISCARD leaves it: keys of `part_bytes`, a power of two, which share one place.
  void zeros(uint64_t off, uint64_t len, uint32_t flags = media::kKeyZeros | media::kKeyHole,
             uint32_t part_bytes = 64 << 10) {
    const auto place = head->allocate(part_bytes);
    ASSERT_EQ(place.len, part_bytes);
    const Bytes nothing(part_bytes);
    PCACHE_CHECK(pmem.store(table->media(place.pos), nothing.data(), nothing.size()));
    pmem.fence();
    for (Extent left{off, len}; left.len > 0;) {
      const Extent part{left.off, std::min(left.len, part_bytes - left.off % part_bytes)};
      table->add_refs(place.pos.seg, 1);
      append(part, place.pos, flags, nothing.data());
      left = {part.end(), left.len - part.len};
    }
    table->drop_refs(place.pos.seg, 1);
  }
  void close() { EXPECT_TRUE(stripes->close_all().ok()); }
  void flush() { EXPECT_TRUE(stripes->flush().ok()); }
  // Steps until nothing is left before the head; how many did something.
  int write_back() {
    const LogMark until = log->mark();
    for (int steps = 0;; steps++) {
      const auto moved = writeback->step(until, batch());
      EXPECT_TRUE(moved.ok()) << moved.error().text;
      if (!moved.ok() || !moved.value()) return steps;
    }
  }
  WriteOut::Media out_media() const { return {pmem, *table, device, o.data_crc}; }
  Writeback::Size batch() const { return {o.batch_bytes, kHurriedDepth}; }
  int reclaim_all() {
    for (int steps = 0;; steps++) {
      const auto moved = reclaim->step();
      EXPECT_TRUE(moved.ok()) << moved.error().text;
      if (!moved.ok() || !moved.value()) return steps;
    }
  }

  Piece lookup(const Extent& extent) const {
    Piece piece;
    Index::Snapshot snapshot;
    index->lookup(extent, {&piece, 1}, &snapshot);
    return piece;
  }
  bool dirty(uint64_t off) const {
    const Piece piece = lookup({off, kSectorBytes});
    return piece.kind == Piece::Kind::kHit && !piece.clean;
  }
  // One letter a sector: . miss, C clean, D dirty.
  std::string mapped(uint64_t off, uint64_t len) const {
    std::string text;
    for (uint64_t at = off; at < off + len; at += kSectorBytes) {
      const Piece piece = lookup({at, kSectorBytes});
      text += piece.kind == Piece::Kind::kMiss ? '.' : piece.clean ? 'C' : 'D';
    }
    return text;
  }
  MediaOff media(uint64_t off) const { return table->media(lookup({off, kSectorBytes}).pos); }

  static Bytes filled(uint64_t len, uint32_t value) {
    Bytes bytes(len);
    for (uint64_t at = 0; at < len; at += sizeof value)
      memcpy(bytes.data() + at, &value, sizeof value);
    return bytes;
  }
  Bytes on_device(const Extent& extent) const { return device.peek(extent.off, extent.len); }
  static constexpr int kBacking = -1, kUnreadable = -2, kNeither = -3;
  // What fills the sector, or one of the above.
  static int value_of(uint64_t off, const Bytes& sector) {
    if (sector == MemoryDevice::pattern(off, kSectorBytes)) return kBacking;
    uint32_t value;
    memcpy(&value, sector.data(), sizeof value);
    return sector == filled(kSectorBytes, value) ? static_cast<int>(value) : kNeither;
  }
  // As a read that has hit it.
  void hit(uint64_t off, uint64_t len = kSectorBytes) {
    policy::note_hit(*retention, media(off), off, len);
  }
  // As for a segment that is taken.
  void forget_marks(SegId seg) {
    retention->forget_marks(table->media({seg, 0}), media::kSegDataBytes);
  }
  int device_value(uint64_t off) const { return value_of(off, on_device({off, kSectorBytes})); }
  // What a read of the sector gives.
  int value(uint64_t off) const {
    const Piece piece = lookup({off, kSectorBytes});
    if (piece.kind != Piece::Kind::kHit) return device_value(off);
    Bytes sector(kSectorBytes);
    bool good = pmem.load(sector.data(), table->media(piece.pos), kSectorBytes);
    if (good && o.data_crc)
      good = media_crc(pmem, *table, piece.whole_pos, piece.whole_len) == piece.crc;
    if (!good) return piece.clean ? device_value(off) : kUnreadable;
    // Whatever else happens: clean is what the device has, too.
    if (piece.clean) {
      EXPECT_EQ(sector, on_device({off, kSectorBytes})) << "clean, at " << off;
    }
    return value_of(off, sector);
  }
  std::vector<media::Key> keys_from(CachePos from) const {
    std::vector<media::Key> keys;
    LogCursor cursor(pmem, *table, from);
    for (;;) {
      const auto item = cursor.next();
      EXPECT_TRUE(item.ok());
      if (!item.ok() || item.value().kind == LogItem::Kind::kEnd) return keys;
      keys.insert(keys.end(), item.value().keys.begin(), item.value().keys.end());
    }
  }

  const RigOptions o;
  ModeSwitch mode;
  Pmem& pmem;
  MemoryDevice& device;
  LogLines lines;
  Log messages;
  Tails tails;
  ReplayResult replayed;
  VerifyResult verified;
  std::unique_ptr<SegmentTable> table;
  std::unique_ptr<Index> index;
  std::unique_ptr<KeyLog> log;
  std::unique_ptr<Stripes> stripes;
  std::unique_ptr<policy::Retention> retention;
  std::unique_ptr<Parts> parts;
  std::unique_ptr<Writeback> writeback;
  std::unique_ptr<Reclaim> reclaim;
  std::unique_ptr<DataHead> head;

 private:
  template <typename Content>
  bool enter(Extent todo, bool clean, Content content) {
    while (todo.len > 0) {
      uint64_t len = std::min<uint64_t>(todo.len, kRangeBytes - todo.off % kRangeBytes);
      if (o.data_crc) len = std::min<uint64_t>(len, o.crc_extent_bytes);
      const auto place = head->allocate(static_cast<uint32_t>(len));
      if (!place) return false;
      const Extent part{todo.off, place.len};
      const Bytes bytes = content(part);
      PCACHE_CHECK(pmem.store(table->media(place.pos), bytes.data(), bytes.size()));
      pmem.fence();
      append(part, place.pos, clean ? media::kKeyClean : 0, bytes.data());
      todo.off += part.len;
      todo.len -= part.len;
    }
    return true;
  }
  void append(const Extent& part, CachePos pos, uint32_t flags, const std::byte* bytes) {
    media::Key key = make_key(part, pos, table->generation(pos.seg), flags);
    if (o.data_crc) key.data_crc = data_crc32c(bytes, part.len);
    KeyLog::Ticket ticket = 0;
    {
      Stripe& stripe = stripes->of(part.off);
      StripeLock lock(stripe);
      EXPECT_TRUE(stripes->prepare(stripe));
      const bool clean = flags & media::kKeyClean;
      EXPECT_TRUE(index->insert(part, Location{pos, clean, key.data_crc}).ok());
      ticket = stripes->append(stripe, key);
    }
    if (ticket) (void)log->commit(ticket).ok();
  }
};

template <typename Out>
int flushed(Out& out) {
  out.begin_flush();
  return out.end_flush();
}

class BackgroundTest : public ::testing::Test {
 protected:
  using Bytes = Rig::Bytes;
  static constexpr uint64_t kSector = kSectorBytes;

  void start(const RigOptions& o = {}) {
    rig_.reset();
    options_ = o;
    image_ = std::make_unique<Image>(o.segments, FormatOptions{o.data_crc});
    device_ = std::make_unique<MemoryDevice>(o.logical_bytes);
    image_->key_tail({SegId{0}, o.log_head});
    image_->dirty_tail({SegId{0}, o.log_head});
    attach();
  }
  // Once more over the same memory and device, as after a crash that lost nothing.
  void attach() {
    rig_.reset();
    rig_ = std::make_unique<Rig>(image_->pmem(), *image_, *device_, options_);
    image_->memory().checkpoint();
  }
  void TearDown() override { rig_.reset(); }
  // Attaches to each state that a crash can leave of what was stored since the checkpoint. The
  // device keeps what it has.
  void for_each_crash(const CrashOptions& crash, const std::function<void(Rig&)>& visit) {
    for_each_crash_state(image_->memory().journal(), crash,
                         [&](std::span<const KeptStore> kept, const std::string& what) {
                           if (HasFailure()) return;
                           SCOPED_TRACE(what);
                           const auto crashed = image_->memory().crash_image(kept);
                           Rig rig(crashed->pmem(), *image_, *device_, options_);
                           visit(rig);
                         });
  }
  void damage(uint64_t off) {
    image_->memory().flip_bit(rig_->media(off));
    image_->memory().checkpoint();
  }
  void make_unreadable(uint64_t off) {
    image_->memory().checkpoint();
    image_->memory().make_unreadable(rig_->media(off));
  }
  Result<bool> step() { return rig_->writeback->step(rig_->log->mark(), rig_->batch()); }
  // Writes a page in another thread until its stripe is biased to that thread.
  BiasedMutex& written_until_biased(uint64_t off) {
    (void)this_thread_serial();  // or this thread would get what the writer leaves behind
    BiasedMutex& mu = rig_->stripes->of(off).mu;
    std::thread([&] {
      for (int i = 0; i < 5000 && !mu.is_biased(); i++) rig_->write(off, 4096, 1);
    }).join();
    EXPECT_TRUE(mu.is_biased());
    return mu;
  }

  RigOptions options_;
  std::unique_ptr<Image> image_;
  std::unique_ptr<MemoryDevice> device_;
  std::unique_ptr<Rig> rig_;
};

}  // namespace pcache
