// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/damage.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "format/layout.h"
#include "inspect/check.h"
#include "keylog/log_cursor.h"
#include "prove/workload.h"

namespace pcache {

using namespace media;

namespace {

// Dirty and clean data, overwritten parts, both tails moved, a fill.
constexpr const char* kHistory[] = {"page",     "boundary", "flush", "writeback", "miss", "across",
                                    "preflush", "drain",    "fua",   "sector",    "fua",  "reopen"};

}  // namespace

Damage::Damage(Base& base, uint64_t seed) : base_(base), start_(base.pmem->memory().mark()) {
  Totals totals;
  Workload history(base, seed, &totals);
  for (const char* name : kHistory) history.run(*find_operation(name));
  Sectors device = history.keep(&sectors_);
  for (const auto& [sector, bytes] : device) {
    device_bytes_.emplace_back(bytes, bytes + kSectorBytes);
    device_[sector] = device_bytes_.back().data();
  }
  found_ = Judge(base_, sectors_, seed, &totals).recover(device_);
  collect_records();
}

Damage::~Damage() { base_.pmem->memory().rollback(start_); }

void Damage::collect_records() {
  const auto pmem = base_.pmem->make_pmem();
  const auto add = [&](std::string name, MediaOff off, size_t len, std::set<std::string> allowed) {
    records_.push_back({std::move(name), off.v, static_cast<uint32_t>(len), std::move(allowed)});
  };
  const auto add_replicas = [&](const std::string& name, const ReplicaPlace& place, size_t len) {
    // If the other replica was never written, this one is as important as a superblock.
    const auto written = [&](MediaOff off) {
      const std::byte* at = base_.pmem->memory().data() + off.v;
      return std::any_of(at, at + len, [](std::byte b) { return b != std::byte(0); });
    };
    const MediaOff at[] = {place.base, place.base + place.stride};
    for (int i = 0; i < 2; i++) {
      std::set<std::string> allowed = {"right"};
      // From an older key_tail the log may no longer lead to its end.
      if (!written(at[1 - i]) || name == "key_tail") allowed.insert("refused");
      add(name + ", replica " + std::to_string(i), at[i], len, allowed);
    }
  };
  add("identity", MediaOff{kIdentityOff}, sizeof(Identity), {"refused"});
  add("superblock", MediaOff{kSuperblockOff}, sizeof(Superblock), {"refused"});
  add_replicas("cache_info", cache_info_place(), sizeof(CacheInfo));
  add_replicas("key_tail", key_tail_place(), sizeof(TailPos));
  add_replicas("dirty_tail", dirty_tail_place(), sizeof(TailPos));
  for (uint32_t seg = 0; seg < kProveSegments; seg++) {
    const std::string name = "segment " + std::to_string(seg);
    add_replicas(name + " info", segment_info_place(seg), sizeof(SegmentInfo));
    add_replicas(name + " generation", segment_gen_place(seg), sizeof(SegmentGen));
  }
  const auto frame = load_frame(*pmem, Log()).take();
  Tails tails;
  PCACHE_CHECK(tails.load(*pmem, {frame.info.n_segs, kProveLogicalBytes}).ok());
  const SegmentTable segments(*pmem, {frame.chain, 2});
  LogCursor cursor(*pmem, segments, tails.key_tail());
  bool dirty = false;
  for (;;) {
    dirty |= cursor.pos() == tails.dirty_tail();
    const LogItem item = cursor.next().take();
    const std::string at = std::to_string(item.pos.seg.v) + ":" + std::to_string(item.pos.off);
    const MediaOff off = segments.media(item.pos);
    if (item.kind == LogItem::Kind::kEnd) {
      add("the log's end at " + at, off, sizeof(KsetHeader), {"right"});
      break;
    }
    add("kset at " + at, off,
        item.kind == LogItem::Kind::kLast ? sizeof(KsetHeader)
                                          : kset_bytes(static_cast<uint32_t>(item.keys.size())),
        {"refused"});
    last_sectors_.clear();
    for (const Key& key : item.keys) {
      const MediaOff data = segments.media({SegId{key.cache_seg_id}, key.cache_seg_off});
      pages_.insert(data.v / kPageBytes);
      for (uint64_t sector = key.off; sector < key.off + key.len; sector += kSectorBytes)
        last_sectors_.insert(sector / kSectorBytes);
      if (!base_.data_crc) continue;
      // A few bits are enough, as one crc covers all. If the data was overwritten, or is clean,
      // reads do not need it.
      std::set<std::string> allowed = {"right"};
      if (dirty && !(key.flags & kKeyClean)) allowed.insert("EIO");
      add("data at " + std::to_string(data.v), data, 4, allowed);
    }
  }
  // No kset follows the last one, so it cannot be told from one that a crash has torn.
  for (auto record = records_.rbegin(); record != records_.rend(); ++record)
    if (record->name.starts_with("kset")) {
      record->allowed.insert("torn tail");
      break;
    }
  for (const Record& record : records_)
    for (uint64_t at = record.off; at < record.off + record.len; at += kSectorBytes)
      pages_.insert(at / kPageBytes);
}

std::string Damage::outcome(bool may_be_torn_tail) {
  CheckOptions options;
  options.backing = prove_backing();
  const auto pmem = base_.pmem->make_pmem();
  const CheckReport report = check_image(*pmem, options);
  const bool torn_tail = may_be_torn_tail && report.findings.has("torn-tail");
  auto session = Session::attach(*base_.pmem, device_, {.data_crc = base_.data_crc});
  if (session.ok() != report.attaches) throw Failure("lost: check and attach do not agree");
  if (!session) return "refused";
  std::string result = "right";
  for (const uint64_t sector : sectors_) {
    Oracle::Found now;
    const Session::ReadResult read =
        session.value()->read({sector * kSectorBytes, kSectorBytes}, &now);
    if (read.error == EIO) {
      result = "EIO";
      continue;
    }
    const bool right = !read.error && read.wrong.empty() && now[sector] == found_.at(sector);
    if (right) continue;
    if (!torn_tail || read.error || !read.wrong.empty() || !last_sectors_.contains(sector))
      throw Failure("resurrected: sector " + std::to_string(sector) + " is wrong, error " +
                    std::to_string(read.error) + " " + read.wrong);
    result = "torn tail";
  }
  return result;
}

void Damage::look(const std::set<std::string>& allowed, Outcomes* outcomes) {
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark mark = memory.mark();
  const std::string found = outcome(allowed.contains("torn tail"));
  base_.pmem->heal_all();
  memory.rollback(mark);
  if (!allowed.contains(found)) throw Failure("lost: " + now_ + " damaged: " + found);
  (*outcomes)[found]++;
}

uint64_t Damage::bits() const {
  uint64_t all = 0;
  for (const Record& record : records_) all += record.len * uint64_t{8};
  return all;
}

// Not record by record, so that a short run takes some bits of each.
void Damage::flip_every_bit(const Share& share, Outcomes* outcomes) {
  const uint64_t all = bits();
  uint64_t stride = 7919;
  while (std::gcd(stride, all) != 1) stride += 2;
  for (uint64_t n = share.part; n < all && !share.over(); n += share.parts) {
    uint64_t bit = n * stride % all;
    auto record = records_.begin();
    for (; bit >= record->len * uint64_t{8}; ++record) bit -= record->len * uint64_t{8};
    now_ = record->name + ", byte " + std::to_string(bit / 8) + ", bit " + std::to_string(bit % 8);
    if (share.only.empty() || now_ == share.only)
      flip(record->off + bit / 8, bit % 8, record->allowed, outcomes);
  }
}

void Damage::flip(uint64_t off, unsigned bit, const std::set<std::string>& allowed,
                  Outcomes* outcomes) {
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark mark = memory.mark();
  const std::byte flipped = memory.data()[off] ^ std::byte(1u << bit);
  memory.write(off, &flipped, 1);
  look(allowed, outcomes);
  memory.rollback(mark);
}

void Damage::poison_every_page(const Share& share, Outcomes* outcomes) {
  UndoMemory& memory = base_.pmem->memory();
  uint64_t n = 0;
  for (const uint64_t page : pages_) {
    if (n++ % share.parts != share.part) continue;
    now_ = "page at " + std::to_string(page * kPageBytes);
    if (!share.only.empty() && now_ != share.only) continue;
    const UndoMemory::Mark mark = memory.mark();
    base_.pmem->poison(page * kPageBytes);
    look({"right", "EIO", "refused"}, outcomes);
    memory.rollback(mark);
  }
}

}  // namespace pcache
