// SPDX-License-Identifier: GPL-2.0-or-later
// NbdServer: what all connections to one export of a server of NBD share: its address, what it said
// of itself, and which of its writes may be lost.
//
// Invariants
// - A write that a server has acknowledged and not flushed may be lost with the server. Whoever
//   flushes next, on each queue, is told: a connection that ends while there are such writes counts
//   as a loss, and the first flush of each queue after it fails. The caller writes again what it
//   has not seen flushed. A flush covers the writes of its own queue; those of others if their
//   connections, too, have met the same server.
// - What the server says is checked at each connection: it has come back as another device, or has
//   never been one that a cache can stand on, and then no request is given to it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/log.h"
#include "base/result.h"
#include "blockdev/block_io.h"

struct nbd_handle;

namespace pcache {

struct NbdExport {
  uint64_t raw_bytes = 0;   // as the server says
  uint64_t size_bytes = 0;  // of that, in whole blocks
  uint32_t block_bytes = 512;
  uint32_t most_bytes = 0;  // of one read or write: a multiple of block_bytes
  bool read_only = false, flushes = false, makes_zeros = false, trims = false;
  bool multi_conn = false;  // a flush on one connection covers all, and there may be several
};

struct NbdHandleDeleter {
  void operator()(nbd_handle* handle) const;
};
using NbdHandle = std::unique_ptr<nbd_handle, NbdHandleDeleter>;

class NbdServer {
 public:
  NbdServer(std::string uri, std::string name, bool read_only, Log log);

  const std::string& name() const { return name_; }
  const Log& log() const { return log_; }
  // Begins to connect. Never waits for the server, but may for the name of its host to be looked
  // up.
  Result<NbdHandle> begin_connect() const;
  // Of a handle that is connected. EROFS; EOPNOTSUPP: it has no flush; EINVAL: no device for a
  // cache.
  Result<NbdExport> examine(nbd_handle* handle) const;
  // EMEDIUMTYPE: what was the device is another one now.
  Status compare(const NbdExport& now) const;

  // Set once, before there is a second connection.
  void set_device(const NbdExport& device) { device_ = device; }
  const NbdExport& device() const { return device_; }

  // Any thread:
  void wrote() { written_.fetch_add(1, std::memory_order_relaxed); }
  uint64_t written() const { return written_.load(std::memory_order_relaxed); }
  // A flush has succeeded that was submitted when `written` had been written.
  void flushed(uint64_t written);
  // A connection has ended.
  void lost_connection();
  uint64_t losses() const { return losses_.load(std::memory_order_relaxed); }
  uint64_t lost_connections() const { return lost_connections_.load(std::memory_order_relaxed); }

  void give_up() { given_up_.store(true, std::memory_order_relaxed); }
  bool given_up() const { return given_up_.load(std::memory_order_relaxed); }

 private:
  const std::string uri_, name_;
  const bool read_only_;
  const Log log_;
  NbdExport device_;
  std::atomic<uint64_t> written_{0}, flushed_{0};  // numbers of writes
  std::atomic<uint64_t> losses_{0}, lost_connections_{0};
  std::atomic<bool> given_up_{false};
};

// Of the last call of libnbd in this thread, in one line.
std::string nbd_error_text();

}  // namespace pcache
