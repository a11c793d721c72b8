// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/nbd_server.h"

#include <libnbd.h>

#include <algorithm>
#include <bit>
#include <cinttypes>
#include <utility>

#include "base/one_line.h"
#include "blockdev/backing_file.h"

namespace pcache {

namespace {

// What a server takes at a time if it does not say (the NBD project's document of the protocol),
// and the most that we send, whatever it says.
constexpr uint32_t kMostBytes = 32u << 20;

}  // namespace

void NbdHandleDeleter::operator()(nbd_handle* handle) const { nbd_close(handle); }

std::string nbd_error_text() {
  const char* text = nbd_get_error();
  std::string line = text ? text : "no reason is known";
  make_one_line(line.data());
  return line;
}

NbdServer::NbdServer(std::string uri, std::string name, bool read_only, Log log)
    : uri_(std::move(uri)), name_(std::move(name)), read_only_(read_only), log_(std::move(log)) {}

Result<NbdHandle> NbdServer::begin_connect() const {
  NbdHandle handle(nbd_create());
  // The address comes from the user who runs us, so it may name files of keys.
  if (!handle || nbd_set_uri_allow_local_file(handle.get(), true) != 0 ||
      nbd_set_pread_initialize(handle.get(), false) != 0 ||
      // A structured reply may leave out a part of what was asked for, and libnbd takes it.
      nbd_set_request_structured_replies(handle.get(), false) != 0 ||
      nbd_aio_connect_uri(handle.get(), uri_.c_str()) != 0) {
    const int code = nbd_get_errno();
    return make_error(code ? code : EIO, "backing device %s: cannot connect: %s", name_.c_str(),
                      nbd_error_text().c_str());
  }
  return handle;
}

Result<NbdExport> NbdServer::examine(nbd_handle* handle) const {
  const char* name = name_.c_str();
  const int64_t size = nbd_get_size(handle);
  const int64_t least = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM);
  const int64_t most = nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);
  const int read_only = nbd_is_read_only(handle), flush = nbd_can_flush(handle);
  const int zero = nbd_can_zero(handle), trim = nbd_can_trim(handle);
  const int multi_conn = nbd_can_multi_conn(handle);
  if (size < 0 || least < 0 || most < 0 || read_only < 0 || flush < 0 || zero < 0 || trim < 0 ||
      multi_conn < 0)
    return make_error(EIO, "backing device %s: the server does not say what it has: %s", name,
                      nbd_error_text().c_str());

  NbdExport is;
  is.read_only = read_only;
  is.flushes = flush;
  is.makes_zeros = zero;
  is.trims = trim;
  is.multi_conn = multi_conn;
  is.raw_bytes = static_cast<uint64_t>(size);
  if (least > kMostDirectIoBytes ||
      !std::has_single_bit(static_cast<uint64_t>(std::max<int64_t>(least, 1))))
    return make_error(EINVAL,
                      "backing device %s: the server's smallest block has %" PRId64
                      " bytes: expected a power of two, %u at most",
                      name, least, kMostDirectIoBytes);
  is.block_bytes = std::max(static_cast<uint32_t>(least), 512u);
  is.size_bytes = is.raw_bytes - is.raw_bytes % is.block_bytes;
  if (is.size_bytes == 0)
    return make_error(EINVAL,
                      "backing device %s: the server has %" PRId64
                      " bytes there, less than one block of %u: give it a size first",
                      name, size, is.block_bytes);
  is.most_bytes =
      most == 0 ? kMostBytes : static_cast<uint32_t>(std::min<int64_t>(most, kMostBytes));
  is.most_bytes -= is.most_bytes % is.block_bytes;
  if (is.most_bytes == 0)
    return make_error(EINVAL,
                      "backing device %s: the server takes %" PRId64
                      " bytes at a time, less than its block of %u",
                      name, most, is.block_bytes);
  if (read_only_) return is;
  if (is.read_only)
    return make_error(EROFS,
                      "backing device %s: the server has it read-only: have it serve it for "
                      "writing, or only read it, with readonly=1",
                      name);
  if (!is.flushes)
    return make_error(EOPNOTSUPP,
                      "backing device %s: the server has no flush, so what is written back could "
                      "be lost: use a server that has (nbdkit and qemu-nbd do, for a file)",
                      name);
  return is;
}

Status NbdServer::compare(const NbdExport& now) const {
  const char* what = nullptr;
  uint64_t expected = 0, found = 0;
  if (now.raw_bytes < device_.size_bytes) {
    what = "its size in bytes";
    expected = device_.raw_bytes;
    found = now.raw_bytes;
  } else if (now.block_bytes > device_.block_bytes) {
    what = "its smallest block in bytes";
    expected = device_.block_bytes;
    found = now.block_bytes;
  } else if (device_.multi_conn && !now.multi_conn) {
    what = "whether a flush covers several connections";
    expected = 1;
  }
  if (!what) return {};
  return make_error(EMEDIUMTYPE,
                    "backing device %s: another device is there now: %s: expected %" PRIu64
                    ", found %" PRIu64 ": have the server serve the same one again",
                    name_.c_str(), what, expected, found);
}

void NbdServer::flushed(uint64_t written) {
  uint64_t before = flushed_.load(std::memory_order_relaxed);
  while (before < written &&
         !flushed_.compare_exchange_weak(before, written, std::memory_order_relaxed)) {
  }
}

void NbdServer::lost_connection() {
  lost_connections_.fetch_add(1, std::memory_order_relaxed);
  if (written() != flushed_.load(std::memory_order_relaxed))
    losses_.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace pcache
