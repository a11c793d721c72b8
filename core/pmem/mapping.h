// SPDX-License-Identifier: GPL-2.0-or-later
// Pmem::Mapping: a cache file or devdax device, locked and mapped, for pmem.cc alone.
//
// Opening is a list of steps over one Mapping. ~Mapping() undoes what the steps took or changed,
// until keep(). The steps check the path first, then take the lock, and only then change the file.
#pragma once

#include <libpmem2.h>
#include <sys/stat.h>

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "pmem/address_room.h"
#include "pmem/file_space.h"
#include "pmem/pmem.h"
#include "pmem/prefault.h"

namespace pcache {

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
  Status take_room();
  Status extend();
  Status map();
  Status allow_stores();
  Status allocate_holes();
  Status make_pages();
  void prefault(uint64_t from);
  std::unique_ptr<Prefault> pages_from(uint64_t from);

  const char* path() const { return opt.path.c_str(); }
  bool is_there(PmemSide side) const;
  bool on_tmpfs() const;
  bool wants_pages() const { return !opt.read_only && !opt.keep_sparse && on_tmpfs(); }
  bool grows() const { return may_grow && opt.create_bytes > static_cast<uint64_t>(st.st_size); }
  Status new_map(struct pmem2_source* source, struct pmem2_config* config, uint64_t most_bytes);
  Status map_up_to(uint64_t most_bytes);
  void unmap();
  void unmap_last();
  Status grow(uint64_t size_bytes);
  std::byte* base() const {
    return maps.empty() ? nullptr : static_cast<std::byte*>(pmem2_map_get_address(maps.front()));
  }
  uint64_t size() const { return mapped_bytes; }

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
  AddressRoom room;                // in which the maps are, one behind the other
  uint64_t room_bytes = 0;
  uint64_t room_off = 0;  // of the first map in it
  std::vector<struct pmem2_map*> maps;
  uint64_t mapped_bytes = 0;
  PmemKind kind = PmemKind::kEmulated;
  std::atomic<uint64_t> huge_bytes{0};
  std::vector<std::unique_ptr<Prefault>> prefaulting;
};

}  // namespace pcache
