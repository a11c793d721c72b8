// SPDX-License-Identifier: GPL-2.0-or-later
#include "micro/scratch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "pmem/persist_copy.h"

namespace pcache::micro {

namespace {

// An empty file in `dir`, open.
int scratch_file(const std::string& dir, uint64_t size_bytes, std::string* path) {
  *path = dir + "/pcache-microbench-XXXXXX";
  const int fd = mkstemp(path->data());
  if (fd < 0) die("cannot make a file in " + dir + ": " + strerror(errno));
  if (ftruncate(fd, static_cast<off_t>(size_bytes)) == 0) return fd;
  const int error = errno;
  unlink(path->c_str());
  die("cannot extend a file in " + dir + ": " + strerror(error));
}

thread_local Issued t_issued;

struct Counter {
  static void store(std::byte* dst, const void* src, size_t len) { memcpy(dst, src, len); }
  template <Flush>
  static bool flush(std::byte*) {
    t_issued.flushes++;
    return true;
  }
  static void stream_words(std::byte* dst, const std::byte* src, size_t words) {
    memcpy(dst, src, words * kWordBytes);
  }
  template <Stream>
  static void stream(std::byte* dst, const std::byte* src, size_t lines) {
    memcpy(dst, src, lines * kLineBytes);
  }
};

}  // namespace

Places& places() {
  static Places the_places;
  return the_places;
}

void die(const std::string& text) {
  fprintf(stderr, "pcache-microbench: %s\n", text.c_str());
  exit(2);
}

ScratchMemory::ScratchMemory(uint64_t size_bytes, uint64_t touched_bytes) : size_(size_bytes) {
  touched_bytes = std::min(touched_bytes, size_bytes);
  std::string path;
  const int fd = scratch_file(places().pmem_dir, size_bytes, &path);
  unlink(path.c_str());
  // Now, and not as SIGBUS in the middle of a measurement.
  const int error = touched_bytes ? posix_fallocate(fd, 0, static_cast<off_t>(touched_bytes)) : 0;
  if (error)
    die(places().pmem_dir + " has no room for " + std::to_string(touched_bytes >> 20) +
        " MiB: " + strerror(error) + "; --pmem_dir= names another place");
  void* mapped =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  close(fd);
  if (mapped == MAP_FAILED) die("cannot map " + path + ": " + strerror(errno));
  base_ = static_cast<std::byte*>(mapped);
  memset(base_, 0, touched_bytes);
}

ScratchMemory::~ScratchMemory() { munmap(base_, size_); }

std::unique_ptr<BlockDevice> scratch_backing(uint64_t size_bytes) {
  BlockDeviceOptions options;
  close(scratch_file(places().backing_dir, size_bytes, &options.path));
  auto device = open_block_device(options, Log());
  unlink(options.path.c_str());
  if (!device) die(device.error().text + "; --backing_dir= names another place");
  return device.take();
}

std::vector<uint64_t> random_offsets(size_t count, uint64_t span, uint64_t step) {
  std::mt19937_64 random(count);
  std::vector<uint64_t> offsets(count);
  for (uint64_t& off : offsets) off = random() % (span / step) * step;
  return offsets;
}

std::vector<const PersistOps*> usable_methods() {
  std::vector<const PersistOps*> usable;
  for (const PersistOps& ops : persist_methods())
    if (ops.supported()) usable.push_back(&ops);
  return usable;
}

const PersistOps* method(const std::string& name) {
  auto found = find_persist_method(name);
  if (!found) die(found.error().text);
  return found.value();
}

const PersistOps* counting(const std::string& name) {
  static const auto all = [] {
    std::array<PersistOps, kPersistCopies<Counter>.size()> ops{};
    for (size_t i = 0; i < ops.size(); i++)
      ops[i] = {kPersistCopies<Counter>[i].name, kPersistCopies<Counter>[i].copy,
                [](void*) { t_issued.fences++; }, [] { return true; },
                [](void*) { t_issued.fences++; }};
    return ops;
  }();
  for (const PersistOps& ops : all)
    if (name == ops.name) return &ops;
  return nullptr;
}

Issued issued() { return t_issued; }
void forget_issued() { t_issued = {}; }

}  // namespace pcache::micro
