// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/oracle.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/check.h"
#include "testing/memory_device.h"

namespace pcache {

namespace {

constexpr uint64_t kStamp = 0x5eed'0000'0000'0000;

void stamp(VersionId version, uint64_t sector, std::byte* bytes) {
  for (uint64_t at = 0; at < kSectorBytes; at += sizeof(uint64_t)) {
    const uint64_t word = kStamp ^ (uint64_t{version} << 32 | sector << 6 | at / sizeof(uint64_t));
    memcpy(bytes + at, &word, sizeof word);
  }
}

std::string name(VersionId version) {
  if (version == 0) return "the backing device's first content";
  if (version == kEarlierLife) return "data of an earlier life";
  if (version == kZeros) return "zeros";
  return "version " + std::to_string(version);
}

}  // namespace

std::vector<std::byte> Oracle::content(VersionId version, uint64_t off, uint64_t len) {
  if (version == 0) return MemoryDevice::pattern(off, len);
  std::vector<std::byte> bytes(len);
  for (uint64_t at = 0; at < len; at += kSectorBytes)
    stamp(version, (off + at) / kSectorBytes, bytes.data() + at);
  return bytes;
}

std::optional<VersionId> Oracle::version_of(uint64_t sector, const std::byte* bytes) {
  uint64_t word;
  memcpy(&word, bytes, sizeof word);
  const auto version = static_cast<VersionId>((word ^ kStamp) >> 32);
  std::byte expected[kSectorBytes];
  stamp(version, sector, expected);
  if (version != 0 && memcmp(bytes, expected, kSectorBytes) == 0) return version;
  const auto first = MemoryDevice::pattern(sector * kSectorBytes, kSectorBytes);
  if (memcmp(bytes, first.data(), kSectorBytes) == 0) return 0;
  if (std::all_of(bytes, bytes + kSectorBytes, [](std::byte b) { return b == std::byte{0}; }))
    return kZeros;
  return std::nullopt;
}

VersionId Oracle::begin_write(const Extent& extent, Time time, bool preflush, bool zeros) {
  const VersionId id = ++last_;
  PCACHE_CHECK(id < kZeros);
  writes_[id] = extent;
  if (preflush) preflush_[id] = covers();
  for (uint64_t at = extent.off; at < extent.end(); at += kSectorBytes) {
    auto& versions = versions_[at / kSectorBytes];
    if (versions.empty()) versions.push_back({0, INT64_MIN, INT64_MIN, true});
    versions.push_back({id, time, kNever, false, zeros});
  }
  return id;
}

void Oracle::end_write(VersionId version, bool durable, Time time, bool on_device) {
  acknowledged_.push_back(version);
  const Extent& extent = writes_.at(version);
  for (uint64_t at = extent.off; at < extent.end(); at += kSectorBytes)
    for (Version& v : versions_.at(at / kSectorBytes)) {
      if (v.id != version) continue;
      v.acknowledged = true;
      if (durable || on_device) v.durable = std::min(v.durable, time);
      if (on_device) v.on_device = std::min(v.on_device, time);
    }
}

void Oracle::end_flush(Covered covered, Time time) {
  for (size_t i = 0; i < covered; i++) {
    const auto write = writes_.find(acknowledged_[i]);
    if (write == writes_.end()) continue;  // collapsed
    const Extent& extent = write->second;
    for (uint64_t at = extent.off; at < extent.end(); at += kSectorBytes)
      for (Version& v : versions_.at(at / kSectorBytes))
        if (v.id == acknowledged_[i]) v.durable = std::min(v.durable, time);
  }
}

std::vector<uint64_t> Oracle::sectors() const {
  std::vector<uint64_t> sectors;
  for (const auto& [sector, versions] : versions_) sectors.push_back(sector);
  return sectors;
}

VersionId Oracle::newest(uint64_t sector) const {
  const auto versions = versions_.find(sector);
  return versions == versions_.end() ? 0 : versions->second.back().id;
}

bool Oracle::may_read(uint64_t sector, VersionId version) const {
  const auto known = versions_.find(sector);
  if (known == versions_.end()) return version == 0;
  const auto& versions = known->second;
  const size_t index = index_of(versions, version);
  if (index == SIZE_MAX) return false;
  for (size_t i = index + 1; i < versions.size(); i++)
    if (versions[i].acknowledged) return false;
  return true;
}

size_t Oracle::index_of(const std::vector<Version>& versions, VersionId id, Time time,
                        Zeros which) {
  size_t found = SIZE_MAX;
  for (size_t i = 0; i < versions.size(); i++) {
    const Version& version = versions[i];
    if (version.id == id) return i;
    if (id == kZeros && version.zeros && version.submitted <= time &&
        (found == SIZE_MAX || which == Zeros::kNewest))
      found = i;
  }
  return found;
}

std::string Oracle::judge(const Found& found, Time time) const {
  if (not_formatted_yet(found, time)) return {};
  for (const auto& [sector, id] : found) {
    const std::string where = "sector " + std::to_string(sector) + " holds " + name(id);
    const auto known = versions_.find(sector);
    if (known == versions_.end()) {
      if (id != 0) return "resurrected: " + where + ", and was never written";
      continue;
    }
    const auto& versions = known->second;
    const size_t index = index_of(versions, id, time);
    if (index == SIZE_MAX || versions[index].submitted > time)
      return "resurrected: " + where + ", which is not one of its versions";
    size_t durable = 0;
    for (size_t i = 0; i < versions.size(); i++)
      if (versions[i].durable <= time) durable = i;
    if (index < durable)
      return "lost: " + where + ", but " + name(versions[durable].id) + " was durable";
  }
  return judge_preflush(found);
}

// If a write with PREFLUSH has left any data, all that was acknowledged before it is there, too.
std::string Oracle::judge_preflush(const Found& found) const {
  std::set<VersionId> there;
  for (const auto& [sector, id] : found)
    if (preflush_.contains(id)) there.insert(id);
  for (const VersionId id : there)
    for (Covered i = 0; i < preflush_.at(id); i++) {
      const Extent& before = writes_.at(acknowledged_[i]);
      for (uint64_t at = before.off; at < before.end(); at += kSectorBytes) {
        const auto now = found.find(at / kSectorBytes);
        if (now == found.end()) continue;
        const auto& versions = versions_.at(at / kSectorBytes);
        if (index_of(versions, now->second) < index_of(versions, acknowledged_[i]))
          return "lost: " + name(id) + " is there, which was to be behind a flush, and sector " +
                 std::to_string(at / kSectorBytes) + " holds " + name(now->second);
      }
    }
  return {};
}

std::string Oracle::judge_device(const Found& found, Time time) const {
  Time youngest = INT64_MIN;  // when the newest version found was submitted
  VersionId its_id = 0;
  for (const auto& [sector, id] : found) {
    const auto known = versions_.find(sector);
    if (known == versions_.end()) {
      if (id != 0)
        return "resurrected: device sector " + std::to_string(sector) + " holds " + name(id);
      continue;
    }
    const size_t index = index_of(known->second, id, time, Zeros::kOldest);
    if (index == SIZE_MAX || known->second[index].submitted > time)
      return "resurrected: device sector " + std::to_string(sector) + " holds " + name(id) +
             ", which is not one of its versions";
    if (known->second[index].submitted > youngest) {
      youngest = known->second[index].submitted;
      its_id = id;
    }
  }
  for (const auto& [sector, id] : found) {
    const auto known = versions_.find(sector);
    if (known == versions_.end()) continue;
    const auto& versions = known->second;
    const size_t index = index_of(versions, id, time);
    for (size_t i = index + 1; i < versions.size(); i++)
      if (versions[i].durable < youngest)
        return "lost: the device is out of order: it has " + name(its_id) + ", and of sector " +
               std::to_string(sector) + " " + name(id) + ", although " + name(versions[i].id) +
               " was durable before";
  }
  return {};
}

std::string Oracle::judge_on_device(const Found& found, Time time) const {
  for (const auto& [sector, id] : found) {
    const auto known = versions_.find(sector);
    if (known == versions_.end()) continue;
    const auto& versions = known->second;
    const size_t index = index_of(versions, id, time);
    for (size_t i = index + 1; i < versions.size(); i++)
      if (versions[i].on_device <= time)
        return "lost: the device has of sector " + std::to_string(sector) + " " + name(id) +
               ", and " + name(versions[i].id) + " was acknowledged on it";
  }
  return {};
}

// Versions later than the found one never existed. The device may have an older one.
void Oracle::keep_found(const Found& found, Time now) {
  for (auto& [sector, versions] : versions_) {
    const auto there = found.find(sector);
    PCACHE_CHECK(there != found.end());
    const size_t index = index_of(versions, there->second, now);
    PCACHE_CHECK(index != SIZE_MAX);
    versions.resize(index + 1);
    for (Version& version : versions) {
      version.acknowledged = true;
      version.durable = std::min(version.durable, now);
    }
  }
  writes_.clear();
  acknowledged_.clear();
  preflush_.clear();
  before_format_.clear();
  format_begun_ = format_done_ = INT64_MIN;
}

void Oracle::go_on(const Found& found, Time now) { keep_found(found, now); }

void Oracle::collapse(const Found& found, Time now) {
  keep_found(found, now);
  for (auto& [sector, versions] : versions_)
    for (Version& version : versions) {
      if (version.submitted == INT64_MIN) continue;
      version.durable -= now + 1;
      version.submitted -= now + 1;
      version.on_device = version.on_device <= now ? version.on_device - now - 1 : kNever;
    }
}

}  // namespace pcache
