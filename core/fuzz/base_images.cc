// SPDX-License-Identifier: GPL-2.0-or-later
#include "fuzz/base_images.h"

#include "keylog/log_cursor.h"
#include "keylog/tails.h"

namespace pcache {

using media::Key;
using std::chrono::milliseconds;

namespace {

constexpr char kBackingText[] = "fuzz serial=1";

class Writer {
 public:
  explicit Writer(MemoryPmem& memory) {
    PCACHE_CHECK(over_.attach(memory, {}).ok());
    queue_ = over_.cache->create_queue(8).take();
  }
  ~Writer() {
    queue_.reset();
    PCACHE_CHECK(over_.cache->close().ok());
  }
  void request(uint32_t op, uint64_t off, uint64_t len, uint32_t flags = 0) {
    std::vector<std::byte> data(len, std::byte(++value_));
    pcache_request request{op, flags, off, len, data.data(), 0, 0, nullptr};
    pcache_request* done[1];
    if (queue_->submit(&request) == 0) PCACHE_CHECK(queue_->reap(done, 1, 1, -1) == 1);
    PCACHE_CHECK(request.result == 0);
  }
  void write(uint64_t off, uint64_t len, uint32_t flags = 0) {
    request(PCACHE_OP_WRITE, off, len, flags);
  }
  void flush() { request(PCACHE_OP_FLUSH, 0, 0); }
  void write_back() { over_.executor->advance(milliseconds(5000)); }
  void reclaim() {
    PCACHE_CHECK(over_.cache->set_gc_percent(0).ok());
    over_.executor->advance(milliseconds(0));
    PCACHE_CHECK(over_.cache->set_gc_percent(media::kGcPercentDefault).ok());
  }

 private:
  FuzzCache over_;
  std::unique_ptr<Queue> queue_;
  unsigned value_ = 0;
};

// A log that the cache itself wrote, over the end of a segment. Both tails have moved; it has ksets
// of one key and of several, overwritten parts, clean fills, and dirty data at the end.
void write_used(MemoryPmem& memory) {
  Writer out(memory);
  for (uint64_t i = 0; i < 8; i++) out.write(i % 3 * 8192, 4096 + i * 512, PCACHE_REQ_FUA);
  out.write_back();
  out.reclaim();
  for (uint64_t i = 0; i < 20; i++)
    out.write(i % 7 * 4096 + (i % 3 << 22), 512 * (1 + i % 9), PCACHE_REQ_FUA);
  for (uint64_t i = 0; i < 4; i++) out.request(PCACHE_OP_READ, (1 << 20) + i * 65536, 8192);
  out.flush();
  out.write_back();
  for (uint64_t i = 0; i < 12; i++) out.write((i % 4 << 22) + i * 1024, 4096);
  out.flush();
  for (uint64_t i = 0; i < 6; i++) out.write(i * 2048, 1024, PCACHE_REQ_FUA);
  out.write(kFuzzLogicalBytes - 8192, 8192, PCACHE_REQ_FUA);
}

std::unique_ptr<Image> near_segment_end(bool data_crc) {
  FormatOptions options;
  options.data_crc = data_crc;
  auto image = std::make_unique<Image>(kFuzzSegments, options);
  const CachePos start{SegId{0}, media::kSegDataBytes - media::kMaxKsetBytes - 1600};
  image->key_tail(start);
  image->dirty_tail(start);
  return image;
}

// Things that the cache does not write: dead keys, LAST behind LAST, a key appended twice, keys of
// zeros over data.
std::unique_ptr<Image> crafted() {
  constexpr SegId kDead{9}, kLive{5}, kOther{20};
  FormatOptions options;
  options.data_crc = true;
  auto image = std::make_unique<Image>(kFuzzSegments, options);
  const auto page = [&](uint64_t n, CachePos data, uint64_t gen, uint32_t flags) {
    const std::vector<std::byte> bytes(kPageBytes, std::byte(n + 1));
    image->memory().poke(image->off(data), bytes.data(), bytes.size());
    Key key = make_key({n * kPageBytes, kPageBytes}, data, gen, flags);
    key.data_crc = data_crc32c(bytes.data(), bytes.size());
    return key;
  };
  image->generation(kDead, 3);
  image->generation(kLive, 1);
  CachePos at{};
  at = image->kset(at, {page(0, {kDead, 0}, 2, 0), page(1, {kDead, 4096}, 2, 0)});
  at = image->last(at, SegId{1});
  at = image->last(at, SegId{30});
  at = image->kset(at, {page(1, {kLive, 0}, 1, 0), page(1928, {kLive, 4096}, 1, 2),
                        page(5, {kLive, 12288}, 1, media::kKeyZeros)});
  at = image->last(at, SegId{2});
  image->dirty_tail(at);
  const Key again = page(7, {kOther, 0}, 0, 0);
  at = image->kset(at, {again, page(1, {kOther, 4096}, 0, 0), page(3, {kLive, 8192}, 1, 0),
                        page(9, {kOther, 20480}, 0, media::kKeyZeros | media::kKeyHole),
                        page(10, {kOther, 20480}, 0, media::kKeyZeros)});
  at = image->kset(at, {again});
  image->kset(at,
              {page(1025, {kOther, 8192}, 0, 0), page(2, {kOther, 16384}, 0, media::kKeyClean)});
  return image;
}

std::vector<CachePos> ksets_of(MemoryPmem& memory) {
  const auto frame = load_frame(memory.pmem(), Log());
  PCACHE_CHECK(frame.ok());
  Tails tails;
  const Bounds bounds{frame.value().info.n_segs, kFuzzLogicalBytes};
  PCACHE_CHECK(tails.load(memory.pmem(), bounds).ok());
  const SegmentTable segments(memory.pmem(), {frame.value().chain, 2});
  std::vector<CachePos> ksets;
  LogCursor cursor(memory.pmem(), segments, tails.key_tail());
  for (;;) {
    const auto item = cursor.next();
    PCACHE_CHECK(item.ok());
    ksets.push_back(item.value().pos);
    if (item.value().kind == LogItem::Kind::kEnd) return ksets;
  }
}

BaseImage finish(MemoryPmem& memory) {
  memory.checkpoint();
  return {memory.crash_image({}), ksets_of(memory)};
}

}  // namespace

BackingIdentity fuzz_backing(bool unique) { return {kBackingText, kFuzzLogicalBytes, unique}; }

Result<bool> FuzzCache::attach(MemoryPmem& memory, const Options& options,
                               const BackingIdentity& backing) {
  auto disk = std::make_unique<MemoryDevice>(backing.size_bytes);
  disk->set_identity(backing.text, backing.unique);
  device = disk.get();
  auto stepped = std::make_unique<SteppedExecutor>();
  executor = stepped.get();
  auto attached = Cache::attach({memory.make_pmem(), std::move(disk), std::move(stepped)}, options);
  if (!attached) return attached.error();
  cache = attached.take();
  return true;
}

std::vector<BaseImage> make_base_images() {
  std::vector<BaseImage> bases;
  for (const bool data_crc : {false, true}) {
    const auto image = near_segment_end(data_crc);
    write_used(image->memory());
    bases.push_back(finish(image->memory()));
  }
  bases.push_back(finish(crafted()->memory()));
  MemoryPmem unused(device_bytes(kFuzzSegments));
  { Writer format(unused); }
  bases.push_back(finish(unused));
  // Blank.
  bases.push_back({std::make_unique<MemoryPmem>(device_bytes(kFuzzSegments)), {{}}});
  return bases;
}

}  // namespace pcache
