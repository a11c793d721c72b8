// SPDX-License-Identifier: GPL-2.0-or-later
// CacheLibrary: the libpcache.so of a build, loaded by its path. Several can be loaded at the same
// time, each with its own code and state; their C ABI is the same (core/capi/ABI.md).
// OpenCache: a cache that one of them has open, with a queue, for what is complete when it is
// submitted.
// One thread. What fails throws Wrong.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "pcache.h"

namespace pcache::sweep {

class CacheLibrary {
 public:
  // It stays loaded to the end of the process.
  explicit CacheLibrary(const std::string& path);

 private:
  friend class OpenCache;
  template <typename Function>
  void find(Function*& function, const char* name);

  std::string path_;
  void* handle_;
  decltype(pcache_options_init_sized)* options_init;
  decltype(pcache_options_set)* options_set;
  decltype(pcache_open)* open;
  decltype(pcache_close)* close;
  decltype(pcache_queue_create)* queue_create;
  decltype(pcache_queue_destroy)* queue_destroy;
  decltype(pcache_submit)* submit;
};

class OpenCache {
 public:
  using Option = std::pair<const char*, std::string>;
  // `library` outlives it.
  OpenCache(const CacheLibrary& library, std::span<const Option> options);
  ~OpenCache();
  OpenCache(const OpenCache&) = delete;
  OpenCache& operator=(const OpenCache&) = delete;

  // A request of `len_bytes` at each of the offsets, one after the other, of or to `buffer`. `op`
  // of enum pcache_op. After a
  // Wrong nothing is in flight, and nothing more can be done.
  void do_each(uint32_t op, std::span<const uint64_t> offsets, uint64_t len_bytes, void* buffer);

 private:
  [[noreturn]] void fail(int submitted, int result);

  const CacheLibrary& library_;
  pcache_cache* cache_ = nullptr;
  pcache_queue* queue_ = nullptr;
};

}  // namespace pcache::sweep
