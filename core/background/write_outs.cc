// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/write_outs.h"

#include <algorithm>
#include <new>

namespace pcache {

using Piece = DirtyBatch::Piece;

unsigned WriteOuts::threads_for(PmemKind kind, const BlockDevice& backing) {
  if (kind == PmemKind::kSimulated || backing.link()) return 1;
  return std::min(kMost, Crew::cpus());
}

namespace {

// nullptr: there is no queue for it, or no memory.
std::unique_ptr<WriteOut> create_helper(const WriteOut::Media& media, WriteOut::Hooks hooks) {
  try {
    auto out = WriteOut::create(media, std::move(hooks));
    return out ? out.take() : nullptr;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace

Result<std::unique_ptr<WriteOuts>> WriteOuts::create(const WriteOut::Media& media,
                                                     WriteOut::Hooks hooks, unsigned threads) {
  PCACHE_CHECK(threads >= 1);
  std::unique_ptr<WriteOuts> outs(new WriteOuts(std::move(hooks), threads - 1));
  const size_t most = outs->crew_.size();
  outs->outs_.reserve(most);
  outs->done_.resize(most);
  auto first = WriteOut::create(media, most == 1 ? outs->hooks_ : outs->own_hooks());
  if (!first) return first.error();
  outs->outs_.push_back(first.take());
  while (outs->outs_.size() < most) {
    auto helper = create_helper(media, outs->helper_hooks());
    if (!helper) break;
    outs->outs_.push_back(std::move(helper));
  }
  return outs;
}

WriteOut::Hooks WriteOuts::own_hooks() {
  WriteOut::Hooks hooks = hooks_;
  hooks.before_wait = [this] { meanwhile(); };
  return hooks;
}

WriteOut::Hooks WriteOuts::helper_hooks() {
  return {
      .written = [this](uint64_t bytes) { written_.fetch_add(bytes, std::memory_order_relaxed); },
      .zeroed = [this](uint64_t bytes) { zeroed_.fetch_add(bytes, std::memory_order_relaxed); },
      // The caller does what none of the others has begun.
      .before_wait =
          [this] {
            if (std::this_thread::get_id() == caller_) meanwhile();
          }};
}

void WriteOuts::meanwhile() {
  pass_on();
  if (hooks_.before_wait) hooks_.before_wait();
}

void WriteOuts::pass_on() {
  const auto tell = [](std::atomic<uint64_t>* bytes, const std::function<void(uint64_t)>& hook) {
    if (bytes->load(std::memory_order_relaxed) == 0) return;
    const uint64_t n = bytes->exchange(0, std::memory_order_relaxed);
    if (hook) hook(n);
  };
  tell(&written_, hooks_.written);
  tell(&zeroed_, hooks_.zeroed);
}

bool WriteOuts::makes_holes() const {
  return std::all_of(outs_.begin(), outs_.end(),
                     [](const auto& out) { return out->makes_holes(); });
}

void WriteOuts::give_up(bool on) {
  for (const auto& out : outs_) out->give_up(on);
}

// How many of them have something to do.
size_t WriteOuts::useful(const DirtyBatch& batch, std::span<const Piece> pieces,
                         const Limits& limits) const {
  const size_t most = std::min<size_t>(outs_.size(), limits.depth / kLeastDepth);
  if (!limits.several || most <= 1) return 1;
  PieceDeal least(batch, pieces, kLeastBytes);
  if (const auto first = least.next(); first.end == pieces.size()) return 1;
  size_t parts = 0;
  PieceDeal deal(batch, pieces, kPartBytes);
  for (auto part = deal.next(); part.begin < part.end && parts < most; part = deal.next()) parts++;
  return parts;
}

WriteOut::Done WriteOuts::write(const DirtyBatch& batch, std::span<const Piece> pieces,
                                const Limits& limits) {
  const auto n = static_cast<unsigned>(useful(batch, pieces, limits));
  const WriteOut::Limits each{.depth = limits.depth / n,
                              .write_bytes = limits.write_bytes,
                              .zeroing = WriteOut::kMostZeroing / n};
  if (n == 1) return outs_[0]->write(batch, pieces, each);
  PieceDeal deal(batch, pieces, kPartBytes);
  for (WriteOut::Done& done : done_) done = {};
  // Who has no memory has done nothing, and leaves it to the others.
  const auto help = [&](size_t i) {
    try {
      outs_[i]->reserve(batch.keys().size());
    } catch (const std::bad_alloc&) {
      return;
    }
    done_[i] = outs_[i]->write(batch, deal, each);
  };
  caller_ = std::this_thread::get_id();
  crew_.begin(n - 1, [&help](size_t i) { help(i + 1); });
  try {
    done_[0] = outs_[0]->write(batch, deal, each);
    crew_.finish([this] { meanwhile(); }, kTold);
    pass_on();
  } catch (...) {
    crew_.finish();
    written_ = zeroed_ = 0;
    throw;
  }
  return merged(std::span(done_).first(n), deal);
}

WriteOut::Done WriteOuts::merged(std::span<const WriteOut::Done> parts, PieceDeal& deal) {
  const auto by_off = [](const Piece& a, const Piece& b) { return a.extent.off < b.extent.off; };
  WriteOut::Done all;
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  uint64_t first_failed = UINT64_MAX;
  for (const WriteOut::Done& part : parts) {
    all.bytes += part.bytes;
    all.ios += part.ios;
    all.zero_ios += part.zero_ios;
    all.hole_bytes += part.hole_bytes;
    all.zeroed_bytes += part.zeroed_bytes;
    all.failed_ios += part.failed_ios;
    all.untold |= part.untold;
    append(all.bad_keys, part.bad_keys);
    append(all.failed, part.failed);
    append(all.untried, part.untried);
    // Of what was tried, rather than of what was not.
    const uint64_t at = part.failed.empty() ? UINT64_MAX : part.failed.front().extent.off;
    if (part.error && (all.error == 0 || at < first_failed)) all.error = part.error;
    first_failed = std::min(first_failed, at);
  }
  if (all.untold && all.failed.empty()) all.error = ENOMEM;
  // What nobody has come to: all have stopped.
  for (auto part = deal.next(); part.begin < part.end; part = deal.next())
    append(all.untried, deal.pieces().subspan(part.begin, part.end - part.begin));
  std::sort(all.failed.begin(), all.failed.end(), by_off);
  std::sort(all.untried.begin(), all.untried.end(), by_off);
  // Two may have met pieces of one key.
  std::sort(all.bad_keys.begin(), all.bad_keys.end());
  all.bad_keys.erase(std::unique(all.bad_keys.begin(), all.bad_keys.end()), all.bad_keys.end());
  PCACHE_CHECK(all.error != 0 || (all.failed.empty() && all.untried.empty()));
  return all;
}

}  // namespace pcache
