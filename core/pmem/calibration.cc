// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/calibration.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <sstream>

#include "pmem/cpu.h"
#include "pmem/persist_copy.h"
#include "pmem/pmem.h"

namespace pcache {

namespace {

constexpr size_t kRegionBytes = 2 << 20;
constexpr size_t kTimedBytes = 64 << 10;  // for one reading of the clock

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

std::string size_text(size_t bytes) {
  return bytes < 1024 ? std::to_string(bytes) + " B" : std::to_string(bytes / 1024) + " KiB";
}

}  // namespace

std::array<const PersistOps*, Calibration::kClasses> Calibration::chosen() const {
  PCACHE_CHECK(!measured.empty());
  constexpr double kFaster = 0.95;
  std::array<const PersistOps*, kClasses> chosen;
  for (size_t c = 0; c < kClasses; c++) {
    const auto best = std::ranges::min_element(
        measured, [&](const Method& a, const Method& b) { return a.ns[c] < b.ns[c]; });
    const Method& first = measured.front();
    chosen[c] = best->ns[c] < kFaster * first.ns[c] ? best->ops : first.ops;
  }
  return chosen;
}

std::string Calibration::text() const {
  const auto best = chosen();
  std::ostringstream text;
  for (size_t c = 0; c < kClasses; c++) {
    text << (c ? "; " : "") << size_text(kSizes[c]);
    const char* before = " (";
    for (const Method& method : measured)
      if (method.ops == best[c]) text << " " << method.ops->name << " " << method.ns[c] << " ns";
    for (const Method& method : measured)
      if (method.ops != best[c]) {
        text << before << method.ops->name << " " << method.ns[c];
        before = ", ";
      }
    if (measured.size() > 1) text << ")";
  }
  return text.str();
}

// Stores the content that is there: a crash in the middle leaves the media as it was.
Result<Calibration> Pmem::calibrate(unsigned rounds) {
  PCACHE_CHECK(rounds > 0);
  if (size_ < 2 * kRegionBytes)
    return make_error(EINVAL, "cache device %s: has %llu bytes, too few to measure on", path(),
                      static_cast<unsigned long long>(size_));
  const MediaOff region{(size_ - kRegionBytes) / kLineBytes * kLineBytes};
  const auto content = std::make_unique<std::byte[]>(kRegionBytes);
  if (auto reserved = reserve(region, kRegionBytes); !reserved) return reserved.error();
  if (!load(content.get(), region, kRegionBytes))
    return make_error(EIO, "cache device %s: its last 2 MiB cannot be read", path());
  Calibration found;
  for (const PersistOps& ops : persist_methods())
    if (ops.supported()) {
      found.measured.push_back({&ops, {}});
      found.measured.back().ns.fill(UINT32_MAX);
    }
  const PersistOps& streaming = *found.measured.front().ops;
  size_t at = 0;
  for (unsigned round = 0; round < rounds; round++)
    for (size_t c = 0; c < Calibration::kClasses; c++)
      for (Calibration::Method& method : found.measured) {
        const size_t size = Calibration::kSizes[c];
        std::byte* const to = base_ + region.v + at;
        const std::byte* const from = content.get() + at;
        // Takes the lines out of the CPU's cache, as a log's next place is not in it either.
        streaming.copy(nullptr, to, from, kTimedBytes);
        streaming.fence(nullptr);
        const uint64_t begin = now_ns();
        for (size_t done = 0; done < kTimedBytes; done += size) {
          method.ops->copy(nullptr, to + done, from + done, size);
          method.ops->fence(nullptr);
        }
        const uint64_t ns = (now_ns() - begin) * size / kTimedBytes;
        // The least time is the one that nothing has disturbed.
        method.ns[c] = std::min<uint64_t>(method.ns[c], std::max<uint64_t>(ns, 1));
        at = (at + kTimedBytes) % kRegionBytes;
      }
  if (bad_pages_->contain(region.v, kRegionBytes))
    return make_error(EIO, "cache device %s: its last 2 MiB cannot be stored to", path());
  return found;
}

void Pmem::use(const std::array<const PersistOps*, Calibration::kClasses>& chosen) {
  PCACHE_CHECK(std::ranges::all_of(chosen, [](auto* ops) { return ops && ops->supported(); }));
  static const PersistOps& small = persist_methods().front();
  const bool one = std::ranges::all_of(chosen, [&](auto* ops) { return ops == chosen[0]; });
  by_size_ = std::make_unique<BySize>(BySize{chosen, {}});
  by_size_->ops = {one ? chosen[0]->name : "by size",
                   [](void* ctx, std::byte* dst, const void* src, size_t len_bytes) {
                     const auto& chosen = static_cast<const BySize*>(ctx)->chosen;
                     const PersistOps& ops = len_bytes <= kStoreAndFlushBytes
                                                 ? small
                                                 : *chosen[Calibration::class_of(len_bytes)];
                     ops.copy(nullptr, dst, src, len_bytes);
                   },
                   small.fence, [] { return true; }};
  const bool plain = one && chosen[0] == &small;  // no need to look at the size
  ops_ = plain ? &small : &by_size_->ops;
  ctx_ = plain ? nullptr : by_size_.get();
}

}  // namespace pcache
