// SPDX-License-Identifier: GPL-2.0-or-later
#include "micro/rig.h"

#include <cstdlib>

#include "segment/format_device.h"

namespace pcache::micro {

namespace {

constexpr uint64_t kBackingBytes = 4ull << 30;
constexpr uint64_t kMostBytes = 1 << 20;
constexpr uint32_t kMostTogether = 32;

void check(int result) {
  if (result != 0) die("a request of the benchmark failed: " + std::string(strerror(-result)));
}

void cover(Rig& rig) {
  for (uint64_t off = 0; off < kWorkingSetBytes; off += kMostBytes) rig.write(off, kMostBytes);
}

// Each page of the working set in eight pieces, in an order that keeps them apart.
void cover_in_sectors(Rig& rig) {
  for (uint64_t sector = 0; sector < 8; sector++)
    for (uint64_t off = 0; off < kWorkingSetBytes / 8; off += kPageBytes)
      rig.write(off + sector * kSectorBytes, kSectorBytes);
}

// The first hit of data sets its mark; what is measured are those that come after.
void read_once(Rig& rig, uint64_t bytes) {
  for (uint64_t off = 0; off < bytes; off += kPageBytes) rig.read(off, kPageBytes);
}
void cover_and_read(Rig& rig) {
  cover(rig);
  read_once(rig, kWorkingSetBytes);
}
void cover_in_sectors_and_read(Rig& rig) {
  cover_in_sectors(rig);
  read_once(rig, kWorkingSetBytes / 8);
}

void nothing(Rig&) {}

template <uint64_t bytes, uint32_t flags = 0>
void write(Rig& rig, uint64_t page) {
  rig.write(page * kPageBytes / bytes * bytes, bytes, flags);
}
template <uint64_t bytes>
void read(Rig& rig, uint64_t page) {
  rig.read(page * kPageBytes / bytes * bytes, bytes);
}

template <uint32_t together>
void read_together(Rig& rig, uint64_t page) {
  rig.read_together(page * kPageBytes, kPageBytes, together);
}

constexpr RequestCase kCases[] = {
    {"store", 4096, 0, nothing,
     [](Rig& rig, uint64_t page) { rig.store(page * kPageBytes, kPageBytes); }},
    {"load", 4096, 0, nothing,
     [](Rig& rig, uint64_t page) { rig.load(page * kPageBytes, kPageBytes); }},
    {"write_hit", 512, 512, cover,
     [](Rig& rig, uint64_t page) { rig.write(page * kPageBytes, 512); }},
    {"write_hit", 4096, 4096, cover, write<4096>},
    {"write_hit", 65536, 65536, cover, write<65536>},
    {"write_new", 4096, 4096, nothing, write<4096>},
    {"write_fua", 4096, 4096, cover, write<4096, PCACHE_REQ_FUA>},
    {"write_and_flush", 4096, 4096, cover,
     [](Rig& rig, uint64_t page) {
       rig.write(page * kPageBytes, kPageBytes);
       rig.flush();
     }},
    {"read_hit", 512, 0, cover_and_read,
     [](Rig& rig, uint64_t page) { rig.read(page * kPageBytes, 512); }},
    {"read_hit", 4096, 0, cover_and_read, read<4096>},
    {"read_hit", 65536, 0, cover_and_read, read<65536>},
    {"load_by_32", 4096, 0, nothing,
     [](Rig& rig, uint64_t page) { rig.load_together(page * kPageBytes, kPageBytes, 32); }},
    {"read_hit_by_8", 4096, 0, cover_and_read, read_together<8>},
    {"read_hit_by_32", 4096, 0, cover_and_read, read_together<32>},
    {"read_of_8_pieces", 4096, 0, cover_in_sectors_and_read,
     [](Rig& rig, uint64_t page) { rig.read(page / 8 * kPageBytes, kPageBytes); }},
};

}  // namespace

Rig::Rig(ScratchMemory& memory, const PersistOps* ops, bool data_crc)
    : buffer_(static_cast<std::byte*>(std::aligned_alloc(4096, kMostBytes))) {
  memset(buffer_, 0x5a, kMostBytes);
  batch_.reserve(kMostTogether);
  bound_ = memory.make_pmem(ops);
  auto pmem = memory.make_pmem(ops);
  FormatOptions format;
  format.data_crc = data_crc;
  PCACHE_CHECK(format_device(*pmem, format).ok());
  PCACHE_CHECK(erase_identity(*pmem).ok());
  Options options;
  options.policy = policy::PolicyKind::kAdaptive;  // as by default
  options.data_crc = data_crc;
  auto cache = Cache::attach(
      {std::move(pmem), scratch_backing(kBackingBytes), std::make_unique<SteppedExecutor>()},
      options);
  if (!cache) die(cache.error().text);
  cache_ = cache.take();
  auto queue = cache_->create_queue(1);
  if (!queue) die(queue.error().text);
  queue_ = queue.take();
}

Rig::~Rig() {
  queue_.reset();
  cache_.reset();
  free(buffer_);
}

void Rig::write(uint64_t off, uint64_t len, uint32_t flags) {
  pcache_request request{PCACHE_OP_WRITE, flags, off, len, buffer_, 0, 0, nullptr};
  if (queue_->submit(&request) != 1) die("a write of the benchmark waits: the cache is full");
  check(request.result);
}

void Rig::read(uint64_t off, uint64_t len) {
  pcache_request request{PCACHE_OP_READ, 0, off, len, buffer_, 0, 0, nullptr};
  if (queue_->submit(&request) != 1) die("a read of the benchmark is no hit");
  check(request.result);
}

// In segments that the cache does not come to.
constexpr uint64_t kBoundOff = kRigBytes - kWorkingSetBytes;

void Rig::store(uint64_t off, uint64_t len) {
  (void)bound_->store(MediaOff{kBoundOff + off}, buffer_, len);
  bound_->fence();
}

void Rig::load(uint64_t off, uint64_t len) {
  if (!bound_->load(buffer_, MediaOff{kBoundOff + off}, len)) die("a load of the benchmark failed");
}

void Rig::read_together(uint64_t off, uint64_t len, uint32_t together) {
  std::byte* const to = buffer_ + batch_.size() * len;
  batch_.push_back({PCACHE_OP_READ, 0, off, len, to, 0, 0, nullptr});
  if (batch_.size() < together) return;
  pcache_request* all[kMostTogether];
  pcache_request* done[kMostTogether];
  uint32_t count = 0;
  for (uint32_t i = 0; i < together; i++) all[i] = &batch_[i];
  (void)queue_->submit_batch({all, together}, done, &count);
  if (count != together) die("a read of the benchmark is no hit");
  for (const pcache_request& request : batch_) check(request.result);
  batch_.clear();
}

void Rig::load_together(uint64_t off, uint64_t len, uint32_t together) {
  batch_.push_back({PCACHE_OP_READ, 0, off, len, buffer_ + batch_.size() * len, 0, 0, nullptr});
  if (batch_.size() < together) return;
  for (const pcache_request& one : batch_)
    if (!bound_->load(one.buf, MediaOff{kBoundOff + one.off}, one.len))
      die("a load of the benchmark failed");
  batch_.clear();
}

void Rig::flush() {
  pcache_request request{PCACHE_OP_FLUSH, 0, 0, 0, nullptr, 0, 0, nullptr};
  if (queue_->submit(&request) != 1) die("a flush of the benchmark waits");
  check(request.result);
}

std::span<const RequestCase> request_cases() { return kCases; }

}  // namespace pcache::micro
