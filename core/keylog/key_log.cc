// SPDX-License-Identifier: GPL-2.0-or-later
#include "keylog/key_log.h"

#include <algorithm>
#include <new>

#include "base/mutants.h"

namespace pcache {

using media::KsetHeader;

namespace {

// The words that make a header valid: crc with key_num, and magic. They are zero until the second
// step. The first step writes the flags behind them, so a torn header has a zero in one of the two.
constexpr size_t kCommitBytes = offsetof(KsetHeader, flags);

// How many keys a kset at that place may have. Behind every kset there is room for one more header:
// that of the next kset or a LAST kset.
uint32_t keys_that_fit(CachePos at) {
  const uint32_t room = media::kSegDataBytes - at.off;
  if (room < 2 * sizeof(KsetHeader)) return 0;
  return std::min<uint32_t>(media::kKeysPerKset,
                            (room - 2 * sizeof(KsetHeader)) / sizeof(media::Key));
}

// Of so much data at most a commit makes one kset of several: writeback and reclaim take whole
// ksets, in steps of a limited size.
constexpr uint64_t kMostMergedBytes = 1 << 20;

uint64_t data_bytes(const KsetBuffer& kset) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < kset.n; i++) bytes += kset.keys[i].len;
  return bytes;
}

}  // namespace

KeyLog::KeyLog(Pmem& pmem, SegmentTable& segments, const LogMark& head, Use use)
    : pmem_(pmem),
      segments_(segments),
      head_(head),
      shown_head_(head),
      last_epoch_from_(head.ksets) {
  PCACHE_CHECK(head.pos.seg.v < segments.size());
  if (use == Use::kAppend) make_reserve();
}

// Any header there is invalid, but step 1 of an append must not make it valid by the keys that it
// stores behind it.
void KeyLog::clear_head() {
  constexpr KsetHeader kCleared{};
  const CachePos at = head();
  PCACHE_CHECK(at.off <= media::kSegDataBytes - sizeof kCleared);
  if (!pmem_.store(segments_.media(at), &kCleared, sizeof kCleared)) {
    BiasedLock lock(writer_mu_);
    fail(at);
  }
  pmem_.fence();
}

void KeyLog::make_reserve() {
  BiasedLock lock(free_mu_);
  for (uint32_t i = 0; i < kReserveBuffers; i++) {
    KsetBuffer* const kset = make_buffer();
    if (!kset) {
      free_made();
      throw std::bad_alloc();
    }
    kset->next = free_;
    free_ = kset;
  }
}

void KeyLog::free_made() {
  while (KsetBuffer* const kset = made_) {
    made_ = kset->next_made;
    delete kset;
  }
}

KeyLog::~KeyLog() {
  BiasedLock lock(free_mu_);
  free_made();
}

KsetBuffer* KeyLog::make_buffer() {
  auto* const kset = new (std::nothrow) KsetBuffer;
  if (!kset) return nullptr;
  kset->next_made = made_;
  made_ = kset;
  return kset;
}

void KeyLog::put_back(KsetBuffer* kset) {
  PCACHE_DCHECK(kset->next == nullptr && kset->n == 0);
  BiasedLock lock(free_mu_);
  kset->next = free_;
  free_ = kset;
}

KsetBuffer* KeyLog::get_buffer() {
  BiasedLock lock(free_mu_);
  if (!free_) return make_buffer();
  KsetBuffer* kset = free_;
  free_ = kset->next;
  kset->next = nullptr;
  kset->n = 0;
  kset->unfenced_by = KsetBuffer::kNobody;
  return kset;
}

KeyLog::Ticket KeyLog::seal(KsetBuffer* kset) {
  PCACHE_DCHECK(kset->n > 0 && kset->n <= media::kKeysPerKset);
  PCACHE_DCHECK(kset->next == nullptr);
  // A full one gets its header here, where no other thread waits for it; others may get more keys.
  kset->header.key_num = 0;
  if (kset->n == media::kKeysPerKset)
    seal_kset(&kset->header, {kset->keys, kset->n}, media::kKsetSameEpoch);
  MutexLock lock(queue_mu_);
  (queue_tail_ ? queue_tail_->next : queue_head_) = kset;
  queue_tail_ = kset;
  const Ticket ticket = sealed_.load(std::memory_order_relaxed) + 1;
  sealed_.store(ticket, std::memory_order_release);
  return ticket;
}

Status KeyLog::commit(Ticket ticket) { return commit_by<BiasedLock>(ticket); }

Status KeyLog::commit_borrowing(Ticket ticket) { return commit_by<BorrowedLock>(ticket); }

template <typename Lock>
Status KeyLog::commit_by(Ticket ticket) {
  PCACHE_DCHECK(ticket <= last_sealed());
  Lock writer(writer_mu_);
  Ticket committed = committed_.load(std::memory_order_relaxed);
  if (committed >= ticket) return {};
  if (failed()) return failure();
  KsetBuffer* list;
  {
    MutexLock lock(queue_mu_);
    list = queue_head_;
    if (left_over_) {
      left_over_tail_->next = list;
      if (queue_tail_) left_over_tail_ = queue_tail_;
      list = left_over_;
    } else {
      left_over_tail_ = queue_tail_;
    }
    queue_head_ = queue_tail_ = nullptr;
  }
  left_over_ = append_group(list);
  PCACHE_DCHECK(left_over_ == nullptr || left_over_tail_ != nullptr);
  {
    Lock lock(free_mu_);
    while (list != left_over_) {
      KsetBuffer* next = list->next;
      list->next = free_;
      free_ = list;
      list = next;
      committed++;
    }
  }
  committed_.store(committed, std::memory_order_release);
  PCACHE_CHECK(committed <= last_sealed());
  if (committed >= ticket) return {};
  if (!failed() && segments_.exhausted_for_log()) fail(head_.pos);
  if (failed()) return failure();
  return make_error(ENOSPC, "cache full: no free segment for the log");
}

void KeyLog::fail(CachePos at) {
  if (failed()) return;
  failed_at_ = at;
  failed_.store(true, std::memory_order_release);
  if (on_failed_) on_failed_(failure());
}

Error KeyLog::failure() const {
  return make_error(EIO,
                    "log at segment %u:%u: media error: the log cannot go on, nothing more becomes "
                    "durable",
                    failed_at_.seg.v, failed_at_.off);
}

KsetBuffer* KeyLog::append_group(KsetBuffer* list) {
  Group group;
  group.end = head_.pos;
  KsetBuffer* kset = list;
  for (; kset; kset = kset->next) {
    if (kset->n == 0) continue;  // one before it has its keys
    take_keys_behind(*kset, group.end, flags_for(group));
    if (!append_one(group, *kset)) break;
  }
  PCACHE_DCHECK(group.end != head_.pos || !group.first_pending);
  if (group.end == head_.pos) return kset;

  PCACHE_CHECK(group.first_pending);
  constexpr KsetHeader kCleared{};
  if (!pmem_.store(segments_.media(group.end), &kCleared, sizeof kCleared)) {
    fail(group.end);
    return list;
  }
  if (group.others_unfenced)
    pmem_.fence_threads();
  else if (!hazard(Hazard::kStaleKset))
    pmem_.fence();
  // A torn store of it ends the log, as the cleared header did.
  if (!pmem_.store(segments_.media(head_.pos), &group.first_header, kCommitBytes)) {
    fail(head_.pos);
    return list;
  }
  pmem_.fence();
  PCACHE_CHECK(group.done.ksets + group.done.rolls > 0);
  head_ = {group.end, head_.ksets + group.done.ksets, head_.dirty_bytes + group.dirty_bytes};
  shown_head_.store(head_);
  if (group.done.ksets > 0 && unstated_) {
    unstated_.reset();
    has_unstated_.store(false, std::memory_order_release);
  }
  counters_.ksets += group.done.ksets;
  counters_.keys += group.done.keys;
  counters_.rolls += group.done.rolls;
  counters_.groups++;
  return kset;
}

[[gnu::always_inline]] inline bool KeyLog::put(Group& group, const KsetHeader& header,
                                               size_t keys_bytes) {
  const MediaOff at = segments_.media(group.end);
  if (group.first_pending) return pmem_.store(at, &header, sizeof header + keys_bytes);
  if (!pmem_.store(at + kCommitBytes, reinterpret_cast<const char*>(&header) + kCommitBytes,
                   sizeof header - kCommitBytes + keys_bytes))
    return false;
  group.first_pending = true;
  group.first_header = header;
  return true;
}

uint64_t KeyLog::flags_for(const Group& group) const {
  const bool begins_epoch = head_.ksets + group.done.ksets == last_epoch_from();
  const uint64_t epoch =
      begins_epoch && !hazard(Hazard::kBarrierNotInLog) ? 0 : media::kKsetSameEpoch;
  return group.done.ksets == 0 && unstated_ ? epoch | pass_flags(*unstated_) : epoch;
}

void KeyLog::take_keys_behind(KsetBuffer& kset, CachePos at, uint64_t flags) {
  // If it does not fit there itself, it will stand at the start of a segment.
  const uint32_t here = keys_that_fit(at), most = kset.n <= here ? here : media::kKeysPerKset;
  uint64_t bytes = 0;
  for (KsetBuffer* later = kset.next; later && kset.n + later->n <= most; later = later->next) {
    if (later->n == 0) continue;
    if (bytes == 0) bytes = data_bytes(kset);
    bytes += data_bytes(*later);
    if (bytes > kMostMergedBytes) break;
    kset.take_keys_of(*later);
  }
  if (kset.header.key_num != kset.n || kset.header.flags != flags)
    seal_kset(&kset.header, {kset.keys, kset.n}, flags);
}

bool KeyLog::append_one(Group& group, KsetBuffer& kset) {
  while (!place(group, kset))
    if (!roll(group)) return false;
  group.done.ksets++;
  group.done.keys += kset.n;
  group.others_unfenced |=
      kset.unfenced_by != KsetBuffer::kNobody && kset.unfenced_by != this_thread_serial();
  PCACHE_DCHECK(kset.n == kset.header.key_num);
  for (uint32_t i = 0; i < kset.n; i++)
    if (!(kset.keys[i].flags & media::kKeyClean)) group.dirty_bytes += kset.keys[i].len;
  return true;
}

bool KeyLog::place(Group& group, const KsetBuffer& kset) {
  const uint32_t bytes = kset_bytes(kset.n);
  if (kset.n > keys_that_fit(group.end)) return false;
  if (!can_end_at(group.end, bytes)) {
    segments_.retire(group.end.seg);
    return false;
  }
  if (!put(group, kset.header, kset.n * sizeof(media::Key))) {
    segments_.retire(group.end.seg);
    pmem_.fence();  // orders what was stored before the LAST kset over it
    return false;
  }
  group.end = group.end + bytes;
  PCACHE_CHECK(media::kSegDataBytes - group.end.off >= sizeof(KsetHeader));
  return true;
}

// Whether the header behind a kset that is to be stored can be read. A bad page under the kset
// itself shows when it is stored.
bool KeyLog::can_end_at(CachePos pos, uint32_t kset_bytes) const {
  const MediaOff header = segments_.media(pos + kset_bytes);
  const uint64_t page = (header.v - 1) / kPageBytes;
  if ((header.v + sizeof(KsetHeader) - 1) / kPageBytes == page) [[likely]]
    return true;
  return pmem_.readable(header, sizeof(KsetHeader));
}

bool KeyLog::roll(Group& group) {
  const auto next = segments_.take_for_log();
  if (!next) return false;
  PCACHE_CHECK(*next != group.end.seg);
  PCACHE_CHECK(group.end.off <= media::kSegDataBytes - sizeof(KsetHeader));
  if (!put(group, make_last_kset(*next), 0)) {
    fail(group.end);
    segments_.release_log(*next);
    return false;
  }
  group.end = CachePos{*next, 0};
  group.done.rolls++;
  return true;
}

void KeyLog::end_epoch() {
  BiasedLock lock(writer_mu_);
  PCACHE_CHECK(head_.ksets >= last_epoch_from());
  last_epoch_from_.store(head_.ksets, std::memory_order_release);
}

bool KeyLog::state_passable(const PassStatement& statement, uint64_t from) {
  BorrowedLock lock(writer_mu_);
  if (from < last_epoch_from() && !hazard(Hazard::kSupersededAcrossABarrier)) return false;
  unstated_ = statement;
  has_unstated_.store(true, std::memory_order_release);
  return true;
}

LogMark KeyLog::mark() const {
  if (const auto shown = shown_head_.try_load()) return *shown;
  BorrowedLock lock(writer_mu_);
  return head_;
}

KeyLog::Counters KeyLog::counters() const {
  BorrowedLock lock(writer_mu_);
  return counters_;
}

}  // namespace pcache
