// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/backing_reader.h"

#include <unistd.h>

#include <utility>

#include "blockdev/nbd_uri.h"

namespace pcache {

BackingReader::BackingReader(BackingFile file)
    : path_(file.path),
      size_bytes_(file.size_bytes),
      block_bytes_(file.align.block_bytes),
      identity_(file.identity),
      file_(std::move(file)) {}

Result<BackingReader> BackingReader::open(const std::string& path, const Log& log) {
  BlockDeviceOptions options;
  options.path = path;
  options.read_only = true;
  if (!is_nbd_uri(path)) {
    options.any_file_system = true;
    auto file = open_backing_file(options, log);
    if (!file) return file.error();
    return BackingReader(file.take());
  }
  auto device = open_block_device(options, log);
  if (!device) return device.error();
  auto queue = device.value()->open_queue(1);
  if (!queue) return queue.error();
  BackingReader reader;
  reader.path_ = path;
  reader.size_bytes_ = device.value()->size_bytes();
  reader.block_bytes_ = device.value()->logical_block_bytes();
  reader.identity_ = device.value()->identity();
  reader.device_ = device.take();
  reader.queue_ = queue.take();
  return reader;
}

Status BackingReader::sync_size() const {
  return device_ ? device_->sync_size() : pcache::sync_size(file_);
}

int64_t BackingReader::read(uint64_t off, void* buffer, size_t len_bytes) const {
  if (!queue_) {
    const ssize_t n = pread(file_.fd.get(), buffer, len_bytes, static_cast<off_t>(off));
    return n < 0 ? -errno : n;
  }
  BlockIo io;
  io.off = off;
  io.len = static_cast<uint32_t>(len_bytes);
  io.buf = buffer;
  io.done = [](BlockIo*) {};
  queue_->submit(&io);
  while (queue_->in_flight() > 0) queue_->wait(-1);
  return io.result ? -io.result : static_cast<int64_t>(len_bytes);
}

uint64_t BackingReader::next_data(uint64_t off) const {
  if (queue_) return off < size_bytes_ ? off : UINT64_MAX;
  const off_t data = lseek(file_.fd.get(), static_cast<off_t>(off), SEEK_DATA);
  if (data >= 0) return static_cast<uint64_t>(data);
  return errno == ENXIO ? UINT64_MAX : off;
}

}  // namespace pcache
