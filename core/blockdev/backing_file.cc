// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/backing_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <bit>
#include <cinttypes>
#include <cstdlib>
#include <memory>

#include "blockdev/deadline.h"
#include "blockdev/device_identity.h"

namespace pcache {

namespace {

const char* type_name(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "a directory";
    case S_IFCHR:
      return "a character device";
    case S_IFIFO:
      return "a FIFO";
    case S_IFSOCK:
      return "a socket";
    default:
      return "of an unknown type";
  }
}

Status check_type(const std::string& path, const struct stat& st) {
  if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) return {};
  return make_error(ENOTBLK, "backing device %s is %s: it must be a block device or a regular file",
                    path.c_str(), type_name(st.st_mode));
}

Error no_direct_io(const std::string& path) {
  return make_error(EINVAL,
                    "backing device %s: its file system has no O_DIRECT (direct I/O), which the "
                    "backing device needs: use a block device, or a file on ext4, xfs or btrfs",
                    path.c_str());
}

Error in_use(const std::string& path, const char* by) {
  return make_error(EBUSY, "backing device %s is in use by %s: stop that first", path.c_str(), by);
}

// The error of an open() that failed.
Error cannot_open(const std::string& path, int code, bool read_only) {
  Error error = error_errno(code, "cannot open backing device %s for %s", path.c_str(),
                            read_only ? "reading" : "writing");
  if (!read_only && (code == EACCES || code == EPERM || code == EROFS))
    error.text += ": make it writable, or only read it, with readonly=1";
  return error;
}

// A block device that is read-only can be opened for writing; the writes then fail.
Status check_writable(const std::string& path, int fd) {
  int read_only = 0;
  if (ioctl(fd, BLKROGET, &read_only) != 0 || !read_only) return {};
  return make_error(EROFS,
                    "backing device %s is read-only: make it writable (blockdev --setrw), or only "
                    "read it, with readonly=1",
                    path.c_str());
}

Result<UniqueFd> try_open_locked(const BlockDeviceOptions& options) {
  const std::string& path = options.path;
  const bool read_only = options.read_only;
  struct stat before;
  // stat() comes first: open() would block on a FIFO, and O_EXCL is only for block devices.
  if (stat(path.c_str(), &before) != 0)
    return error_errno(errno, "cannot open backing device %s", path.c_str());
  if (Status type = check_type(path, before); !type) return type.error();
  int flags = O_DIRECT | O_CLOEXEC | (read_only ? O_RDONLY : O_RDWR);
  // Readers leave O_EXCL out: with it, only one of them could open the device.
  if (S_ISBLK(before.st_mode) && !read_only) flags |= O_EXCL;
  UniqueFd fd(open(path.c_str(), flags));
  if (!fd.valid() && errno == EINVAL && options.any_file_system)
    fd = UniqueFd(open(path.c_str(), flags & ~O_DIRECT));
  if (!fd.valid()) {
    if (errno == EINVAL) return no_direct_io(path);
    if (errno == EBUSY) return in_use(path, "the kernel (mounted, swap, RAID, LVM) or a program");
    return cannot_open(path, errno, read_only);
  }
  struct stat after;
  if (fstat(fd.get(), &after) != 0)
    return error_errno(errno, "cannot examine backing device %s", path.c_str());
  if (Status type = check_type(path, after); !type) return type.error();
  if (S_ISBLK(after.st_mode) && !read_only)
    if (Status writable = check_writable(path, fd.get()); !writable) return writable.error();
  if (flock(fd.get(), (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return in_use(path, "another program, or twice by this one");
    return error_errno(errno, "cannot lock backing device %s", path.c_str());
  }
  return fd;
}

Result<UniqueFd> open_locked(const BlockDeviceOptions& options) {
  constexpr int64_t kPauseNs = 5'000'000;  // nothing reports the end of another lock
  const Deadline deadline(options.busy_timeout_ms * int64_t{1'000'000});
  for (;;) {
    auto fd = try_open_locked(options);
    if (fd || fd.error().code != EBUSY) return fd;
    const int64_t pause_ns = deadline.left_ns(kPauseNs);
    if (pause_ns == 0) return fd;
    const timespec pause = {0, static_cast<long>(pause_ns)};
    nanosleep(&pause, nullptr);
  }
}

// For a kernel without STATX_DIOALIGN: whether a read of `block_bytes` succeeds.
bool reads_blocks_of(int fd, uint32_t block_bytes) {
  std::unique_ptr<void, decltype(&free)> buffer(std::aligned_alloc(4096, 4096), &free);
  return buffer && pread(fd, buffer.get(), block_bytes, 0) >= 0;
}

Result<DirectIoAlign> measure_align(const std::string& path, int fd, bool block_device,
                                    bool any_file_system) {
  DirectIoAlign align;
  if (block_device) {
    int block_bytes = 0;
    if (ioctl(fd, BLKSSZGET, &block_bytes) != 0 || block_bytes <= 0)
      return error_errno(errno, "cannot get the block size of backing device %s", path.c_str());
    align.block_bytes = static_cast<uint32_t>(block_bytes);
  }
  uint32_t memory_bytes = 0;
  if (!(fcntl(fd, F_GETFL) & O_DIRECT)) return align;
#ifdef STATX_DIOALIGN
  struct statx stx = {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 && (stx.stx_mask & STATX_DIOALIGN)) {
    // open() succeeds on such a file, but the kernel would use the page cache.
    if (stx.stx_dio_offset_align == 0 && any_file_system) {
      fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
      return align;
    }
    if (stx.stx_dio_offset_align == 0) return no_direct_io(path);
    if (!block_device) align.block_bytes = stx.stx_dio_offset_align;
    memory_bytes = stx.stx_dio_mem_align;
  }
#endif
  if (memory_bytes == 0 && !block_device && !reads_blocks_of(fd, 512)) align.block_bytes = 4096;
  if (align.block_bytes < 512) align.block_bytes = 512;
  align.memory_bytes = memory_bytes ? memory_bytes : align.block_bytes;
  if (auto fits = check_align(path, align); !fits) return fits.error();
  return align;
}

Result<uint64_t> measure_size(const std::string& path, int fd, const struct stat& st,
                              uint32_t block_bytes, const Log& log) {
  uint64_t raw_bytes = static_cast<uint64_t>(st.st_size);
  if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &raw_bytes) != 0)
    return error_errno(errno, "cannot get the size of backing device %s", path.c_str());
  const uint64_t size_bytes = raw_bytes - raw_bytes % block_bytes;
  if (size_bytes == 0)
    return make_error(EINVAL,
                      "backing device %s holds %" PRIu64
                      " bytes, less than one block of %u: give "
                      "it a size first (for a file: truncate -s 10G)",
                      path.c_str(), raw_bytes, block_bytes);
  if (size_bytes != raw_bytes)
    log.print(LogLevel::kWarning,
              "backing device %s: its size %" PRIu64
              " is no multiple of its block of %u bytes; "
              "the last %" PRIu64 " bytes are not used",
              path.c_str(), raw_bytes, block_bytes, raw_bytes - size_bytes);
  return size_bytes;
}

}  // namespace

Status check_align(const std::string& path, const DirectIoAlign& align) {
  const auto fits = [](uint32_t bytes) {
    return std::has_single_bit(bytes) && bytes <= kMostDirectIoBytes;
  };
  if (fits(align.block_bytes) && fits(align.memory_bytes)) return {};
  return make_error(EINVAL,
                    "backing device %s: direct I/O in blocks of %u bytes from memory aligned to %u "
                    "is not supported: expected powers of two, %u at most",
                    path.c_str(), align.block_bytes, align.memory_bytes, kMostDirectIoBytes);
}

Result<BackingFile> open_backing_file(const BlockDeviceOptions& options, const Log& log) {
  const std::string& path = options.path;
  BackingFile file;
  file.path = path;
  auto fd = open_locked(options);
  if (!fd) return fd.error();
  file.fd = fd.take();

  struct stat st;
  if (fstat(file.fd.get(), &st) != 0)
    return error_errno(errno, "cannot examine backing device %s", path.c_str());
  const bool block_device = S_ISBLK(st.st_mode);
  auto align = measure_align(path, file.fd.get(), block_device, options.any_file_system);
  if (!align) return align.error();
  file.align = align.take();
  auto size = measure_size(path, file.fd.get(), st, file.align.block_bytes, log);
  if (!size) return size.error();
  file.size_bytes = size.take();

  file.identity = block_device
                      ? disk_identity("/sys/dev/block", major(st.st_rdev), minor(st.st_rdev))
                      : file_identity(file.fd.get(), st.st_ino);
  if (block_device)
    file.makes_holes = disk_makes_holes("/sys/dev/block", major(st.st_rdev), minor(st.st_rdev));
  if (!file.identity.stable)
    log.print(LogLevel::kNotice,
              "backing device %s has no lasting identity; \"%s\" may differ after a reboot",
              path.c_str(), file.identity.text.c_str());
  PCACHE_CHECK(file.size_bytes > 0 && file.size_bytes % file.align.block_bytes == 0 &&
               !file.identity.text.empty());
  return file;
}

Result<uint64_t> measure_again(BackingFile* file) {
  struct stat st;
  if (fstat(file->fd.get(), &st) != 0)
    return error_errno(errno, "cannot examine backing device %s", file->path.c_str());
  auto size = measure_size(file->path, file->fd.get(), st, file->align.block_bytes, Log());
  if (size && size.value() > file->size_bytes) file->size_bytes.grow(size.value());
  return size;
}

Status sync_size(const BackingFile& file) {
  struct stat st;
  if (fstat(file.fd.get(), &st) != 0)
    return error_errno(errno, "cannot examine backing device %s", file.path.c_str());
  // EINVAL: of a file system that is only read.
  if (!S_ISREG(st.st_mode) || fsync(file.fd.get()) == 0 || errno == EINVAL) return {};
  return error_errno(errno,
                     "backing device %s: fsync fails, so a power failure may undo its size, which "
                     "is not recorded",
                     file.path.c_str());
}

bool is_hole(const BackingFile& file, uint64_t off, uint64_t* end) {
  const uint64_t size_bytes = file.size_bytes;
  PCACHE_DCHECK(off < size_bytes);
  const auto up_to = [&](off_t found) {
    *end = found < 0 || static_cast<uint64_t>(found) > size_bytes ? size_bytes
                                                                  : static_cast<uint64_t>(found);
  };
  const off_t from = static_cast<off_t>(off);
  const off_t data = lseek(file.fd.get(), from, SEEK_DATA);
  if (data > from) {
    up_to(data);
    return true;
  }
  if (data < 0 && errno == ENXIO) {
    // A hole up to the end; or the file has been cut, and a read fails there.
    const off_t real_end = lseek(file.fd.get(), 0, SEEK_END);
    const bool is_there = real_end > from;
    up_to(is_there ? real_end : -1);
    return is_there;
  }
  // A file system, or a disk, that cannot tell has data everywhere.
  const off_t hole = data < 0 ? data : lseek(file.fd.get(), from, SEEK_HOLE);
  up_to(hole > from ? hole : -1);
  return false;
}

}  // namespace pcache
