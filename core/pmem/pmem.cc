// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/pmem.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "pmem/checked_copy.h"
#include "pmem/mapping.h"

namespace pcache {

namespace {

constexpr uint64_t kPageSize = 4096;

}  // namespace

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

Result<std::unique_ptr<Pmem>> Pmem::open(const PmemOptions& options, const Log& log) {
  struct stat st;
  if (options.block_device && stat(options.path.c_str(), &st) == 0 && S_ISBLK(st.st_mode))
    return open_block(options.path, options.read_only);
  auto mapping = std::make_unique<Mapping>(options, log);
  using Step = Status (Mapping::*)();
  for (const Step step : {&Mapping::check_options, &Mapping::open_file, &Mapping::lock,
                          &Mapping::check_growth, &Mapping::look, &Mapping::take_room})
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
  if (!mapping->maps.empty()) mapping->warn_if_emulated();
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
    bad_pages_ = std::make_unique<BadPages>(mapping_->base(), mapping_->size(),
                                            std::max(mapping_->size(), mapping_->room_bytes));
  base_ = mapping_->base();
  size_ = mapping_->size();
  most_bytes_ = mapping_->room_bytes;
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
  const uint64_t mapped = std::min(len_bytes, size_bytes());
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

bool Pmem::is_there(PmemSide side) const { return mapping_ && mapping_->is_there(side); }

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
      most_bytes_(mapping->room_bytes),
      ops_(mapping->ops),
      kind_(mapping->kind),
      mapping_(std::move(mapping)),
      bad_pages_(std::make_unique<BadPages>(base_, size_, base_ ? most_bytes() : 0)) {
  install_checked_copy_handler();
}

Pmem::Pmem(std::byte* base, uint64_t size_bytes, const PersistOps* ops, void* ctx,
           uint64_t most_bytes)
    : base_(base),
      size_(size_bytes),
      most_bytes_(most_bytes),
      ops_(ops),
      ctx_(ctx),
      bad_pages_(std::make_unique<BadPages>(base, size_bytes, this->most_bytes())) {
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

uint64_t Pmem::file_bytes() const {
  struct stat now;
  if (!mapping_ || !S_ISREG(mapping_->st.st_mode) || fstat(mapping_->fd, &now) != 0) return size_;
  return static_cast<uint64_t>(now.st_size);
}

std::optional<uint64_t> Pmem::cut_to_bytes() const {
  const uint64_t size = size_, bytes = file_bytes();
  return bytes < size ? std::optional(bytes) : std::nullopt;
}

Status Pmem::grow(uint64_t size_bytes) {
  PCACHE_CHECK(size_bytes <= most_bytes());
  const uint64_t before = size_, size = size_bytes / kPageSize * kPageSize;
  if (size <= before) return {};
  if (auto grown = bad_pages_->grow(size); !grown) return grown;
  if (mapping_)
    if (auto grown = mapping_->grow(size_bytes); !grown) return grown;
  size_.grow(size);
  if (mapping_ && mapping_->wants_pages() &&
      (mapping_->opt.prefault || !mapping_->prefaulting.empty()))
    mapping_->prefault(before);
  return {};
}

void Pmem::prefault_beside() {
  if (!mapping_ || !mapping_->wants_pages()) return;
  PCACHE_CHECK(mapping_->kept && mapping_->prefaulting.empty());
  mapping_->prefault(0);
}

uint64_t Pmem::huge_bytes() const {
  return mapping_ ? mapping_->huge_bytes.load(std::memory_order_relaxed) : 0;
}

uint64_t Pmem::next_data(uint64_t from) const {
  if (!mapping_ || !S_ISREG(mapping_->st.st_mode) || from >= size_bytes())
    return std::min(from, size_bytes());
  const off_t at = lseek(mapping_->fd, static_cast<off_t>(from), SEEK_DATA);
  if (at < 0) return errno == ENXIO ? size_bytes() : from;
  return std::min(static_cast<uint64_t>(at), size_bytes());
}

Status Pmem::reserve(MediaOff off, uint64_t len_bytes) {
  PCACHE_CHECK(len_bytes <= size_ && off.v <= size_ - len_bytes);
  return mapping_ && mapping_->space ? mapping_->space->reserve(off.v, len_bytes) : Status();
}

}  // namespace pcache
