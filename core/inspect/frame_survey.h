// SPDX-License-Identifier: GPL-2.0-or-later
// The frame of an image, as far as it can be read: superblock, cache_info, tails, segments,
// identity.
//
// Where attach refuses, this reports a finding and goes on with what is most likely meant, so that
// one check reports all that is wrong, and data can be rescued. Reads only. One thread.
#pragma once

#include <optional>

#include "inspect/finding.h"
#include "segment/format_device.h"

namespace pcache {

struct ReplicaView {
  MediaOff at;
  ReplicaState state = ReplicaState::kInvalid;
  bool blank = false;  // all zeros: never written
  uint8_t seq = 0;
};

struct RecordView {
  ReplicaView replica[2];
  int newest = -1;  // the valid replica that counts; -1: none is
  bool differ = true;
};

struct SegmentView {
  uint32_t physical = 0;
  RecordView info, generation;
  media::SegmentInfo info_record{};
  uint64_t gen = 0;  // from the record
};

struct TailView {
  RecordView record;
  std::optional<CachePos> pos;  // nothing: not known
};

struct FrameSurvey {
  uint64_t device_bytes = 0;   // of the cache device
  bool blank = false;          // not formatted: nothing below is set
  bool other_version = false;  // of the format: nothing below is set
  std::string unused;          // see unused_text()
  media::Superblock superblock{};
  std::optional<Error> superblock_error;
  RecordView info_record;
  bool info_known = false;  // false: `frame.info` is a guess
  DeviceFrame frame;        // its chain is the longest that makes sense
  TailView key_tail, dirty_tail;
  std::vector<SegmentView> segments;    // by SegId
  std::vector<uint32_t> guessed_links;  // physical segments, see next_segment()
  std::optional<media::Identity> identity;
};

// `ignore_identity`: a damaged identity block is a finding, but does not prevent an attach.
FrameSurvey survey_frame(const Pmem& pmem, bool ignore_identity, Findings* findings);

std::string position_text(CachePos pos);  // "3:4096"

}  // namespace pcache
