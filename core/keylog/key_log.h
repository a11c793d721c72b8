// SPDX-License-Identifier: GPL-2.0-or-later
// KeyLog: the log of ksets on media, and its head.
//
// How a group of ksets becomes durable, with two fences whatever its size, also when it goes on in
// the next segment:
//   1. everything but the first header's crc, key_num and magic: bodies, later headers, LAST
//      ksets, and zeros over the header behind the last one              - fence -
//   2. those two words, which stood cleared until now and so ended the log  - fence -
// Until (2) replay stops at the cleared header; from (2) on it finds the whole group and then the
// cleared header behind it. A kset from a segment's earlier life is never reached: hazard
// stale-kset.
//
// Invariants
// - From clear_head() on the header at head() is cleared and durable whenever no append is under
//   way.
// - Ksets reach the media in the order of seal(), which is called under the lock of the stripe that
//   filled them, so the log keeps the order of the keys of one range.
// - The data that a sealed kset's keys name is durable with fence 1 at the latest: who adds a key
//   has fenced its data, or is named by the kset as the thread that has not
//   (KsetBuffer::unfenced_by). Then fence 1 is that thread's own, or one in all threads.
// - commit(t) returns when everything sealed up to ticket t is durable. One thread writes for all
//   that wait (group commit).
// - A bad page: the log goes on in another segment, from a LAST kset in front of it. For that the
//   header at head(), and what is behind it when a kset is appended, are on pages that were good
//   when it was; and a new segment is one that could be read as a whole. A page that goes bad under
//   the head itself, or the last segment's, ends the log: nothing more becomes durable, see
//   failed().
// - Epochs: what is written back before a barrier of the user's (FLUSH, FUA, PREFLUSH) and after it
//   must not be mixed on the backing device. An epoch is a run of ksets in the log; positions in it
//   are counted in ksets appended, which unlike media positions only grow. What the log held at
//   attach has no recorded epochs: there each kset ends one.
// Locks (BiasedMutex: a thread that flushes for itself waits for its stores in the fences alone,
// and not in each lock before them): stripe -> queue_mu_; writer_mu_ -> queue_mu_. No stripe lock
// is taken with either held.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "base/biased_mutex.h"
#include "keylog/kset_buffer.h"
#include "pmem/pmem.h"
#include "segment/segment_table.h"

namespace pcache {

// A place in the log, with how much there is between dirty_tail at attach and it.
struct LogMark {
  CachePos pos;
  uint64_t ksets = 0;
  uint64_t dirty_bytes = 0;  // of keys that are not CLEAN, as appended
};

class KeyLog {
 public:
  using Ticket = uint64_t;
  static constexpr uint32_t kReserveBuffers = 8;

  enum class Use { kAppend, kReadOnly };
  // `head`: where replay ended, and what it found behind dirty_tail. Stores nothing. kReadOnly:
  // nothing will be sealed.
  KeyLog(Pmem& pmem, SegmentTable& segments, const LogMark& head, Use use = Use::kAppend);
  // Before the first append: a torn header may stand at the head. While one thread has the log.
  // Where that cannot be done the log has failed().
  void clear_head();

  KeyLog(const KeyLog&) = delete;
  KeyLog& operator=(const KeyLog&) = delete;
  ~KeyLog();

  // An empty buffer for an open kset; nullptr: no memory. There are kReserveBuffers from the
  // start: who finds none has them back when he closes what is open and commits it.
  KsetBuffer* get_buffer() EXCLUDES(queue_mu_);
  // Takes back one that was not used.
  void put_back(KsetBuffer* kset) EXCLUDES(queue_mu_);
  // Hands a non-empty kset over; the caller holds the lock of its stripe.
  Ticket seal(KsetBuffer* kset) EXCLUDES(queue_mu_);
  // ENOSPC: no segment is free for the log; what is sealed stays queued for the next try. EIO: the
  // log has failed() before it was in it.
  Status commit(Ticket ticket) EXCLUDES(writer_mu_, queue_mu_);

  // What is committed now and what comes later are different epochs. Cannot fail: where there is no
  // memory to record the end of an epoch, each kset up to here counts as one, which only takes more
  // flushes of the device.
  void end_epoch() EXCLUDES(writer_mu_);
  // The end of the epoch that goes on behind the first `passed` ksets, in ksets; UINT64_MAX when it
  // is the last. Forgets what ends before.
  uint64_t epoch_end_after(uint64_t passed) EXCLUDES(writer_mu_);

  // Its media is bad: what is not committed now never will be. Any thread.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Called once, when that happens, with the error; short, and under the log's locks. Set while one
  // thread has the log.
  void set_on_failed(std::function<void(const Error&)> on_failed) {
    on_failed_ = std::move(on_failed);
  }

  // Whether something sealed is not in the log yet, since the log was full.
  bool has_uncommitted() const EXCLUDES(writer_mu_);

  Ticket last_sealed() const { return sealed_.load(std::memory_order_acquire); }
  CachePos head() const { return mark().pos; }
  LogMark mark() const EXCLUDES(writer_mu_);  // of the head

  struct Counters {
    uint64_t ksets = 0, groups = 0, keys = 0, rolls = 0;
  };
  Counters counters() const EXCLUDES(writer_mu_);

 private:
  void make_reserve() EXCLUDES(queue_mu_);
  KsetBuffer* make_buffer() REQUIRES(queue_mu_);
  void free_made() REQUIRES(queue_mu_);
  // What one group leaves to do after the first fence.
  struct Group {
    CachePos end;                  // the new head
    bool first_pending = false;    // the first header waits for the fence
    bool others_unfenced = false;  // data of other threads than this one
    media::KsetHeader first_header;
    Counters done;
    uint64_t dirty_bytes = 0;
  };
  bool append_one(Group& group, KsetBuffer& kset) REQUIRES(writer_mu_);
  // At the group's end. False: there is no room for it, or its pages or those behind it are bad.
  bool place(Group& group, const KsetBuffer& kset) REQUIRES(writer_mu_);
  // On to another segment.
  bool roll(Group& group) REQUIRES(writer_mu_);
  // `header` has its keys behind it in memory, `keys_bytes` of them. False: a page is bad.
  [[nodiscard]] bool put(Group& group, const media::KsetHeader& header, size_t keys_bytes)
      REQUIRES(writer_mu_);
  bool can_end_at(CachePos pos, uint32_t kset_bytes) const;
  void fail(CachePos at) REQUIRES(writer_mu_);
  Error failure() const REQUIRES(writer_mu_);
  // Appends from the front of `list`; returns the first that found no room.
  KsetBuffer* append_group(KsetBuffer* list) REQUIRES(writer_mu_);

  Pmem& pmem_;
  SegmentTable& segments_;

  mutable BiasedMutex writer_mu_{LockRank::kPath};
  LogMark head_ GUARDED_BY(writer_mu_);
  const uint64_t ksets_at_attach_;
  std::deque<uint64_t> epoch_ends_ GUARDED_BY(writer_mu_);  // ascending, in ksets
  // Ends that found no memory: each count of ksets from the first to the last is one.
  uint64_t unrecorded_first_ GUARDED_BY(writer_mu_) = 0, unrecorded_last_
                                                         GUARDED_BY(writer_mu_) = 0;
  KsetBuffer* left_over_ GUARDED_BY(writer_mu_) = nullptr;  // taken from the queue, no room yet
  KsetBuffer* left_over_tail_ GUARDED_BY(writer_mu_) = nullptr;
  Ticket committed_ GUARDED_BY(writer_mu_) = 0;
  Counters counters_ GUARDED_BY(writer_mu_);
  std::atomic<bool> failed_{false};
  CachePos failed_at_ GUARDED_BY(writer_mu_);
  std::function<void(const Error&)> on_failed_;

  BiasedMutex queue_mu_ ACQUIRED_AFTER(writer_mu_){LockRank::kLogQueue};
  KsetBuffer* queue_head_ GUARDED_BY(queue_mu_) = nullptr;
  KsetBuffer* queue_tail_ GUARDED_BY(queue_mu_) = nullptr;
  KsetBuffer* free_ GUARDED_BY(queue_mu_) = nullptr;
  KsetBuffer* made_ GUARDED_BY(queue_mu_) = nullptr;  // all of them
  std::atomic<Ticket> sealed_{0};                     // written under queue_mu_
};

}  // namespace pcache
