// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/place.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "sweep/fio_value.h"
#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

// What a blank device has at its start: no identity, no superblock, no tails (on-media format).
constexpr uint64_t kFrameBytes = 20 << 10;

// With every block there: no case pays for the first touch.
void make_file(const std::string& path, uint64_t bytes) {
  const int fd = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0) throw Wrong("cannot make " + path + ": " + strerror(errno));
  const std::vector<char> zeros(4 << 20);
  int error = 0;
  for (uint64_t at = 0; at < bytes && !error;) {
    const ssize_t n = write(fd, zeros.data(), std::min<uint64_t>(zeros.size(), bytes - at));
    if (n > 0) at += static_cast<uint64_t>(n);
    if (n < 0 && errno != EINTR) error = errno;
  }
  if (!error && fsync(fd) != 0 && errno != EINVAL) error = errno;
  close(fd);
  if (error) throw Wrong("cannot fill " + path + " (" + size_of(bytes) + "): " + strerror(error));
}

void need_room(const std::string& folder, uint64_t bytes) {
  struct statvfs fs;
  if (statvfs(folder.c_str(), &fs) != 0) throw Wrong(folder + ": " + strerror(errno));
  const uint64_t free_bytes = fs.f_bavail * uint64_t{fs.f_frsize};
  if (free_bytes < bytes)
    throw Wrong(
        folder + ": " + std::to_string(bytes >> 20) + " MiB are needed, " +
        std::to_string(free_bytes >> 20) +
        " MiB are free; --cache-dir and --backing-dir "
        "name other places; in a spec cache_size and working_set make it smaller, of a trace "
        "cache_share, block_bytes and requests");
}

}  // namespace

void LocalPlace::hold_given(const PlaceOptions& options, uint64_t cache_bytes,
                            uint64_t backing_bytes, const std::map<std::string, uint64_t>& paths) {
  need_whole("--cache-dev", options.cache_dev);
  need_whole("--backing", options.backing);
  need_whole("--cache-dir", options.cache_dir, Scratch::kMostBelow);
  need_whole("--backing-dir", options.backing_dir, Scratch::kMostBelow);
  if (!options.cache_dev.empty()) hold(options.cache_dev, Device::kCache, cache_bytes, options);
  if (!options.backing.empty()) hold(options.backing, Device::kBacking, backing_bytes, options);
  for (const auto& [path, bytes] : paths) hold(path, Device::kBacking, bytes, options);
}

void LocalPlace::check(const PlaceOptions& options, uint64_t cache_bytes, uint64_t backing_bytes,
                       const std::map<std::string, uint64_t>& paths) {
  LocalPlace place;
  place.hold_given(options, cache_bytes, backing_bytes, paths);
  if (options.cache_dev.empty()) need_room(options.cache_dir, cache_bytes);
  if (options.backing.empty()) need_room(options.backing_dir, backing_bytes);
}

LocalPlace::LocalPlace(const PlaceOptions& options, uint64_t cache_bytes, uint64_t backing_bytes,
                       const std::map<std::string, uint64_t>& paths) {
  hold_given(options, cache_bytes, backing_bytes, paths);
  if (options.cache_dev.empty()) {
    Scratch::remove_left_over(options.cache_dir);
    need_room(options.cache_dir, cache_bytes);
    scratch_cache_ = std::make_unique<Scratch>(options.cache_dir);
    make_file(cache_ = scratch_cache_->file("cache"), cache_bytes);
    emulated_ = true;
  } else {
    cache_ = options.cache_dev;
  }
  if (options.backing.empty()) {
    Scratch::remove_left_over(options.backing_dir);
    need_room(options.backing_dir, backing_bytes);
    scratch_backing_ = std::make_unique<Scratch>(options.backing_dir);
    make_file(backing_ = scratch_backing_->file("backing"), backing_bytes);
  } else {
    backing_ = options.backing;
  }
}

// A block device may be the backing device and that of a path: they are measured by turns. The
// cache device is nothing besides.
void LocalPlace::hold(const std::string& path, Device::Use use, uint64_t least_bytes,
                      const PlaceOptions& options) {
  for (const auto& device : devices_) {
    if (!device->is(path)) continue;
    if (device->use() == Device::kCache)
      throw Wrong(path + ": is the cache device, too (" + options.cache_dev +
                  "); give two devices");
    return;
  }
  devices_.push_back(std::make_unique<Device>(path, use, least_bytes, options.overwrite));
}

// The next blank_cache() makes it anew.
void LocalPlace::begin_round() const {
  if (scratch_cache_ && unlink(cache_.c_str()) != 0 && errno != ENOENT)
    throw Wrong("cannot remove " + cache_ + ": " + strerror(errno));
}

// By a mapping, since a devdax device cannot be written to; of 2 MiB, since it is mapped in large
// pages.
void LocalPlace::blank_cache(uint64_t cache_bytes) const {
  struct stat is;
  if (scratch_cache_ &&
      (stat(cache_.c_str(), &is) != 0 || static_cast<uint64_t>(is.st_size) != cache_bytes))
    make_file(cache_, cache_bytes);
  constexpr size_t kMapped = 2 << 20;
  const int fd = open(cache_.c_str(), O_RDWR | O_CLOEXEC);
  void* mapped = MAP_FAILED;
  // As the library does: a cache that runs on it is not to lose its ground.
  if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
    mapped = mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int error = errno;
  if (mapped != MAP_FAILED) {
    memset(mapped, 0, kFrameBytes);
    munmap(mapped, kMapped);
  }
  if (fd >= 0) close(fd);
  if (mapped == MAP_FAILED) throw Wrong(cache_ + ": cannot be blanked: " + strerror(error));
}

}  // namespace pcache::sweep
