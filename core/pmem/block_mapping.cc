// SPDX-License-Identifier: GPL-2.0-or-later
// A block device as a Pmem, for tools: mapped through the kernel's page cache. Every fence flushes
// the device, so stores before it are durable first. The kernel target uses the same memory of
// /dev/pmem0 directly, so the page cache's older content is dropped at open.
//
// Invariants
// - O_EXCL while it is open: no kernel user (a device-mapper target, a mount) and no other tool has
//   the device.
// - After a failed flush no store is made any more, so that nothing becomes durable before what
//   must precede it; flushed() reports the failure.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "pmem/checked_copy.h"
#include "pmem/pmem.h"

namespace pcache {

struct Pmem::BlockMapping {
  std::string path;
  int fd = -1;
  std::byte* base = nullptr;
  size_t bytes = 0;
  std::atomic<bool> stored{false};
  std::atomic<int> error{0};

  ~BlockMapping() {
    if (base) munmap(base, bytes);
    if (fd >= 0) close(fd);
  }
  static void copy(void* self, std::byte* dst, const void* src, size_t len_bytes) {
    auto& mapping = *static_cast<BlockMapping*>(self);
    if (mapping.error) return;
    mapping.stored = true;
    if (checked_copy(dst, src, len_bytes)) return;
    BadPages::note(reinterpret_cast<uintptr_t>(dst), len_bytes);
    mapping.fail(EIO);
  }
  static void fence(void* self) {
    auto& mapping = *static_cast<BlockMapping*>(self);
    if (mapping.error || !mapping.stored.exchange(false)) return;
    if (fdatasync(mapping.fd) != 0) mapping.fail(errno);
  }
  void fail(int why) {
    PCACHE_CHECK(why > 0);
    int none = 0;
    error.compare_exchange_strong(none, why);
  }
  Status open(bool read_only);
};

namespace {

// Another tool that only looks may have it for a moment; nothing reports when it is done.
int open_exclusive(const char* path, int flags) {
  constexpr timespec kPause = {0, 5'000'000};
  for (int tries = 200;; tries--) {
    const int fd = ::open(path, flags | O_EXCL | O_CLOEXEC);
    if (fd >= 0 || errno != EBUSY || tries == 0) return fd;
    nanosleep(&kPause, nullptr);
  }
}

}  // namespace

Status Pmem::BlockMapping::open(bool read_only) {
  fd = open_exclusive(path.c_str(), read_only ? O_RDONLY : O_RDWR);
  if (fd < 0 && errno == EBUSY)
    return make_error(EBUSY,
                      "cache device %s: in use: the kernel (an attached device-mapper target, a "
                      "mount) or another program has it; take it off there first (dmsetup remove)",
                      path.c_str());
  if (fd < 0) return error_errno(errno, "cache device %s: cannot be opened", path.c_str());
  uint64_t size = 0;
  if (ioctl(fd, BLKGETSIZE64, &size) != 0)
    return error_errno(errno, "cache device %s: its size", path.c_str());
  if (size < kLineBytes * 64)
    return make_error(EINVAL, "cache device %s: has %llu bytes", path.c_str(),
                      static_cast<unsigned long long>(size));
  // The kernel target bypasses the page cache, whose content may be old. (The first call needs
  // rights that the second does not.)
  ioctl(fd, BLKFLSBUF, 0);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  bytes = size;
  void* const mapped =
      mmap(nullptr, bytes, read_only ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED)
    return error_errno(errno, "cache device %s: cannot be mapped", path.c_str());
  base = static_cast<std::byte*>(mapped);
  return {};
}

Result<std::unique_ptr<Pmem>> Pmem::open_block(const std::string& path, bool read_only) {
  static constexpr PersistOps kOps = {"fdatasync", &BlockMapping::copy, &BlockMapping::fence,
                                      nullptr, &BlockMapping::fence};
  auto mapping = std::make_shared<BlockMapping>();
  mapping->path = path;
  if (auto opened = mapping->open(read_only); !opened) return opened.error();
  auto pmem = std::make_unique<Pmem>(mapping->base, mapping->bytes, &kOps, mapping.get());
  pmem->kind_ = PmemKind::kBlock;
  pmem->block_ = std::move(mapping);
  return pmem;
}

Status Pmem::flushed() const {
  if (!block_) return {};
  BlockMapping::fence(block_.get());
  const int error = block_->error;
  if (error == 0) return {};
  return error_errno(error, "cache device %s: cannot be written; what came later was not",
                     block_->path.c_str());
}

}  // namespace pcache
