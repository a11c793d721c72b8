// SPDX-License-Identifier: GPL-2.0-or-later
// Opening is a list of steps over one Mapping. ~Mapping() undoes what the steps took or changed,
// until keep(). The steps check the path first, then take the lock, and only then change the file.
#include "pmem/pmem.h"

#include <fcntl.h>
#include <libpmem2.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <optional>

#include "pmem/checked_copy.h"
#include "pmem/file_space.h"
#include "pmem/prefault.h"

namespace pcache {

static constexpr uint64_t kPageSize = 4096;

const char* pmem_kind_name(PmemKind kind) {
  switch (kind) {
    case PmemKind::kDevdax:
      return "devdax";
    case PmemKind::kFsdax:
      return "fsdax";
    case PmemKind::kEmulated:
      return "emulated";
    case PmemKind::kSimulated:
      return "simulated";
    case PmemKind::kBlock:
      return "block device";
  }
  return "?";
}

struct Pmem::Mapping {
  Mapping(const PmemOptions& options, const Log& log) : opt(options), messages(log) {}
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // In the order of the calls. open_file() may create the file, those from extend() on change it.
  Status check_options();
  Status open_file();
  Status lock();
  Status check_growth();
  Status look();
  Status extend();
  Status map();
  Status allow_stores();
  Status allocate_holes();
  Status make_pages();

  const char* path() const { return opt.path.c_str(); }
  bool on_tmpfs() const;
  bool wants_pages() const { return !opt.read_only && !opt.keep_sparse && on_tmpfs(); }
  bool grows() const { return may_grow && opt.create_bytes > static_cast<uint64_t>(st.st_size); }
  Status new_map(struct pmem2_source* source, struct pmem2_config* config);
  std::byte* base() const {
    return pmem_map ? static_cast<std::byte*>(pmem2_map_get_address(pmem_map)) : nullptr;
  }
  uint64_t size() const { return pmem_map ? pmem2_map_get_size(pmem_map) : 0; }

  void warn_if_emulated() const;

  const PmemOptions opt;
  const Log messages;
  const PersistOps* ops = nullptr;
  int fd = -1;
  struct stat st = {};
  bool locked = false;             // without the lock nothing is changed or undone
  bool created = false;            // by us: removed again if a later step fails
  bool may_grow = true;            // to opt.create_bytes
  bool writable = false;           // mapped for stores
  bool kept = false;               // ~Mapping() undoes nothing any more
  std::optional<FileSpace> space;  // of a regular file that is opened for writing
  struct pmem2_map* pmem_map = nullptr;
  PmemKind kind = PmemKind::kEmulated;
  std::unique_ptr<Prefault> prefaulting;
};

Pmem::Mapping::~Mapping() {
  prefaulting.reset();
  if (pmem_map) pmem2_map_delete(&pmem_map);
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

Status Pmem::Mapping::new_map(struct pmem2_source* source, struct pmem2_config* config) {
  size_t size = 0, alignment = 0;
  if (int rc = pmem2_source_size(source, &size)) return pmem2_error(rc, path(), "size");
  if (int rc = pmem2_source_alignment(source, &alignment))
    return pmem2_error(rc, path(), "alignment");
  const size_t length = size - size % alignment;
  if (length == 0)
    return make_error(
        EINVAL,
        "cache device %s: has %zu bytes, at least %zu are needed to map it; give it a "
        "size (emulated files: cache_size=BYTES)",
        path(), size, alignment);

  const pmem2_granularity needed =
      opt.emulate ? PMEM2_GRANULARITY_PAGE : PMEM2_GRANULARITY_CACHE_LINE;
  const unsigned protection = PMEM2_PROT_READ | (writable ? PMEM2_PROT_WRITE : 0);
  int rc = pmem2_config_set_required_store_granularity(config, needed);
  if (rc == 0) rc = pmem2_config_set_length(config, length);
  if (rc == 0) rc = pmem2_config_set_protection(config, protection);
  if (rc == 0) rc = pmem2_map_new(&pmem_map, config, source);
  if (rc == PMEM2_E_GRANULARITY_NOT_SUPPORTED) return not_dax(path());
  if (rc != 0) return pmem2_error(rc, path(), "cannot be mapped");
  return {};
}

Status Pmem::Mapping::map() {
  PCACHE_CHECK(fd >= 0 && pmem_map == nullptr);
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
    mapped = new_map(source, config);
  pmem2_config_delete(&config);
  pmem2_source_delete(&source);
  if (!mapped) return mapped;

  const bool page_cache = pmem2_map_get_store_granularity(pmem_map) == PMEM2_GRANULARITY_PAGE;
  if (S_ISCHR(st.st_mode))
    kind = PmemKind::kDevdax;
  else
    kind = page_cache || kernel_denies_dax(fd) ? PmemKind::kEmulated : PmemKind::kFsdax;
  if (kind == PmemKind::kEmulated && !opt.emulate) return not_dax(path());
  return {};
}

// Makes a mapping for reading writable; if the file grows it makes a new one.
Status Pmem::Mapping::allow_stores() {
  PCACHE_CHECK(locked && !opt.read_only);
  writable = true;
  if (!grows() && mprotect(base(), size(), PROT_READ | PROT_WRITE) != 0)
    return error_errno(errno, "cache device %s: cannot be mapped for writing", path());
  if (!grows()) return {};
  if (pmem_map) pmem2_map_delete(&pmem_map);
  return map();
}

Status Pmem::Mapping::allocate_holes() {
  return space && !opt.keep_sparse ? space->fill() : Status();
}

Status Pmem::Mapping::make_pages() {
  PCACHE_CHECK(writable || opt.read_only);
  if (opt.prefault && wants_pages()) Prefault(base(), size()).run();
  return {};
}

void Pmem::Mapping::warn_if_emulated() const {
  if (kind == PmemKind::kEmulated)
    messages.print(LogLevel::kWarning,
                   "cache device %s: emulated pmem: the memory is the page cache, writes do not "
                   "survive power loss",
                   path());
}

Result<std::unique_ptr<Pmem>> Pmem::open(const PmemOptions& options, const Log& log) {
  struct stat st;
  if (options.block_device && stat(options.path.c_str(), &st) == 0 && S_ISBLK(st.st_mode))
    return open_block(options.path, options.read_only);
  auto mapping = std::make_unique<Mapping>(options, log);
  using Step = Status (Mapping::*)();
  for (const Step step : {&Mapping::check_options, &Mapping::open_file, &Mapping::lock,
                          &Mapping::check_growth, &Mapping::look})
    if (Status status = (mapping.get()->*step)(); !status) return status.error();
  const bool is_ready = !options.provisional || options.read_only;
  if (is_ready) {
    mapping->writable = !options.read_only;
    for (const Step step :
         {&Mapping::extend, &Mapping::map, &Mapping::allocate_holes, &Mapping::make_pages})
      if (Status status = (mapping.get()->*step)(); !status) return status.error();
  } else if (!mapping->grows() || static_cast<uint64_t>(mapping->st.st_size) >= kPageSize) {
    if (Status status = mapping->map(); !status) return status.error();
  }
  if (mapping->pmem_map) mapping->warn_if_emulated();
  std::unique_ptr<Pmem> pmem(new Pmem(std::move(mapping)));
  if (is_ready) pmem->keep();  // last: no memory for it is a failed open, too
  return pmem;
}

Status Pmem::make_ready(bool extend) {
  if (!mapping_ || mapping_->kept) return {};
  mapping_->may_grow = extend;
  using Step = Status (Mapping::*)();
  for (const Step step :
       {&Mapping::extend, &Mapping::allow_stores, &Mapping::allocate_holes, &Mapping::make_pages})
    if (Status status = (mapping_.get()->*step)(); !status) return status.error();
  if (!base_) mapping_->warn_if_emulated();
  if (const uint64_t bad = bad_pages_->count(); bad > 0)  // which a new mapping would forget
    return make_error(EIO, "%s: media error: %llu pages went bad while it was looked at", path(),
                      static_cast<unsigned long long>(bad));
  if (base_ != mapping_->base() || size_ != mapping_->size())
    bad_pages_ = std::make_unique<BadPages>(mapping_->base(), mapping_->size());
  base_ = mapping_->base();
  size_ = mapping_->size();
  kind_ = mapping_->kind;
  return {};
}

void Pmem::keep() {
  PCACHE_CHECK(!mapping_ || mapping_->writable || mapping_->opt.read_only);
  if (mapping_) mapping_->kept = true;
}

uint64_t Pmem::size_when_ready() const {
  if (!mapping_ || mapping_->kept || !mapping_->grows()) return size_;
  return mapping_->opt.create_bytes / kPageSize * kPageSize;
}

Result<bool> Pmem::starts_with_zeros(uint64_t len_bytes) const {
  constexpr size_t kAtOnce = 4096;
  char piece[kAtOnce];
  const auto zeros = [&](size_t n) {
    return std::all_of(piece, piece + n, [](char c) { return c == 0; });
  };
  const uint64_t mapped = std::min(len_bytes, size_);
  for (uint64_t at = 0; at < mapped; at += kAtOnce) {
    const size_t n = std::min<uint64_t>(kAtOnce, mapped - at);
    if (!load(piece, MediaOff{at}, n))
      return make_error(EIO, "media error in the first %llu bytes of the cache device",
                        static_cast<unsigned long long>(len_bytes));
    if (!zeros(n)) return false;
  }
  if (!mapping_ || mapped == len_bytes || !S_ISREG(mapping_->st.st_mode)) return true;
  // The file's last part, less than a page, is not in the mapping.
  const ssize_t n =
      pread(mapping_->fd, piece, std::min(kAtOnce, len_bytes - mapped), static_cast<off_t>(mapped));
  if (n < 0) return error_errno(errno, "the cache device cannot be read");
  return zeros(static_cast<size_t>(n));
}

bool Pmem::is_there(PmemSide side) const {
  if (!mapping_) return false;
  struct flock byte = {};
  byte.l_type = F_WRLCK;
  byte.l_whence = SEEK_SET;
  byte.l_start = side == PmemSide::kBackend ? kBackendByte : kFrontByte;
  byte.l_len = 1;
  return fcntl(mapping_->fd, F_OFD_GETLK, &byte) == 0 && byte.l_type != F_UNLCK;
}

void Pmem::flush_seen(MediaOff off, size_t len_bytes, [[maybe_unused]] const CodeSite& site) const {
  PCACHE_DCHECK(len_bytes <= size_ && off.v <= size_ - len_bytes);
#ifdef PCACHE_MUTANTS
  if (mutants::flush_left_out(site)) return;
#endif
  if (ops_->flush)
    ops_->flush(ctx_, base_ + off.v, len_bytes);
  else if (kind_ != PmemKind::kSimulated)  // else there is no other process
    flush_lines(base_ + off.v, len_bytes);
}

void Pmem::persist_seen(MediaOff off, size_t len_bytes, const CodeSite& site) const {
  flush_seen(off, len_bytes, site);
#ifdef PCACHE_MUTANTS
  if (mutants::fence_left_out(site)) return;
#endif
  ops_->fence(ctx_);
}

Pmem::Pmem(std::unique_ptr<Mapping> mapping)
    : base_(mapping->base()),
      size_(mapping->size()),
      ops_(mapping->ops),
      kind_(mapping->kind),
      mapping_(std::move(mapping)),
      bad_pages_(std::make_unique<BadPages>(base_, size_)) {
  install_checked_copy_handler();
}

Pmem::Pmem(std::byte* base, uint64_t size_bytes, const PersistOps* ops, void* ctx)
    : base_(base),
      size_(size_bytes),
      ops_(ops),
      ctx_(ctx),
      bad_pages_(std::make_unique<BadPages>(base, size_bytes)) {
  install_checked_copy_handler();
}

Pmem::~Pmem() = default;

const char* Pmem::path() const { return mapping_ ? mapping_->path() : "(memory)"; }

bool Pmem::readable(MediaOff off, uint64_t len_bytes) const {
  if (bad_pages_->contain(off.v, len_bytes)) return false;
  std::byte buffer[kPageBytes];
  while (len_bytes > 0) {
    const auto n = static_cast<size_t>(std::min<uint64_t>(len_bytes, sizeof buffer));
    if (!load(buffer, off, n)) return false;
    off = off + n;
    len_bytes -= n;
  }
  return true;
}

std::optional<MediaOff> Pmem::first_bad_page(MediaOff off, uint64_t len_bytes) const {
  const auto first = bad_pages_->first_in(off.v, len_bytes);
  return first ? std::optional(MediaOff{*first}) : std::nullopt;
}

std::optional<uint64_t> Pmem::cut_to_bytes() const {
  struct stat now;
  if (!mapping_ || !S_ISREG(mapping_->st.st_mode) || fstat(mapping_->fd, &now) != 0)
    return std::nullopt;
  const auto bytes = static_cast<uint64_t>(now.st_size);
  return bytes < size_ ? std::optional(bytes) : std::nullopt;
}

void Pmem::prefault_beside() try {
  if (!mapping_ || !mapping_->wants_pages()) return;
  PCACHE_CHECK(mapping_->kept && !mapping_->prefaulting);
  mapping_->prefaulting = std::make_unique<Prefault>(base_, size_);
  mapping_->prefaulting->start();
} catch (const std::bad_alloc&) {
  // Then page faults make the pages.
}

uint64_t Pmem::next_data(uint64_t from) const {
  if (!mapping_ || !S_ISREG(mapping_->st.st_mode) || from >= size_) return std::min(from, size_);
  const off_t at = lseek(mapping_->fd, static_cast<off_t>(from), SEEK_DATA);
  if (at < 0) return errno == ENXIO ? size_ : from;
  return std::min(static_cast<uint64_t>(at), size_);
}

Status Pmem::reserve(MediaOff off, uint64_t len_bytes) {
  PCACHE_CHECK(len_bytes <= size_ && off.v <= size_ - len_bytes);
  return mapping_ && mapping_->space ? mapping_->space->reserve(off.v, len_bytes) : Status();
}

}  // namespace pcache
