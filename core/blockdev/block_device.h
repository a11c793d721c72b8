// SPDX-License-Identifier: GPL-2.0-or-later
// BlockDevice: the backing device. BlockQueue: asynchronous submit and poll on it.
//
// Invariants
// - A BlockIo and its buffer belong to the queue from submit() until `done` is called.
// - `done` runs in the thread that calls poll() or wait(), with no lock of the queue held, so it
//   may submit again and may free the BlockIo; it must not call wait(). `result` is 0 or a positive
//   errno; a short transfer is continued, never reported as success.
// - Ranges lie inside the device and start and end on a logical block: the caller's duty, checked.
// - Buffers need no alignment: the queue bounces what O_DIRECT cannot take.
// - submit(), kick(), poll() and in_flight() may be called from any thread; wait() only by one
//   thread at a time. A request counts as in flight until its `done` has returned, so a waiter
//   never goes back to sleep, nor finds the queue idle, before the effects of `done` are visible.
// - A queue is empty (in_flight() == 0) when it is destroyed, and is destroyed before its device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/log.h"
#include "base/result.h"

namespace pcache {

class BlockQueue;

// kFlush makes the writes that completed before its submit() durable; it orders nothing else.
enum class BlockOp : uint8_t { kRead, kWrite, kFlush };

struct BlockIo {
  BlockOp op = BlockOp::kRead;
  uint64_t off = 0;  // bytes, multiple of logical_block_bytes()
  uint32_t len = 0;  // bytes, multiple of logical_block_bytes(); ignored for kFlush
  void* buf = nullptr;
  int result = 0;  // 0 or a positive errno, valid when `done` runs
  void (*done)(BlockIo* io) = nullptr;
  void* ctx = nullptr;  // the caller's
  // The queue's own, untouched by the caller:
  BlockIo* next = nullptr;
  BlockQueue* queue = nullptr;
  void* bounce = nullptr;
  uint32_t progress = 0;
  uint32_t retries = 0;
};

class BlockQueue {
 public:
  virtual ~BlockQueue() = default;
  // Starts the request; never fails at once and never blocks for the device: errors arrive through
  // `done`. More than `depth` requests wait in order inside the queue.
  virtual void submit(BlockIo* io) = 0;
  // Pushes submitted requests to the kernel (submit() may batch until then; poll() and wait() push
  // too). Due before sleeping on fd(), and after a wait() whose `done` submitted more when the
  // thread then turns to something else.
  // False: the kernel is short of memory, and some are not pushed. Each call tries again.
  virtual bool kick() = 0;
  // Runs `done` of what has completed, pushes what that submitted; returns how many. No system call
  // when nothing is new.
  virtual unsigned poll() = 0;
  // Pushes, blocks until at least one request has completed or `timeout_ns` (< 0: none) has passed,
  // then polls. Also returns, 0, once another thread's poll() has run a `done` in the meantime:
  // look at your own condition again. With nothing in flight returns 0 at once.
  virtual unsigned wait(int64_t timeout_ns) = 0;
  // Readable (poll(2), POLLIN) when completions are to be had; at times also when none are. For
  // waiting on several things. Not to be read.
  virtual int fd() const = 0;
  virtual unsigned in_flight() const = 0;
};

enum class IoMode { kAuto, kUring, kThreads };

// What the device is, to recognise it again: core/format/FORMAT.md, "Identity block
// and persist record", says where it is kept.
struct DeviceIdentity {
  std::string text;    // e.g. "file fsid=... ino=..." or "disk serial=..."; never empty
  bool stable = true;  // false: it may differ after a reboot, or belong to another device then
};

struct BlockDeviceOptions {
  std::string path;
  IoMode io_mode = IoMode::kAuto;
  bool read_only = false;
  // Also where the file system has no O_DIRECT: for tools that only look, through the page cache
  // then. With read_only, and for open_backing_file() alone.
  bool any_file_system = false;
  // How long open waits for a device in use before it says so. A killed process keeps the device
  // until its last I/O in flight has ended, and a restart must neither fail for that nor overtake
  // it.
  unsigned busy_timeout_ms = 1000;
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;
  virtual uint64_t size_bytes() const = 0;           // rounded down to logical_block_bytes()
  virtual uint32_t logical_block_bytes() const = 0;  // 512 or more, a power of two
  virtual const DeviceIdentity& identity() const = 0;
  virtual const char* io_mode_name() const = 0;  // "io_uring" or "threads"
  // `depth` (1 or more) requests run at a time.
  virtual Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) = 0;
};

// Opens with O_DIRECT (an error that says so where the file system has none) and takes an exclusive
// lock, or a shared one when read_only. A regular file or a block device; anything else is refused.
// kAuto falls back to threads, with a warning, where io_uring cannot be had.
Result<std::unique_ptr<BlockDevice>> open_block_device(const BlockDeviceOptions& options,
                                                       const Log& log);

// Whether two paths lead to one file or device. A path that leads nowhere is no other's.
bool is_same_device(const std::string& a, const std::string& b);

}  // namespace pcache
