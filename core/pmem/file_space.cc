// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/file_space.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstddef>
#include <memory>

#include "base/ids.h"

namespace pcache {

namespace {

constexpr unsigned kExtentsAtOnce = 128;
constexpr uint64_t kBlockBytes = 512;  // of st_blocks

bool is_on_tmpfs(int fd) {
  struct statfs fs;
  return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

}  // namespace

FileSpace::FileSpace(int fd, std::string name)
    : fd_(fd), name_(std::move(name)), on_tmpfs_(is_on_tmpfs(fd)) {
  if (fstat(fd_, &before_) != 0) return;
  const auto size_bytes = static_cast<uint64_t>(before_.st_size);
  // tmpfs has no map of extents. Its count of blocks is exact, and includes pages that are
  // allocated and not yet written, which SEEK_DATA shows as holes.
  if (on_tmpfs_ && static_cast<uint64_t>(before_.st_blocks) * kBlockBytes >= size_bytes)
    told_ = true;
  else if (on_tmpfs_)
    told_ = find_gaps_by_seek();
  else
    told_ = find_gaps_by_map();
  // Only good for restore(): a file system without exact blocks shows no gaps here.
  if (!told_) find_gaps_by_seek();
}

// Blocks that are allocated and not yet written are no gaps: a store needs no more space.
bool FileSpace::find_gaps_by_map() {
  gaps_.clear();
  const auto size = static_cast<uint64_t>(before_.st_size);
  const auto memory = std::make_unique<std::byte[]>(sizeof(struct fiemap) +
                                                    kExtentsAtOnce * sizeof(struct fiemap_extent));
  auto* const map = reinterpret_cast<struct fiemap*>(memory.get());
  uint64_t at = 0;
  for (bool last = false; at < size && !last;) {
    *map = {};
    map->fm_start = at;
    map->fm_length = size - at;
    map->fm_extent_count = kExtentsAtOnce;
    if (ioctl(fd_, FS_IOC_FIEMAP, map) != 0) return false;
    const unsigned n = std::min(map->fm_mapped_extents, kExtentsAtOnce);
    last = n == 0;
    const uint64_t begin = at;
    for (unsigned i = 0; i < n; i++) {
      const struct fiemap_extent& extent = map->fm_extents[i];
      // Blocks that are reserved for data still in memory (DELALLOC) count as allocated.
      if (extent.fe_flags & FIEMAP_EXTENT_UNKNOWN && !(extent.fe_flags & FIEMAP_EXTENT_DELALLOC))
        return false;
      const auto from = std::min<uint64_t>(extent.fe_logical, size);
      if (from > at) gaps_.push_back({at, from - at});
      at = std::max<uint64_t>(at, extent.fe_logical + extent.fe_length);
      last = last || extent.fe_flags & FIEMAP_EXTENT_LAST;
    }
    if (!last && at == begin) return false;
  }
  if (at < size) gaps_.push_back({at, size - at});
  return true;
}

bool FileSpace::find_gaps_by_seek() {
  gaps_.clear();
  const off_t size = before_.st_size;
  for (off_t at = 0; at < size;) {
    const off_t hole = lseek(fd_, at, SEEK_HOLE);
    if (hole < 0) return false;
    if (hole >= size) break;
    const off_t data = lseek(fd_, hole, SEEK_DATA);
    if (data < 0 && errno != ENXIO) return false;
    const off_t end = data < 0 ? size : std::min(data, size);
    if (end <= hole) return false;
    gaps_.push_back({static_cast<uint64_t>(hole), static_cast<uint64_t>(end - hole)});
    at = end;
  }
  return true;
}

// Allocates blocks, so that a full file system is an error here, and not a SIGBUS in the middle of
// a later store.
Status FileSpace::allocate(int mode, uint64_t off, uint64_t len_bytes) {
  PCACHE_CHECK(len_bytes > 0 && off <= INT64_MAX && len_bytes <= INT64_MAX - off);
  changed_ = true;
  int error;
  do {
    error = fallocate(fd_, mode, static_cast<off_t>(off), static_cast<off_t>(len_bytes)) == 0
                ? 0
                : errno;
  } while (error == EINTR);
  if (error == 0) return {};
  if (error == EOPNOTSUPP) {
    if (mode & FALLOC_FL_KEEP_SIZE || ftruncate(fd_, static_cast<off_t>(off + len_bytes)) == 0)
      return {};
    error = errno;
  }
  struct statvfs fs;
  const uint64_t free_bytes = fstatvfs(fd_, &fs) == 0 ? uint64_t{fs.f_bavail} * fs.f_frsize : 0;
  const std::string what = off == 0
                               ? "its " + std::to_string(len_bytes) + " bytes"
                               : std::to_string(len_bytes) + " bytes at " + std::to_string(off);
  return error_errno(
      error, "cache device %s: cannot allocate %s (%" PRIu64 " are free on its file system)",
      name_.c_str(), what.c_str(), free_bytes);
}

Status FileSpace::extend(uint64_t size_bytes) {
  const auto now = static_cast<uint64_t>(before_.st_size);
  if (size_bytes <= now) return {};
  return allocate(0, now, size_bytes - now);
}

Status FileSpace::fill() {
  const auto size = static_cast<uint64_t>(before_.st_size);
  if (!told_) return size > 0 ? allocate(FALLOC_FL_KEEP_SIZE, 0, size) : Status();
  for (const FileGap& gap : gaps_)
    if (auto done = allocate(FALLOC_FL_KEEP_SIZE, gap.off, gap.len_bytes); !done) return done;
  return {};
}

Status FileSpace::reserve(uint64_t off, uint64_t len_bytes) {
  return allocate(FALLOC_FL_KEEP_SIZE, off, len_bytes);
}

Status FileSpace::grow(uint64_t used_bytes, uint64_t size_bytes) {
  const auto size = static_cast<uint64_t>(before_.st_size);
  if (size < used_bytes)
    return make_error(EINVAL,
                      "cache device %s: was cut to %" PRIu64 " bytes, %" PRIu64 " are in use",
                      name_.c_str(), size, used_bytes);
  Status done = extend(size_bytes);
  const uint64_t old_end = std::min(size, size_bytes);
  if (done && !told_ && used_bytes < old_end)
    done = allocate(FALLOC_FL_KEEP_SIZE, used_bytes, old_end - used_bytes);
  for (const FileGap& gap : gaps_) {
    const uint64_t from = std::max(gap.off, used_bytes);
    const uint64_t end = std::min(gap.off + gap.len_bytes, size_bytes);
    if (done && told_ && from < end) done = allocate(FALLOC_FL_KEEP_SIZE, from, end - from);
  }
  if (done && fsync(fd_) != 0)
    done = error_errno(errno, "cache device %s: fsync fails: a power failure may undo its size",
                       name_.c_str());
  if (!done) cut();
  return done;
}

// Also of a file of the same length: XFS has allocated a part behind its end when there is no room
// for all, and keeps that.
void FileSpace::cut() {
  struct stat now;
  if (fstat(fd_, &now) == 0 && now.st_size >= before_.st_size)
    (void)!ftruncate(fd_, before_.st_size);
}

// Blocks that cannot be given back stay allocated.
void FileSpace::restore() {
  struct stat now;
  if (fstat(fd_, &now) != 0) return;
  const bool longer = now.st_size > before_.st_size;
  if (changed_) cut();
  if (changed_ && longer && (fstat(fd_, &now) != 0 || now.st_size > before_.st_size)) return;
  // Data that others have written there since stays. On tmpfs a page that was only read is
  // allocated, too.
  if ((changed_ || on_tmpfs_) && fstat(fd_, &now) == 0 && now.st_blocks != before_.st_blocks)
    for (const FileGap& gap : gaps_) {
      uint64_t end = gap.off + gap.len_bytes;
      PCACHE_CHECK(end <= static_cast<uint64_t>(before_.st_size));
      // Of a page that is not all in the range the bytes are cleared, and the block stays.
      if (end == static_cast<uint64_t>(before_.st_size))
        end = (end + kPageBytes - 1) / kPageBytes * kPageBytes;
      if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(gap.off),
                    static_cast<off_t>(end - gap.off)) != 0)
        break;
    }
  if (fstat(fd_, &now) == 0 && now.st_mtim.tv_sec == before_.st_mtim.tv_sec &&
      now.st_mtim.tv_nsec == before_.st_mtim.tv_nsec)
    return;
  const struct timespec times[2] = {{0, UTIME_OMIT}, before_.st_mtim};
  futimens(fd_, times);
}

}  // namespace pcache
