// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/persist_record.h"

#include <cstring>

#include "format/codec.h"
#include "pmem/cpu.h"

namespace pcache {

using media::PersistRecord;

namespace {

constexpr size_t kMostMethods = std::size(PersistRecord{}.ns);
static_assert(std::size(PersistRecord{}.ns[0]) == Calibration::kClasses);

uint32_t this_cpu() { return crc32c(media::kCrcSeed, cpu_name().data(), cpu_name().size()); }

}  // namespace

std::optional<Calibration> load_calibration(const Pmem& pmem) {
  PersistRecord record;
  if (!pmem.load(&record, MediaOff{media::kPersistOff}, sizeof record)) return std::nullopt;
  const auto methods = persist_methods();
  if (record.magic != media::kPersistMagic || record.version != media::kPersistVersion ||
      record.crc != record_crc(record) || cpu_name().empty() || record.cpu != this_cpu() ||
      record.pmem_kind != static_cast<uint32_t>(pmem.kind()) || record.bytes != pmem.size_bytes() ||
      record.n_methods != methods.size() || record.n_methods > kMostMethods)
    return std::nullopt;
  Calibration calibration;
  for (size_t m = 0; m < methods.size(); m++) {
    for (const uint32_t ns : record.ns[m])
      if ((ns != 0) != methods[m].supported()) return std::nullopt;
    if (!methods[m].supported()) continue;
    Calibration::Method& method = calibration.measured.emplace_back();
    method.ops = &methods[m];
    std::copy(std::begin(record.ns[m]), std::end(record.ns[m]), method.ns.begin());
  }
  return calibration;
}

Status store_calibration(Pmem& pmem, const Calibration& calibration, uint64_t now_unix_s) {
  const auto methods = persist_methods();
  PCACHE_CHECK(methods.size() <= kMostMethods);
  PersistRecord record;
  if (!pmem.load(&record, MediaOff{media::kPersistOff}, sizeof record))
    return make_error(EIO, "media error behind the identity block");
  constexpr PersistRecord kNone{};
  if (record.magic != media::kPersistMagic && memcmp(&record, &kNone, sizeof record) != 0)
    return make_error(EEXIST, "something that is not ours stands behind the identity block");
  record = {};
  record.version = media::kPersistVersion;
  record.magic = media::kPersistMagic;
  record.cpu = this_cpu();
  record.pmem_kind = static_cast<uint32_t>(pmem.kind());
  record.bytes = pmem.size_bytes();
  record.n_methods = static_cast<uint32_t>(methods.size());
  for (const Calibration::Method& method : calibration.measured)
    std::copy(method.ns.begin(), method.ns.end(), record.ns[method.ops - methods.data()]);
  record.made_unix_s = now_unix_s;
  record.crc = record_crc(record);
  // The magic first: a torn record is still known as ours, and is measured again.
  const MediaOff magic = MediaOff{media::kPersistOff} + offsetof(PersistRecord, magic);
  if (!pmem.store(magic, &record.magic, sizeof record.magic))
    return make_error(EIO, "media error behind the identity block");
  pmem.fence();
  if (!pmem.store(MediaOff{media::kPersistOff}, &record, sizeof record))
    return make_error(EIO, "media error behind the identity block");
  pmem.fence();
  return {};
}

}  // namespace pcache
