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
  if (hooks.before_wait)
    hooks.before_wait = [this] {
      pass_on();
      hooks_.before_wait();
    };
  return hooks;
}

WriteOut::Hooks WriteOuts::helper_hooks() {
  return {
      .written = [this](uint64_t bytes) { written_.fetch_add(bytes, std::memory_order_relaxed); },
      .zeroed = [this](uint64_t bytes) { zeroed_.fetch_add(bytes, std::memory_order_relaxed); }};
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
  if (!limits.several || outs_.size() == 1) return 1;
  PieceDeal parts(batch, pieces, kLeastBytes / 2);
  (void)parts.next();
  const auto second = parts.next();
  if (second.begin == second.end) return 1;
  return std::min<size_t>(outs_.size(), limits.depth);
}

WriteOut::Done WriteOuts::write(const DirtyBatch& batch, std::span<const Piece> pieces,
                                const Limits& limits) {
  const size_t n = useful(batch, pieces, limits);
  if (n == 1)
    return outs_[0]->write(batch, pieces,
                           {.depth = limits.depth, .write_bytes = limits.write_bytes});
  const WriteOut::Limits each{.depth = limits.depth / static_cast<unsigned>(n),
                              .write_bytes = limits.write_bytes};
  PieceDeal deal(batch, pieces, kPartBytes);
  const auto write = [&](size_t i) { done_[i] = outs_[i]->write(batch, deal, each); };
  crew_.begin(n - 1, [&write](size_t i) { write(i + 1); });
  try {
    write(0);
  } catch (...) {
    crew_.finish();
    throw;
  }
  crew_.finish();
  pass_on();
  return merged(std::span(done_).first(n), deal);
}

WriteOut::Done WriteOuts::merged(std::span<WriteOut::Done> parts, PieceDeal& deal) {
  const auto by_off = [](const Piece& a, const Piece& b) { return a.extent.off < b.extent.off; };
  WriteOut::Done all;
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  uint64_t first_failed = UINT64_MAX;
  for (WriteOut::Done& part : parts) {
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
    part = {};
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
