// SPDX-License-Identifier: GPL-2.0-or-later
// Backend: the side of a cache that has the disk. It writes back what the log has, while a front,
// in another process, serves requests over the same pmem; or when no front is there any more.
//
// Who writes what:
//   front     data, key log, key_tail, generations of segments
//   backend   dirty_tail, the disk
// Each record has one writer; the other side reads it, and takes the newest valid replica. No lock
// is between them but that there is one of each (PmemSide). The memory must be coherent between the
// two: of one machine, or by CXL 3 with coherence in hardware. What is missing without that is in
// one place, Pmem::persist_seen() before a kset counts, and would be an invalidation there, and of
// the data before it is read.
//
// What a step does, and what a crash of either side after each line leaves:
//   1. ksets are read from dirty_tail on, up to the first that is not valid     nothing
//   2. they are made durable: the front may have stored, and not yet flushed    nothing
//   3. their data goes to the disk, which is flushed                            written again
//   4. dirty_tail is moved, durably                                             done
//
// Invariants
// - The front keeps what is behind dirty_tail: it frees no segment that a key there names. So what
//   is read does not change under the reader, but for the log's end.
// - What is at the log's end may be a kset that is just stored: what does not look valid is looked
//   at again later, and is damage only if it stays so.
// - Nothing from media is trusted, be it from a front of another version: each key is checked.
// - What no front has attached is checked as an attach does (recover.h): an image that role=both
//   refuses is not written back.
// - The backend has no index: it writes what a later batch supersedes, but for what the front says
//   is not needed (kKsetPasses). That stands in the log behind the keys that supersede, so who sees
//   it sees them. It counts if its position is between dirty_tail and its own kset, and dirty_tail
//   is not in front of the one for which it was said.
// - It has no log: data that is damaged cannot be appended again. dirty_tail goes up to its kset,
//   and stays there until later keys of the log have all of its range.
// One thread, but for stop().
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "background/write_outs.h"
#include "background/written.h"
#include "blockdev/block_device.h"
#include "keylog/tails.h"
#include "pmem/pmem.h"
#include "segment/format_device.h"
#include "segment/segment_table.h"

namespace pcache {

class Backend {
 public:
  struct Options {
    PmemOptions pmem;  // `side` is set here
    BlockDeviceOptions disk;
    // The disk alone is at any moment a state that the user's barriers allow: no batch goes past
    // one.
    bool strict = false;
    Log log;
  };
  // EBUSY: there is another backend, or the cache is attached by a process that does it all;
  // EINVAL: it is blank; EXDEV: it belongs to another disk; EUCLEAN: damaged. Nothing is changed.
  static Result<std::unique_ptr<Backend>> open(const Options& options);

  // The same over devices that are open, without their names in what is said.
  static Result<std::unique_ptr<Backend>> attach(const Options& options, std::unique_ptr<Pmem> pmem,
                                                 std::unique_ptr<BlockDevice> disk);

  enum class Step : uint8_t {
    kMoved,    // a batch is written back
    kPassed,   // what the front does not need was passed, and the disk not asked for anything
    kNothing,  // the log has no more
    kUnclear,  // what is at its end looks damaged, or is just being stored: look again
  };
  static bool has_moved(Step step) { return step == Step::kMoved || step == Step::kPassed; }
  // Writes back one batch of what the log has. EIO: the data of its first kset is damaged, and
  // stays; EUCLEAN: the log is, or a key in it; EINVAL: a range does not fit the disk.
  Result<Step> step();
  // Moves dirty_tail to where a kset of the front says that nothing in front is needed, and writes
  // nothing. False: there is no such place. A step begins with it.
  Result<bool> pass();
  // A step under way ends at once, as one that fails, and so does each later one. Any thread.
  void give_up();

  struct Counters {
    uint64_t batches = 0, ksets = 0, keys = 0, written_bytes = 0, flushes = 0, errors = 0;
    uint64_t passed_ksets = 0;      // that pass() has passed
    uint64_t overwritten_keys = 0;  // whose data was damaged, and of no account any more
    uint64_t disbelieved = 0;       // of what the front has said: it was of another dirty_tail
  };
  const Counters& counters() const { return counters_; }
  // What is left in the log behind dirty_tail, as appended. Read beside a front, and a step, so it
  // is what it was at some moment, or less. Any thread. May throw std::bad_alloc.
  struct Left {
    uint64_t ksets = 0, bytes = 0;
    bool is_all = true;  // false: there was too much to look at
  };
  Left left() const;
  CachePos dirty_tail() const { return tails_.dirty_tail(); }  // any thread
  const BlockDevice& disk() const { return *disk_; }
  // It may come, and go, at any time. Any thread.
  bool front_is_there() const { return pmem_->front_is_there(); }

 private:
  Backend(const Options& options, std::unique_ptr<Pmem> pmem, std::unique_ptr<BlockDevice> disk);
  Status load();
  Status check_image() const;
  bool log_ends() const;
  void look_ahead();
  void disbelieve(const PassStatement& said, uint64_t ksets);
  Status plan(uint64_t end_ksets);
  // Of the plan. `damaged`: of that it cannot, and nothing is flushed.
  Status write(std::optional<media::Key>* damaged);
  Status write_up_to_damage();
  std::optional<media::Key> find_damaged(const WrittenBatch& written);
  uint64_t ksets_in_front_of(const media::Key& key) const;

  const Options options_;
  const std::unique_ptr<Pmem> pmem_;
  const std::unique_ptr<BlockDevice> disk_;
  DeviceFrame frame_;
  Bounds bounds_;
  Tails tails_;
  std::unique_ptr<SegmentTable> segments_;
  std::unique_ptr<WriteOuts> out_;
  LogMark at_;  // what is passed, since it was opened
  // What a kset in front of seen_ has said last; where that stands, and what it says.
  LogMark seen_;
  CachePos said_at_;
  std::optional<PassStatement> passable_;
  BatchPlan plan_;
  uint64_t stuck_at_ = UINT64_MAX;  // the kset where damaged data was met at dirty_tail
  uint32_t bad_looks_ = 0;          // in a row, at a log that seemed damaged
  Counters counters_;
};

}  // namespace pcache
