// SPDX-License-Identifier: GPL-2.0-or-later
// BlockDevice: the backing device. BlockQueue: asynchronous submit and poll on it.
//
// Invariants
// - A BlockIo and its buffer belong to the queue from submit() until `done` is called.
// - `done` runs in the thread that calls poll() or wait(), with no lock of the queue held: it may
//   submit again and may free the BlockIo, but must not call wait(). `result` is 0 or a positive
//   errno; a short transfer is continued, never reported as success.
// - Ranges are inside the device, in whole logical blocks. The caller sees to this; it is checked.
// - Buffers need no alignment: the queue bounces what O_DIRECT cannot take.
// - Any thread may call submit(), kick(), poll() and in_flight(); one thread at a time wait(). A
//   request is in flight until its `done` has returned, so a waiter never sleeps again, nor finds
//   the queue idle, before the effects of `done` are visible.
// - A queue is empty (in_flight() == 0) when it is destroyed, and is destroyed before its device.
#pragma once

#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/log.h"
#include "base/result.h"

namespace pcache {

class BlockQueue;

enum class BlockOp : uint8_t {
  kRead,
  kWrite,
  // Makes what completed before its submit() durable; it orders nothing else. kWritesLost: some of
  // that may be lost, with the server that had it. Written again and flushed, it is durable.
  kFlush,      // covers what has completed, of all queues of the device
  kZero,       // reads as zeros afterwards; the device keeps its room for it where it can
  kPunchHole,  // the same; the device gives its room back where it can
};
inline constexpr size_t kBlockOps = 5;
inline constexpr int kWritesLost = ESTALE;
constexpr bool has_data(BlockOp op) { return op == BlockOp::kRead || op == BlockOp::kWrite; }
// The last two: EOPNOTSUPP where the device has no such request.
constexpr bool makes_zeros(BlockOp op) { return op == BlockOp::kZero || op == BlockOp::kPunchHole; }

struct BlockIo {
  BlockOp op = BlockOp::kRead;
  uint64_t off = 0;     // bytes, multiple of logical_block_bytes()
  uint32_t len = 0;     // bytes, multiple of logical_block_bytes(); ignored for kFlush
  void* buf = nullptr;  // of kRead and kWrite
  int result = 0;       // 0 or a positive errno, valid when `done` runs
  void (*done)(BlockIo* io) = nullptr;
  void* ctx = nullptr;  // the caller's
  // Only the queue uses these:
  BlockIo* next = nullptr;
  BlockQueue* queue = nullptr;
  void* bounce = nullptr;
  void* carrier = nullptr;  // the connection that has it, of a device behind a server
  int64_t cookie = 0;       // its number there
  uint64_t mark = 0;        // of a flush there: what had been written when it was sent
  uint32_t progress = 0;
  uint32_t retries = 0;
};

class BlockQueue {
 public:
  virtual ~BlockQueue() = default;
  // Starts the request. Never blocks for the device; errors arrive through `done`. Requests above
  // `depth` wait in order inside the queue.
  virtual void submit(BlockIo* io) = 0;
  // Gives submitted requests to the kernel (submit() may keep them until then; poll() and wait()
  // give them, too). Call it before you sleep on fd(), and after a wait() whose `done` submitted
  // more, if the thread then does something else. False: the kernel is short of memory and has not
  // taken all. Each call tries again.
  virtual bool kick() = 0;
  // Runs `done` of completed requests, and gives what those submitted to the kernel; returns how
  // many. No system call if nothing has completed.
  virtual unsigned poll() = 0;
  // Gives requests to the kernel, waits until one has completed or `timeout_ns` (< 0: for ever) has
  // passed, then polls. Also returns, with 0, once another thread's poll() has run a `done`
  // meanwhile: test your own condition again. With nothing in flight returns 0 at once.
  virtual unsigned wait(int64_t timeout_ns) = 0;
  // Readable (poll(2), POLLIN) when there are completions; sometimes also when there are none. For
  // waiting on several things. Do not read it.
  virtual int fd() const = 0;
  virtual unsigned in_flight() const = 0;
};

enum class IoMode { kAuto, kUring, kThreads };

// Recognises the device again. core/format/FORMAT.md, "Identity block and persist record", says
// where it is kept.
struct DeviceIdentity {
  std::string text;    // e.g. "file fsid=... ino=..." or "disk serial=..."; never empty
  bool stable = true;  // false: after a reboot it may differ, or be another device's
  // True: no other device will ever have it. Not so of a file's inode, a partition's start, a
  // serial number that somebody chose, or an address.
  bool unique = false;
};

struct BlockDeviceOptions {
  std::string path;
  IoMode io_mode = IoMode::kAuto;
  bool read_only = false;
  // For tools that only look: if the file system has no O_DIRECT, use the page cache. Needs
  // read_only; for open_backing_file() alone.
  bool any_file_system = false;
  // How long open waits for a device in use before it fails. A killed process keeps the device
  // until its last I/O in flight has ended; a restart must neither fail for that nor overtake that
  // I/O.
  unsigned busy_timeout_ms = 1000;
};

// How a device on a server is reached.
struct BlockLink {
  unsigned connections = 0, up = 0;  // how many there are, and of these are connected
  unsigned waiting = 0;              // requests, for a connection
  uint64_t lost = 0;                 // connections that ended, since it was opened
  std::string why;                   // one is not up; empty: all are
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;
  // As it was measured last, rounded down to logical_block_bytes(). Any thread.
  virtual uint64_t size_bytes() const = 0;
  // Measures it again. A device that is smaller now is said to be so, and size_bytes() stays.
  // EOPNOTSUPP: it cannot be. One thread at a time, with others beside it.
  virtual Result<uint64_t> measure_again();
  // Before a size that was measured is recorded elsewhere: it outlasts a power failure from now on.
  // That of a file may be in memory alone. Any thread.
  virtual Status sync_size() const { return {}; }
  virtual uint32_t logical_block_bytes() const = 0;  // 512 or more, a power of two
  virtual const DeviceIdentity& identity() const = 0;
  virtual const char* io_mode_name() const = 0;  // "io_uring", "threads" or "nbd"
  // Whether kPunchHole costs next to nothing, as far as is known; else it may have to be written.
  virtual bool makes_holes() const = 0;
  // Whether it has nothing but zeros from `off` on, as far as is known without a read, and no room
  // for them; `end`, behind `off`: up to where it is the same. Any thread.
  virtual bool is_hole(uint64_t off, uint64_t* end) const = 0;
  // Nothing: it is here. Any thread.
  virtual std::optional<BlockLink> link() const { return std::nullopt; }
  // From now on what waits for a server that is away fails (ENOTCONN). Any thread.
  virtual void give_up() {}
  // `depth` (1 or more) requests run at a time.
  virtual Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) = 0;
};

// Of a regular file or a block device: opens with O_DIRECT (a file system without it is an error)
// and takes an exclusive lock, or a shared one if read_only. kAuto uses threads, with a warning,
// where there is no io_uring. A path that is a URI of NBD (nbd_uri.h) names a device on a server.
Result<std::unique_ptr<BlockDevice>> open_block_device(const BlockDeviceOptions& options,
                                                       const Log& log);

// Whether two paths lead to one file or device. False for a path that leads nowhere.
bool is_same_device(const std::string& a, const std::string& b);

}  // namespace pcache
