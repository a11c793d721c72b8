// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/trace.h"

#include <atomic>

namespace pcache {

namespace {

uint32_t this_thread() {
  static std::atomic<uint32_t> threads{0};
  thread_local const uint32_t number = threads++;
  return number;
}

}  // namespace

void Trace::add(const MemoryDevice::Change& change) {
  using Kind = TraceEvent::Kind;
  Kind kind;
  if (change.op != BlockOp::kFlush)
    kind = change.completed ? Kind::kDeviceWriteDone : Kind::kDeviceWrite;
  else if (!change.completed)
    kind = Kind::kDeviceFlushBegun;
  else
    kind = change.error ? Kind::kDeviceFlushFailed : Kind::kDeviceFlush;
  add(kind, change.off, change.bytes.data(), change.bytes.size(), change.id);
}

void Trace::add(TraceEvent::Kind kind, uint64_t off, const void* bytes, size_t len, uint64_t id,
                uint32_t process) {
  std::lock_guard lock(mu_);
  events_.push_back(
      {kind, this_thread(), process, off, static_cast<uint32_t>(len), bytes_.size(), id});
  auto* from = static_cast<const std::byte*>(bytes);
  if (from) bytes_.insert(bytes_.end(), from, from + len);
}

void Trace::clear() {
  std::lock_guard lock(mu_);
  events_.clear();
  bytes_.clear();
}

}  // namespace pcache
