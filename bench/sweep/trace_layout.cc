// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/trace_layout.h"

#include <algorithm>

#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

constexpr uint64_t kPageBytes = 4096;             // a block of a trace of bytes
constexpr uint64_t kMostRequestBytes = 64 << 20;  // fio has a buffer of it
constexpr uint64_t kMostBytes = uint64_t{16} << 40;

}  // namespace

TraceLayout::TraceLayout(std::shared_ptr<const Trace> trace, uint64_t block_bytes)
    : trace_(std::move(trace)),
      as_it_is_(block_bytes == 0),
      block_bytes_(as_it_is_ ? kPageBytes : block_bytes),
      unit_(trace_->of_blocks ? 1 : kPageBytes) {
  if (as_it_is_ && trace_->of_blocks)
    throw Wrong(trace_->file +
                ": is a sequence of blocks; block_bytes must say how many bytes one is");
  find_runs();
  if (blocks_ > kMostBytes / block_bytes_)
    throw Wrong(trace_->file + ": touches " + std::to_string(blocks_) + " blocks of " +
                size_of(block_bytes_) +
                ", expected no more than 16t; give less block_bytes or requests");
  for (const Access& access : trace_->accesses) {
    const uint64_t len = bytes_of(access).len;
    requested_bytes_ += len;
    if (len > kMostRequestBytes)
      throw Wrong(trace_->file + ": a request of " + std::to_string(access.len) +
                  " bytes becomes one of " + size_of(len) +
                  ", expected 64m or less; give less block_bytes");
  }
}

void TraceLayout::find_runs() {
  for (const Access& access : trace_->accesses)
    if (access.len > 0)
      runs_.push_back({access.off / unit_, (access.off + access.len - 1) / unit_ + 1, 0});
  std::ranges::sort(runs_, {}, &Run::first);
  size_t n = 0;
  for (const Run& run : runs_) {
    if (n > 0 && run.first <= runs_[n - 1].end)
      runs_[n - 1].end = std::max(runs_[n - 1].end, run.end);
    else
      runs_[n++] = run;
  }
  runs_.resize(n);
  for (Run& run : runs_) {
    run.packed = blocks_;
    blocks_ += run.end - run.first;
  }
}

uint64_t TraceLayout::packed(uint64_t block) const {
  const auto behind = std::ranges::upper_bound(runs_, block, {}, &Run::first);
  const Run& run = *std::prev(behind);
  return run.packed + (block - run.first);
}

TraceLayout::Range TraceLayout::blocks_of(const Access& access) const {
  if (access.len == 0) return {};
  const uint64_t first = access.off / unit_, last = (access.off + access.len - 1) / unit_;
  return {packed(first), last - first + 1};
}

TraceLayout::Range TraceLayout::bytes_of(const Access& access) const {
  const Range blocks = blocks_of(access);
  const uint64_t begin = blocks.off * block_bytes_;
  if (as_it_is_) return {begin + access.off % kPageBytes, access.len};
  return {begin, blocks.len * block_bytes_};
}

std::string TraceLayout::iolog() const {
  const std::string name = kDevice;
  std::string log = "fio version 2 iolog\n" + name + " add\n" + name + " open\n";
  for (const Access& access : trace_->accesses) {
    const Range range = bytes_of(access);
    log += name;
    log += access.op == Access::Op::kRead    ? " read "
           : access.op == Access::Op::kWrite ? " write "
                                             : " sync ";
    log += std::to_string(range.off) + " " + std::to_string(range.len) + "\n";
  }
  return log + name + " close\n";
}

}  // namespace pcache::sweep
