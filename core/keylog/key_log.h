// SPDX-License-Identifier: GPL-2.0-or-later
// KeyLog: the log of ksets on media, and its head.
//
// How a group of ksets becomes durable, with two fences for any size, even over the end of a
// segment:
//   1. everything but the first header's crc, key_num and magic: bodies, later headers, LAST
//      ksets, and zeros over the header behind the last one              - fence -
//   2. those two words, which were zero until now and so ended the log    - fence -
// Until (2) replay stops at the cleared header; from (2) on it finds the whole group and then the
// cleared header behind it. A kset from a segment's earlier life is never reached: hazard
// stale-kset.
//
// Invariants
// - From clear_head() on the header at head() is cleared and durable, but while an append is under
//   way.
// - Keys reach the media in the order of seal(), which is called under the lock of the stripe that
//   filled their kset, so the log keeps the order of the keys of one range.
// - A commit puts the keys of neighbours into one kset, if they fit and their data is 1 MiB at
//   most. A FLUSH seals a kset of each stripe that was written to, often of one key; but each kset
//   in the log has a header and a crc, and writeback, reclaim and replay go by ksets.
// - The data that a sealed kset's keys name is durable with fence 1 at the latest: a thread that
//   adds a key has fenced its data, or the kset names that thread (KsetBuffer::unfenced_by). Then
//   fence 1 is made by that thread, or in all threads.
// - commit(t) succeeds when all that was sealed up to ticket t is durable. One thread writes for
//   all that wait (group commit).
// - At a bad page a LAST kset leads the log on to another segment. So a kset is appended only if
//   the header behind it can be read, and the log takes only segments that can be read as a whole.
//   If the page under the head goes bad later, or no good segment is left, the log ends: nothing
//   more becomes durable, see failed().
// - Epochs: writeback must not mix ksets from before and behind a barrier of the user (FLUSH, FUA,
//   PREFLUSH). An epoch is a run of ksets in the log; each kset but its first says that it goes on
//   (kKsetSameEpoch), for every reader of the log. The first of an attach begins one, and so does
//   each that the kernel target has appended.
// Locks: stripe -> free_mu_, queue_mu_; writer_mu_ -> free_mu_, queue_mu_. No stripe
// lock is taken with one of them held. Two are biased, since a thread that writes, or flushes its
// own writes, shall wait for its stores only in the fences: background work borrows them to commit.
// The lock of the queue is not: whoever seals a kset commits next, with a fence. What background
// work asks many times it reads without borrowing, which interrupts the thread that writes: mark()
// and last_epoch_from().
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/biased_mutex.h"
#include "base/seqlock.h"
#include "keylog/kset_buffer.h"
#include "pmem/pmem.h"
#include "segment/segment_table.h"

namespace pcache {

// A place in the log, and how much there is from the dirty_tail of the attach to it.
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
  // Clears a torn header at the head, before the first append, while no other thread uses the log.
  // If it cannot, the log has failed().
  void clear_head();

  KeyLog(const KeyLog&) = delete;
  KeyLog& operator=(const KeyLog&) = delete;
  ~KeyLog();

  // An empty buffer for an open kset; nullptr: no memory. kReserveBuffers exist from the start: a
  // caller without memory gets them back when it seals the open ksets and commits them.
  KsetBuffer* get_buffer() EXCLUDES(free_mu_);
  // Takes back a buffer that was not used.
  void put_back(KsetBuffer* kset) EXCLUDES(free_mu_);
  // Takes over a kset that is not empty; the caller holds the lock of its stripe.
  Ticket seal(KsetBuffer* kset) EXCLUDES(queue_mu_);
  // ENOSPC: no segment is free for the log; sealed ksets stay queued for the next try. EIO: the log
  // has failed() before the kset was in it.
  Status commit(Ticket ticket) EXCLUDES(writer_mu_, free_mu_, queue_mu_);
  // The same for background work, which borrows the locks.
  Status commit_borrowing(Ticket ticket) EXCLUDES(writer_mu_, free_mu_, queue_mu_);

  // Ends the epoch: what is committed now and what comes later are in different ones.
  void end_epoch() EXCLUDES(writer_mu_);
  // Where the last epoch begins, counted in ksets, as these numbers only grow: all that comes
  // behind is of one epoch. Who commits and then asks sees each end that does not come behind what
  // was committed. Any thread.
  uint64_t last_epoch_from() const { return last_epoch_from_.load(std::memory_order_acquire); }

  // The kset that is appended next says so (kKsetPasses). The caller has committed the later keys
  // that have the data of the ksets that are not needed. False: the ksets from the `from`-th on, of
  // which data is passed so, are not all of the last epoch.
  bool state_passable(const PassStatement& statement, uint64_t from) EXCLUDES(writer_mu_);
  // No kset was appended since. Any thread.
  bool has_unstated() const { return has_unstated_.load(std::memory_order_acquire); }

  // Its media is bad: what is not committed now never will be. Any thread.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Called once, with the error, when the log fails. It must be short: the log's locks are held.
  // Set while no other thread uses the log.
  void set_on_failed(std::function<void(const Error&)> on_failed) {
    on_failed_ = std::move(on_failed);
  }

  // Whether a sealed kset is not in the log yet: its commit is under way, or the log was full. Once
  // it is not, mark() is behind the kset.
  bool has_uncommitted() const {
    return committed_.load(std::memory_order_acquire) < last_sealed();
  }

  Ticket last_sealed() const { return sealed_.load(std::memory_order_acquire); }
  CachePos head() const { return mark().pos; }
  LogMark mark() const EXCLUDES(writer_mu_);  // of the head; any thread

  struct Counters {
    uint64_t ksets = 0, groups = 0, keys = 0, rolls = 0;
  };
  Counters counters() const EXCLUDES(writer_mu_);

 private:
  template <typename Lock>
  Status commit_by(Ticket ticket) EXCLUDES(writer_mu_, free_mu_, queue_mu_);
  void make_reserve() EXCLUDES(free_mu_);
  KsetBuffer* make_buffer() REQUIRES(free_mu_);
  void free_made() REQUIRES(free_mu_);
  // What is left to do for a group after the first fence.
  struct Group {
    CachePos end;                  // the new head
    bool first_pending = false;    // the first header waits for the fence
    bool others_unfenced = false;  // data of other threads than this one
    media::KsetHeader first_header;
    Counters done;
    uint64_t dirty_bytes = 0;
  };
  // Takes the keys of those behind it, as long as there is room for them where it will stand.
  static void take_keys_behind(KsetBuffer& kset, CachePos at, uint64_t flags);
  // Of the kset that is appended next.
  uint64_t flags_for(const Group& group) const REQUIRES(writer_mu_);
  bool append_one(Group& group, KsetBuffer& kset) REQUIRES(writer_mu_);
  // At the group's end. False: there is no room, or a page of it or of the header behind is bad.
  bool place(Group& group, const KsetBuffer& kset) REQUIRES(writer_mu_);
  // Goes on in another segment.
  bool roll(Group& group) REQUIRES(writer_mu_);
  // The keys follow `header` in memory, with `keys_bytes`. False: a page is bad.
  [[nodiscard]] bool put(Group& group, const media::KsetHeader& header, size_t keys_bytes)
      REQUIRES(writer_mu_);
  bool can_end_at(CachePos pos, uint32_t kset_bytes) const;
  void fail(CachePos at) REQUIRES(writer_mu_);
  Error failure() const REQUIRES(writer_mu_);
  // Appends from the front of `list`; returns the first kset that found no room.
  KsetBuffer* append_group(KsetBuffer* list) REQUIRES(writer_mu_);

  Pmem& pmem_;
  SegmentTable& segments_;

  mutable BiasedMutex writer_mu_{LockRank::kPath};
  LogMark head_ GUARDED_BY(writer_mu_);
  Seqlock<LogMark> shown_head_;                             // the same; stored under writer_mu_
  KsetBuffer* left_over_ GUARDED_BY(writer_mu_) = nullptr;  // taken from the queue, no room yet
  KsetBuffer* left_over_tail_ GUARDED_BY(writer_mu_) = nullptr;
  std::atomic<Ticket> committed_{0};  // written under writer_mu_
  Counters counters_ GUARDED_BY(writer_mu_);
  std::atomic<bool> failed_{false};
  CachePos failed_at_ GUARDED_BY(writer_mu_);
  std::function<void(const Error&)> on_failed_;

  std::atomic<uint64_t> last_epoch_from_;  // in ksets; written under writer_mu_
  std::optional<PassStatement> unstated_ GUARDED_BY(writer_mu_);
  std::atomic<bool> has_unstated_{false};  // written under writer_mu_

  BiasedMutex free_mu_ ACQUIRED_AFTER(writer_mu_){LockRank::kLogQueue};
  KsetBuffer* free_ GUARDED_BY(free_mu_) = nullptr;
  KsetBuffer* made_ GUARDED_BY(free_mu_) = nullptr;  // all of them

  Mutex queue_mu_ ACQUIRED_AFTER(writer_mu_){LockRank::kLogQueue};
  KsetBuffer* queue_head_ GUARDED_BY(queue_mu_) = nullptr;
  KsetBuffer* queue_tail_ GUARDED_BY(queue_mu_) = nullptr;
  std::atomic<Ticket> sealed_{0};  // written under queue_mu_
};

}  // namespace pcache
