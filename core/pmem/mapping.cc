// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/mapping.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>

namespace pcache {

namespace {

constexpr uint64_t kPageSize = 4096;
// To which a file may grow while it is mapped. It is address space alone.
constexpr uint64_t kRoomTimes = 4, kLeastRoomBytes = uint64_t{256} << 30;
// Of huge pages. libpmem2 aligns a map, but no reservation, and a kernel before 6.7 neither.
constexpr uint64_t kAlignBytes = 2 << 20;

}  // namespace

Pmem::Mapping::~Mapping() {
  prefaulting.clear();
  unmap();
  if (fd < 0) return;
  const bool undo = locked && !kept;
  if (undo && created)
    unlink(path());
  else if (undo && space)
    space->restore();
  close(fd);  // also drops the lock
}

namespace {

// nullptr for what can be mapped: regular files and character devices.
const char* unmappable_type(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
    case S_IFCHR:
      return nullptr;
    case S_IFDIR:
      return "a directory";
    case S_IFBLK:
      return "a block device, which cannot be mapped";
    case S_IFSOCK:
      return "a socket";
    case S_IFIFO:
      return "a FIFO";
    default:
      return "neither a file nor a device";
  }
}

Error cannot_open(const char* path, int code, bool read_only) {
  Error error = error_errno(code, "cache device %s: cannot be opened for %s", path,
                            read_only ? "reading" : "writing");
  if (!read_only && (code == EACCES || code == EPERM || code == EROFS))
    error.text += ": make it writable, or only read it, with readonly=1";
  return error;
}

// Asks the kernel, because an environment variable can make libpmem2 say otherwise.
bool kernel_denies_dax(int fd) {
  struct statx stx;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx) != 0) return false;
  return (stx.stx_attributes_mask & STATX_ATTR_DAX) && !(stx.stx_attributes & STATX_ATTR_DAX);
}

Error not_dax(const char* path) {
  return make_error(EINVAL,
                    "cache device %s: the file is not on a DAX file system: its memory is the page "
                    "cache, which does not survive power loss; use a devdax device or a file on a "
                    "file system mounted with -o dax, or take it all the same with emulate_pmem=1",
                    path);
}

// libpmem2's codes are negative errnos, or its own from PMEM2_E_UNKNOWN down.
Error pmem2_error(int code, const char* path, const char* what) {
  return make_error(code > PMEM2_E_UNKNOWN ? -code : EINVAL, "cache device %s: %s: %s", path, what,
                    pmem2_errormsg());
}

}  // namespace

Status Pmem::Mapping::check_options() {
  Result<const PersistOps*> method = find_persist_method(opt.persist);
  if (!method) return method.error();
  ops = method.value();
  if (opt.create_bytes > 0 && !opt.emulate)
    return make_error(EINVAL,
                      "cache device %s: cache_size makes or extends emulated files only; add "
                      "emulate_pmem=1 or leave cache_size out",
                      path());
  return {};
}

Status Pmem::Mapping::open_file() {
  const int access = opt.read_only ? O_RDONLY : O_RDWR;
  if (opt.create_bytes > 0 && !opt.read_only) {
    fd = ::open(path(), access | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    created = fd >= 0;
    if (fd < 0 && errno != EEXIST)
      return error_errno(errno, "cache device %s: cannot create the file", path());
  }
  if (fd < 0) {
    // Checked first: to open a FIFO may wait, and to open a device may have effects.
    if (stat(path(), &st) != 0) {
      if (errno == ENOENT && opt.read_only)
        return make_error(ENOENT, "cache device %s: no such file or device", path());
      if (errno == ENOENT)
        return make_error(ENOENT,
                          "cache device %s: no such file or device; to make an emulated one give "
                          "its size with cache_size=BYTES and emulate_pmem=1",
                          path());
      return error_errno(errno, "cache device %s: cannot be opened", path());
    }
    if (const char* type = unmappable_type(st.st_mode))
      return make_error(EINVAL,
                        "cache device %s: is %s; give a devdax device (ndctl create-namespace "
                        "--mode=devdax makes one of pmem), or a file on a file system mounted "
                        "with -o dax",
                        path(), type);
    fd = ::open(path(), access | O_CLOEXEC);
    if (fd < 0) return cannot_open(path(), errno, opt.read_only);
  }
  return {};
}

namespace {

constexpr off_t kFrontByte = off_t{1} << 62, kBackendByte = kFrontByte + 1;

}  // namespace

// flock() keeps those out that want the device alone; a lock of a byte for each side, far behind
// the device's end, two of one side. A reader takes both bytes, since the sides store.
Status Pmem::Mapping::lock() {
  const bool shares = opt.read_only || opt.side != PmemSide::kAlone;
  const auto in_use = [this](const char* by) {
    return make_error(EBUSY, "cache device %s: in use: %s", path(), by);
  };
  if (flock(fd, (shares ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return in_use("another process, or another open in this one, has it; close that one first");
    return error_errno(errno, "cache device %s: cannot be locked", path());
  }
  if (shares) {
    struct flock bytes = {};
    bytes.l_type = opt.side == PmemSide::kAlone ? F_RDLCK : F_WRLCK;
    bytes.l_whence = SEEK_SET;
    bytes.l_start = opt.side == PmemSide::kBackend ? kBackendByte : kFrontByte;
    bytes.l_len = opt.side == PmemSide::kAlone ? 2 : 1;
    if (fcntl(fd, F_OFD_SETLK, &bytes) != 0) {
      if (errno != EAGAIN && errno != EACCES)
        return error_errno(errno, "cache device %s: cannot be locked", path());
      return in_use(opt.side == PmemSide::kAlone   ? "a front or a backend has it; end that first"
                    : opt.side == PmemSide::kFront ? "another front has it, or a reader"
                                                   : "another backend has it, or a reader");
    }
  }
  // The last owner of the lock may have changed or removed the file: it is examined again.
  struct stat now;
  if (fstat(fd, &st) != 0) return error_errno(errno, "cache device %s: fstat", path());
  if (stat(path(), &now) != 0 || now.st_dev != st.st_dev || now.st_ino != st.st_ino)
    return make_error(
        EBUSY, "cache device %s: was removed or replaced while it was opened; try again", path());
  locked = true;
  return {};
}

bool Pmem::Mapping::is_there(PmemSide side) const {
  struct flock byte = {};
  byte.l_type = F_WRLCK;
  byte.l_whence = SEEK_SET;
  byte.l_start = side == PmemSide::kBackend ? kBackendByte : kFrontByte;
  byte.l_len = 1;
  return fcntl(fd, F_OFD_GETLK, &byte) == 0 && byte.l_type != F_UNLCK;
}

bool Pmem::Mapping::on_tmpfs() const {
  struct statfs fs;
  return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

Status Pmem::Mapping::check_growth() {
  if (opt.create_bytes == 0) return {};
  if (!S_ISREG(st.st_mode))
    return make_error(
        EINVAL, "cache device %s: a device cannot be made larger; leave cache_size out", path());
  if (opt.create_bytes > static_cast<uint64_t>(INT64_MAX))
    return make_error(EINVAL, "cache device %s: cache_size %" PRIu64 " is larger than any file",
                      path(), opt.create_bytes);
  if (opt.create_bytes <= static_cast<uint64_t>(st.st_size)) return {};  // never made smaller
  if (opt.read_only)
    return make_error(EINVAL,
                      "cache device %s: has %" PRIu64
                      " bytes, and with readonly=1 it is not made "
                      "larger, as cache_size=%" PRIu64 " asks: leave cache_size out",
                      path(), static_cast<uint64_t>(st.st_size), opt.create_bytes);
  return {};
}

// Notes the state of the file, which comes back if the file is not kept.
Status Pmem::Mapping::look() {
  PCACHE_CHECK(locked && !space);
  if (S_ISREG(st.st_mode) && !opt.read_only) space.emplace(fd, opt.path);
  return {};
}

Status Pmem::Mapping::extend() {
  PCACHE_CHECK(!grows() || (locked && space));
  return grows() ? space->extend(opt.create_bytes) : Status();
}

// Without room the mapping cannot grow, and all else goes on. Where address space is limited
// (ulimit -v) none is taken: others need it now.
Status Pmem::Mapping::take_room() {
  if (!opt.with_room || opt.read_only || !S_ISREG(st.st_mode)) return {};
  struct rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return {};
  const uint64_t bytes = std::max(static_cast<uint64_t>(st.st_size), opt.create_bytes);
  if (bytes > UINT64_MAX / (2 * kRoomTimes)) return {};
  const uint64_t most = std::max(kRoomTimes * bytes, kLeastRoomBytes) / kPageSize * kPageSize;
  room = AddressRoom::take(most + kAlignBytes);
  if (!room) return {};
  room_bytes = most;
  const auto at = reinterpret_cast<uintptr_t>(pmem2_vm_reservation_get_address(room.get()));
  room_off = (kAlignBytes - at % kAlignBytes) % kAlignBytes;
  return {};
}

// Maps the file, up to `most_bytes`, behind what is mapped of it.
Status Pmem::Mapping::new_map(struct pmem2_source* source, struct pmem2_config* config,
                              uint64_t most_bytes) {
  size_t size = 0, alignment = 0;
  if (int rc = pmem2_source_size(source, &size)) return pmem2_error(rc, path(), "size");
  if (int rc = pmem2_source_alignment(source, &alignment))
    return pmem2_error(rc, path(), "alignment");
  const uint64_t end = std::min<uint64_t>(size, most_bytes) / alignment * alignment;
  if (end <= mapped_bytes)
    return make_error(
        EINVAL,
        "cache device %s: has %zu bytes, at least %zu are needed to map it; give it a "
        "size (emulated files: cache_size=BYTES)",
        path(), size, alignment);

  const pmem2_granularity needed =
      opt.emulate ? PMEM2_GRANULARITY_PAGE : PMEM2_GRANULARITY_CACHE_LINE;
  const unsigned protection = PMEM2_PROT_READ | (writable ? PMEM2_PROT_WRITE : 0);
  struct pmem2_map* made = nullptr;
  int rc = pmem2_config_set_required_store_granularity(config, needed);
  if (rc == 0) rc = pmem2_config_set_offset(config, mapped_bytes);
  if (rc == 0) rc = pmem2_config_set_length(config, end - mapped_bytes);
  if (rc == 0) rc = pmem2_config_set_protection(config, protection);
  if (rc == 0 && room)
    rc = pmem2_config_set_vm_reservation(config, room.get(), room_off + mapped_bytes);
  if (rc == 0) rc = pmem2_map_new(&made, config, source);
  if (rc == PMEM2_E_GRANULARITY_NOT_SUPPORTED) return not_dax(path());
  if (rc != 0) return pmem2_error(rc, path(), "cannot be mapped");
  maps.push_back(made);
  mapped_bytes += pmem2_map_get_size(made);
  return {};
}

Status Pmem::Mapping::map_up_to(uint64_t most_bytes) {
  maps.reserve(maps.size() + 1);  // it may throw, and below nothing may
  struct pmem2_source* source = nullptr;
  struct pmem2_config* config = nullptr;
  if (int rc = pmem2_source_from_fd(&source, fd)) {
    if (S_ISCHR(st.st_mode))
      return make_error(EINVAL,
                        "cache device %s: is a character device, but not a devdax one; expected "
                        "/dev/daxX.Y or a file",
                        path());
    return pmem2_error(rc, path(), "not usable as pmem");
  }
  Status mapped;
  if (int rc = pmem2_config_new(&config))
    mapped = pmem2_error(rc, path(), "cannot be mapped");
  else
    mapped = new_map(source, config, most_bytes);
  pmem2_config_delete(&config);
  pmem2_source_delete(&source);
  return mapped;
}

void Pmem::Mapping::unmap_last() {
  if (pmem2_map_delete(&maps.back()) != 0) room.abandon();
  maps.pop_back();
}

void Pmem::Mapping::unmap() {
  while (!maps.empty()) unmap_last();
  mapped_bytes = 0;
}

Status Pmem::Mapping::map() {
  PCACHE_CHECK(fd >= 0 && maps.empty());
  if (Status mapped = map_up_to(UINT64_MAX); !mapped) return mapped;
  const bool page_cache = pmem2_map_get_store_granularity(maps.front()) == PMEM2_GRANULARITY_PAGE;
  if (S_ISCHR(st.st_mode))
    kind = PmemKind::kDevdax;
  else
    kind = page_cache || kernel_denies_dax(fd) ? PmemKind::kEmulated : PmemKind::kFsdax;
  if (kind == PmemKind::kEmulated && !opt.emulate) return not_dax(path());
  return {};
}

Status Pmem::Mapping::grow(uint64_t size_bytes) {
  PCACHE_CHECK(kept && writable && room && size_bytes <= room_bytes);
  FileSpace more(fd, opt.path);
  if (auto grown = more.grow(mapped_bytes, size_bytes); !grown) return grown;
  const uint64_t before = mapped_bytes;
  Status mapped = map_up_to(size_bytes);
  if (mapped && mapped_bytes < size_bytes / kPageSize * kPageSize) {
    mapped = make_error(EINVAL, "cache device %s: was cut to %" PRIu64 " bytes while it grew",
                        path(), mapped_bytes);
    unmap_last();
    mapped_bytes = before;
  }
  if (!mapped) more.cut();
  return mapped;
}

// Makes a mapping for reading writable; if the file grows it makes a new one.
Status Pmem::Mapping::allow_stores() {
  PCACHE_CHECK(locked && !opt.read_only);
  writable = true;
  if (!grows() && mprotect(base(), size(), PROT_READ | PROT_WRITE) != 0)
    return error_errno(errno, "cache device %s: cannot be mapped for writing", path());
  if (!grows()) return {};
  unmap();
  return map();
}

Status Pmem::Mapping::allocate_holes() {
  return space && !opt.keep_sparse ? space->fill() : Status();
}

Status Pmem::Mapping::make_pages() {
  PCACHE_CHECK(writable || opt.read_only);
  if (opt.prefault && wants_pages()) pages_from(0)->run();
  return {};
}

std::unique_ptr<Prefault> Pmem::Mapping::pages_from(uint64_t from) {
  return std::make_unique<Prefault>(base() + from, size() - from,
                                    opt.huge_pages ? &huge_bytes : nullptr);
}

// Of all that is mapped, in a thread of its own.
void Pmem::Mapping::prefault(uint64_t from) try {
  prefaulting.push_back(pages_from(from));
  prefaulting.back()->start();
} catch (const std::bad_alloc&) {
  // Then page faults make the pages.
}

void Pmem::Mapping::warn_if_emulated() const {
  if (kind == PmemKind::kEmulated)
    messages.print(LogLevel::kWarning,
                   "cache device %s: emulated pmem: the memory is the page cache, writes do not "
                   "survive power loss",
                   path());
}

}  // namespace pcache
