// SPDX-License-Identifier: GPL-2.0-or-later
// A record kept in two replicas.
//
// Invariants
// - The newest valid replica wins, newest by signed 8-bit difference of `seq`.
// - write() always goes to the replica that is NOT the newest valid one, also the first write after
//   a load, so that a torn write leaves the newest one (hazard newest-replica-overwritten).
// - The place of a replica is base + index * stride; the index is remembered, never computed from
//   addresses (hazard replica-index-by-struct-size).
// - version and res are written as zero and not required to be.
// One thread at a time; owners bring their own lock.
#pragma once

#include <cstring>
#include <optional>

#include "base/mutants.h"
#include "format/codec.h"
#include "pmem/pmem.h"

namespace pcache {

enum class ReplicaState : uint8_t { kValid, kInvalid, kUnreadable };

struct ReplicaPlace {
  MediaOff base;
  uint64_t stride = 0;
  int first_slot = 1;  // where the very first record of a fresh format goes (the kernel's choice)
};

template <typename Record>
class Replicated {
 public:
  Replicated() = default;
  explicit Replicated(const ReplicaPlace& place) : place_(place), newest_(1 - place.first_slot) {}

  // Reads both; nothing if neither is valid (state() says why).
  std::optional<Record> load(const Pmem& pmem) {
    PCACHE_CHECK(place_.stride >= sizeof(Record));
    Record record[2];
    for (int i = 0; i < 2; i++) {
      if (!pmem.load(&record[i], slot(i), sizeof(Record)))
        state_[i] = ReplicaState::kUnreadable;
      else
        state_[i] = record[i].header.crc == record_crc(record[i]) ? ReplicaState::kValid
                                                                  : ReplicaState::kInvalid;
    }
    const bool valid[2] = {state_[0] == ReplicaState::kValid, state_[1] == ReplicaState::kValid};
    if (!valid[0] && !valid[1]) return std::nullopt;
    if (valid[0] && valid[1])
      newest_ = static_cast<int8_t>(record[1].header.seq - record[0].header.seq) > 0 ? 1 : 0;
    else
      newest_ = valid[1] ? 1 : 0;
    seq_ = record[newest_].header.seq;
    const int newest = newest_;
    if (hazard(Hazard::kNewestReplicaOverwritten)) newest_ = 1 - newest;
    return record[newest];
  }

  // Stores the record over the older replica. Durable after the caller's next fence. Until then the
  // newest one counts, so two writes need a fence between them. False: the older one's page is bad.
  // Then the record can never change again: a torn store over the newest one would leave none.
  [[nodiscard]] bool write(Pmem& pmem, Record record, const CodeSite& site = CodeSite::current()) {
    // One that was made without a place would write over the identity block.
    PCACHE_CHECK(place_.stride >= sizeof(Record));
    const int older = 1 - newest_;
    record.header = {};
    if (hazard(Hazard::kHeaderBytesLeft)) record.header.res = 0xa5a5;
    record.header.seq = static_cast<uint8_t>(seq_ + 1);
    record.header.crc = record_crc(record);
    MediaOff at = slot(older);
    if (hazard(Hazard::kReplicaIndexByStructSize)) at = place_.base + older * sizeof(Record);
    if (!pmem.store(at, &record, sizeof record, site)) {
      state_[older] = ReplicaState::kUnreadable;
      return false;
    }
    newest_ = older;
    seq_++;
    state_[newest_] = ReplicaState::kValid;
    return true;
  }

  // After load(): whether the other replica was written once, and is not valid. It may have been
  // the newer one.
  bool has_torn(const Pmem& pmem) const {
    for (int i = 0; i < 2; i++) {
      if (state_[i] == ReplicaState::kValid) continue;
      static constexpr Record kZeros{};
      Record raw;
      if (!pmem.load(&raw, slot(i), sizeof raw) || memcmp(&raw, &kZeros, sizeof raw) != 0)
        return true;
    }
    return false;
  }

  ReplicaState state(int index) const { return state_[index]; }
  int newest() const { return newest_; }
  uint8_t seq() const { return seq_; }
  MediaOff slot(int index) const {
    PCACHE_DCHECK(index == 0 || index == 1);
    return place_.base + static_cast<uint64_t>(index) * place_.stride;
  }

 private:
  ReplicaPlace place_;
  int newest_ = 0;
  uint8_t seq_ = 0;
  ReplicaState state_[2] = {ReplicaState::kInvalid, ReplicaState::kInvalid};
};

}  // namespace pcache
