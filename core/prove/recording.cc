// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/recording.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <iterator>

namespace pcache {

namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[] = {'p', 'c', 'r', 'e', 'c', 'o', 'r', 'd'};
struct Header {
  char magic[sizeof kMagic];
  uint64_t device_bytes;
};
static_assert(sizeof(Header) == 16);

constexpr uint8_t kFua = 1;
struct Record {
  uint8_t kind, flags;
  uint16_t zero;
  uint32_t len;
  uint64_t off;
};
static_assert(sizeof(Record) == 16);

}  // namespace

Result<Recording> Recording::read(const std::string& path, uint64_t device_bytes,
                                  uint64_t used_bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return error_errno(errno, "%s", path.c_str());
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  Recording recording;
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  recording.bytes_.assign(first, first + text.size());
  const std::span<const std::byte> all = recording.bytes_;
  Header header;
  if (all.size() < sizeof header) return make_error(EINVAL, "%s: no recording", path.c_str());
  memcpy(&header, all.data(), sizeof header);
  if (memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.device_bytes != device_bytes)
    return make_error(EINVAL, "%s: no recording of a device of %lu bytes", path.c_str(),
                      device_bytes);
  for (size_t at = sizeof header; at < all.size();) {
    const auto wrong = [&](const char* what) {
      return make_error(EINVAL, "%s: byte %zu: %s", path.c_str(), at, what);
    };
    Record record;
    if (all.size() - at < sizeof record) return wrong("half a record");
    memcpy(&record, all.data() + at, sizeof record);
    const auto kind = static_cast<Kind>(record.kind);
    if (kind < Kind::kWrite || kind > Kind::kMark) return wrong("no kind of record");
    const bool has_data = kind == Kind::kWrite || kind == Kind::kMark;
    if (has_data && all.size() - at - sizeof record < record.len) return wrong("half a record");
    Request request{kind, (record.flags & kFua) != 0, {}, {}, false};
    if (kind != Kind::kFlush && kind != Kind::kMark) {
      request.extent = {record.off, record.len};
      const uint64_t most = kind == Kind::kRead ? device_bytes : used_bytes;
      if (record.len == 0 || record.off % kSectorBytes || record.len % kSectorBytes ||
          record.off > most || record.len > most - record.off)
        return wrong("no sectors of the file system");
    }
    at += sizeof record;
    if (kind == Kind::kWrite) request.data = all.subspan(at, record.len);
    if (has_data) at += record.len;
    if (request.extent.end() <= used_bytes) recording.requests_.push_back(request);
  }
  return recording;
}

}  // namespace pcache
