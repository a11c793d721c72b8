// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/space_watch.h"

#include <algorithm>

#include "base/check.h"

namespace pcache {

namespace {

unsigned long long mib(uint64_t bytes) { return bytes >> 20; }

}  // namespace

void SpaceWatch::look(const Sample& sample) {
  PCACHE_DCHECK(sample.waits >= last_.waits && sample.written_bytes >= last_.written_bytes);
  const bool waits = sample.waiting > 0 || sample.waits > last_.waits;
  if (waits && busy_ == 0 && !said_) {
    before_ = last_;
    looks_ = 0;
  }
  busy_ = waits ? busy_ + 1 : 0;
  quiet_ = waits ? 0 : quiet_ + 1;
  looks_++;
  since_said_++;
  const bool awaited = sample.awaited > 0;
  const bool stands = (waits || awaited) && !sample.failing &&
                      sample.written_bytes == last_.written_bytes &&
                      sample.passed_bytes == last_.passed_bytes;
  stalled_ = stands ? stalled_ + 1 : 0;
  if (!said_ && busy_ >= kBegin && since_said_ > kBetween) say_begin(sample);
  if ((said_ || awaited) && stalled_ == kHung) {
    messages_.print(LogLevel::kNotice,
                    "requests wait for %s, and the backing device %s has taken nothing for %u s",
                    said_ ? "space" : "it", device_.c_str(), stalled_);
  }
  if (said_ && quiet_ == kEnd) say_end(sample);
  last_ = sample;
}

void SpaceWatch::close(const Sample& sample) {
  if (said_) say_end(sample);
}

void SpaceWatch::say_begin(const Sample& sample) {
  said_ = true;
  since_said_ = 0;
  std::string why = "fails: " + sample.error;
  if (!sample.failing) {
    const uint64_t written = sample.written_bytes - before_.written_bytes;
    why = "takes " + std::to_string(mib(written / std::max(looks_, 1u))) + " MiB/s";
  }
  messages_.print(LogLevel::kNotice,
                  "the cache is full: requests wait for space, that is for writeback: %llu MiB are "
                  "dirty, %u of %u segments free; the backing device %s %s",
                  mib(sample.dirty_bytes), sample.free_segments, sample.segments, device_.c_str(),
                  why.c_str());
}

void SpaceWatch::say_end(const Sample& sample) {
  PCACHE_DCHECK(quiet_ <= looks_ && sample.waits >= before_.waits);
  said_ = false;
  messages_.print(LogLevel::kNotice,
                  "requests no longer wait for space: %llu did, in %u s; %llu MiB are dirty",
                  static_cast<unsigned long long>(sample.waits - before_.waits), looks_ - quiet_,
                  mib(sample.dirty_bytes));
}

}  // namespace pcache
