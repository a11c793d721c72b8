// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/bases.h"

#include "format/layout.h"
#include "keylog/tails.h"
#include "segment/format_device.h"
#include "segment/identity.h"
#include "segment/space_policy.h"
#include "testing/image.h"

namespace pcache {

using namespace media;

namespace {

// A data segment of an earlier life, still in use for one sector.
constexpr SegId kOldData{20};
// Segments that the log may take next, with ksets of an earlier life.
constexpr uint32_t kOldLogs = 6;
constexpr uint32_t kOldKsets = 40;
constexpr uint32_t kOneKeyBytes = sizeof(KsetHeader) + sizeof(Key);

class Builder {
 public:
  Builder(PmemSim& sim, bool data_crc) : pmem_(sim.make_pmem()), data_crc_(data_crc) {
    FormatOptions options;
    options.data_crc = data_crc;
    PCACHE_CHECK(format_device(*pmem_, options).ok());
  }

  // A key whose data is stored.
  Key key(VersionId version, const Extent& extent, CachePos data, uint32_t flags = 0,
          uint64_t gen = 0) {
    const auto bytes = Oracle::content(version, extent.off, extent.len);
    PCACHE_CHECK(pmem_->store(at(data), bytes.data(), bytes.size()));
    Key key = make_key(extent, data, gen, flags);
    if (data_crc_) key.data_crc = data_crc32c(bytes.data(), bytes.size());
    return key;
  }
  CachePos kset(CachePos pos, const std::vector<Key>& keys) {
    std::vector<std::byte> bytes(kset_bytes(static_cast<uint32_t>(keys.size())));
    memcpy(bytes.data() + sizeof(KsetHeader), keys.data(), keys.size() * sizeof(Key));
    auto* header = reinterpret_cast<KsetHeader*>(bytes.data());
    seal_kset(header, {reinterpret_cast<const Key*>(header + 1), keys.size()});
    PCACHE_CHECK(pmem_->store(at(pos), bytes.data(), bytes.size()));
    return pos + static_cast<uint32_t>(bytes.size());
  }
  void last(CachePos pos, SegId next) {
    const KsetHeader header = make_last_kset(next);
    PCACHE_CHECK(pmem_->store(at(pos), &header, sizeof header));
  }
  void generation(SegId seg, uint64_t gen) {
    Replicated<SegmentGen> record(segment_gen_place(seg.v));
    record.load(*pmem_);
    SegmentGen raised{};
    raised.gen = gen;
    PCACHE_CHECK(record.write(*pmem_, raised));
  }
  void clear(CachePos pos) {
    constexpr KsetHeader kCleared{};
    PCACHE_CHECK(pmem_->store(at(pos), &kCleared, sizeof kCleared));
  }
  void tails(CachePos key_tail, CachePos dirty_tail) {
    Tails tails;
    PCACHE_CHECK(tails.load(*pmem_, {kProveSegments, kProveLogicalBytes}).ok());
    PCACHE_CHECK(tails.set_key_tail(*pmem_, key_tail).ok());
    PCACHE_CHECK(tails.set_dirty_tail(*pmem_, dirty_tail).ok());
  }

 private:
  static MediaOff at(CachePos pos) { return segment_data_off(pos.seg.v) + pos.off; }

  std::unique_ptr<Pmem> pmem_;
  const bool data_crc_;
};

// `start`: the log is one kset long.
void build_old_log(Base* base, bool data_crc, CachePos start) {
  Builder build(*base->pmem, data_crc);
  build.tails(start, start);
  const CachePos head = build.kset(
      start, {build.key(kEarlierLife, {11 << 20, kSectorBytes}, {kOldData, 0}, kKeyClean)});
  uint32_t n = 0;
  const auto old_kset = [&](CachePos pos) {
    const uint64_t page = n % 8;  // the pages that the workloads write
    const CachePos data{kOldData, (1 + n % 64) * kPageBytes};
    n++;
    return build.kset(pos, {build.key(kEarlierLife, {page * kPageBytes, kPageBytes}, data)});
  };
  const uint32_t end = std::min(kSegDataBytes, head.off + kOldKsets * kOneKeyBytes);
  for (CachePos pos = head; pos.off + kOneKeyBytes + sizeof(KsetHeader) <= end;)
    pos = old_kset(pos);
  for (uint32_t seg = 1; seg <= kOldLogs; seg++)
    for (CachePos pos{SegId{seg}, 0}; pos.off < kOldKsets * kOneKeyBytes;) pos = old_kset(pos);
  build.clear(head);
  // The device has the clean sector, too.
  base->device_bytes.push_back(Oracle::content(kEarlierLife, 11 << 20, kSectorBytes));
  base->device[(11 << 20) / kSectorBytes] = base->device_bytes.back().data();
}

void build_full(Base* base, bool data_crc) {
  Builder build(*base->pmem, data_crc);
  std::vector<Key> keys;
  const uint32_t reserve = log_reserve_segments(kProveSegments);
  for (uint32_t seg = 1; seg < kProveSegments - reserve; seg++) {
    const Extent extent{(8 << 20) + seg * uint64_t{kPageBytes}, kPageBytes};
    const VersionId version = base->oracle.begin_write(extent, -1);
    base->oracle.end_write(version, true, -1);
    keys.push_back(build.key(version, extent, {SegId{seg}, 0}));
  }
  build.clear(build.kset({}, keys));
}

void build_used(Base* base, bool data_crc) {
  Builder build(*base->pmem, data_crc);
  constexpr SegId kReused{20}, kOther{21}, kSecondLog{9};
  constexpr Extent kMany{9 << 20, kKeysPerKset * kSectorBytes};
  const auto version = [&](const Extent& extent) {
    const VersionId id = base->oracle.begin_write(extent, -1);
    base->oracle.end_write(id, true, -1);
    return id;
  };
  // The third page also has data in the other segment, older than the dead key.
  constexpr Extent kThird{3 * kPageBytes, kPageBytes};
  CachePos pos = build.kset({}, {build.key(kEarlierLife, kThird, {kOther, 0})});
  std::vector<Key> dead;
  for (uint32_t page = 0; page < 8; page++)
    dead.push_back(build.key(kEarlierLife, {page * uint64_t{kPageBytes}, kPageBytes},
                             {kReused, page * kPageBytes}));
  pos = build.kset(pos, dead);
  build.last(pos, kSecondLog);
  pos = {kSecondLog, 0};
  build.tails({}, pos);
  build.generation(kReused, 1);
  // In an order in which no two make one extent.
  std::vector<Key> many;
  const VersionId first = version(kMany);
  for (uint32_t i = 0; i < kKeysPerKset; i++)
    many.push_back(build.key(first, {kMany.off + i * kSectorBytes, kSectorBytes},
                             {kReused, (kKeysPerKset - i) * kSectorBytes}, 0, 1));
  pos = build.kset(pos, many);
  const Extent over{kMany.off + 3 * kSectorBytes, 4 * kSectorBytes};
  const Extent beside{kMany.end(), kSectorBytes};
  const VersionId second = version(over), third = version(beside);
  pos = build.kset(pos, {build.key(second, over, {kReused, 1 << 20}, 0, 1),
                         build.key(third, beside, {kReused, 2 << 20}, 0, 1)});
  build.clear(pos);
}

}  // namespace

std::vector<std::string> base_names() { return {"blank", "fresh", "old", "roll", "full", "used"}; }

std::unique_ptr<Base> make_base(const std::string& name, bool data_crc, bool strict) {
  auto base = std::make_unique<Base>();
  base->name = name + (data_crc ? "+crc" : "") + (strict ? "" : "+relaxed");
  base->strict = strict;
  base->data_crc = data_crc;
  base->hash = std::hash<std::string>()(base->name);
  base->pmem = std::make_unique<PmemSim>(device_bytes(kProveSegments));
  if (name == "fresh") {
    Builder(*base->pmem, data_crc);
    PCACHE_CHECK(Session::attach(*base->pmem, {}, {.data_crc = data_crc}).value()->close().ok());
  } else if (name == "roll") {
    // Room for one kset of one key and for the header behind it, which becomes a LAST kset.
    build_old_log(base.get(), data_crc,
                  {SegId{0}, kSegDataBytes - 2 * kOneKeyBytes - 2 * uint32_t{sizeof(KsetHeader)}});
  } else if (name == "old") {
    build_old_log(base.get(), data_crc, {SegId{0}, 64 * kOneKeyBytes});
  } else if (name == "full") {
    build_full(base.get(), data_crc);
  } else if (name == "used") {
    build_used(base.get(), data_crc);
  }
  base->pmem->memory().forget();
  return base;
}

std::unique_ptr<Base> make_two_sides_base(const std::string& name, bool data_crc, bool strict,
                                          bool small) {
  auto base = make_base(name, data_crc, strict);
  base->name += small ? "+sides+small" : "+sides";
  base->hash = std::hash<std::string>()(base->name);
  const auto pmem = base->pmem->make_pmem();
  PCACHE_CHECK(write_identity(*pmem, prove_backing(), 1).ok());
  if (small) {
    DeviceFrame frame = load_frame(*pmem, Log()).take();
    frame.info.gc_percent = 1;
    PCACHE_CHECK(write_cache_info(*pmem, frame).ok());
  }
  base->pmem->memory().forget();
  return base;
}

}  // namespace pcache
