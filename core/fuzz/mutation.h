// SPDX-License-Identifier: GPL-2.0-or-later
// Mutations of an image: one field of one record gets another value. Mostly the record's crc is
// then made right, so that the code behind the crc check is reached.
//
// Every 8 bytes are a Mutation, and every Mutation fits every image: its numbers are taken modulo
// the counts.
#pragma once

#include <set>

#include "fuzz/base_images.h"

namespace pcache {

enum class RecordKind : uint8_t {
  kSuperblock,
  kCacheInfo,
  kTail,
  kSegmentInfo,
  kGeneration,
  kIdentity,
  kKset,  // its header; whole: with its keys
  kKey,
  kData,  // data of a key
  kRaw,   // any byte that is not data
  kCount,
};

struct Mutation {
  uint8_t kind;   // RecordKind, and in the high bits the chance that its page is unreadable
  uint8_t index;  // which of these records
  uint8_t inner;  // which key of a kset
  uint8_t field;
  uint8_t how;
  uint8_t leave_crc;  // below 48: the crc stays as it was
  uint16_t value;
};
static_assert(sizeof(Mutation) == 8);

class Mutator {
 public:
  Mutator(const BaseImage& base, MemoryPmem& image) : base_(base), image_(image) {}

  void apply(const Mutation& mutation);
  // Call it last, as such pages cannot be mutated: those that raise SIGBUS from now on.
  bool make_unreadable();

 private:
  struct Record {
    MediaOff at;
    uint32_t bytes = 0;
    std::optional<MediaOff> kset;  // whose crc covers it; nothing: its own crc does
    bool has_crc = true;
  };
  Record find(RecordKind kind, unsigned index, unsigned inner) const;
  MediaOff kset_off(unsigned index) const;
  bool fits(MediaOff at, uint64_t len) const { return at.v <= size() - len; }
  uint64_t size() const { return image_.size_bytes(); }
  void set_field(const Record& record, const Record& other, const Mutation& mutation);
  void copy_record(const Record& to, const Record& from, RecordKind kind);
  void fix_crc(const Record& record);
  void fix_kset(MediaOff at);
  uint32_t room_behind(MediaOff at) const;

  const BaseImage& base_;
  MemoryPmem& image_;
  std::set<uint64_t> unreadable_;
};

}  // namespace pcache
