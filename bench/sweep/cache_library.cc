// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/cache_library.h"

#include <dlfcn.h>

#include <cstring>

#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

constexpr const char* kAbi = "PCACHE_2";  // of pcache.h; see core/capi/ABI.md

}  // namespace

template <typename Function>
void CacheLibrary::find(Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(dlvsym(handle_, name, kAbi));
  if (!function)
    throw Wrong(path_ + ": has no " + name +
                "(); expected a libpcache.so with the C ABI of this build");
}

CacheLibrary::CacheLibrary(const std::string& path)
    : path_(path), handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (!handle_) throw Wrong(dlerror());
  find(options_init, "pcache_options_init_sized");
  find(options_set, "pcache_options_set");
  find(open, "pcache_open");
  find(close, "pcache_close");
  find(queue_create, "pcache_queue_create");
  find(queue_destroy, "pcache_queue_destroy");
  find(submit, "pcache_submit");
}

OpenCache::OpenCache(const CacheLibrary& library, std::span<const Option> options)
    : library_(library) {
  pcache_error error = {};
  const auto need = [&](int result) {
    if (result < 0) throw Wrong(library.path_ + ": " + error.text);
  };
  pcache_options all;
  library.options_init(&all, sizeof all);
  for (const auto& [name, text] : options)
    need(library.options_set(&all, name, text.c_str(), &error));
  need(library.open(&all, &cache_, &error));
  const int made = library.queue_create(cache_, 1, &queue_, &error);
  if (made < 0) library.close(cache_, nullptr);
  need(made);
}

OpenCache::~OpenCache() {
  library_.queue_destroy(queue_);
  library_.close(cache_, nullptr);
}

void OpenCache::do_each(uint32_t op, std::span<const uint64_t> offsets, uint64_t len_bytes,
                        void* buffer) {
  pcache_request request = {};
  request.op = op;
  request.len = len_bytes;
  request.buf = buffer;
  for (const uint64_t off : offsets) {
    request.off = off;
    const int submitted = library_.submit(queue_, &request);
    if (submitted != 1 || request.result != 0) fail(submitted, request.result);
  }
}

void OpenCache::fail(int submitted, int result) {
  library_.queue_destroy(std::exchange(queue_, nullptr));  // waits for what is in flight
  if (submitted == 0) throw Wrong(library_.path_ + ": a request is no hit");
  const int error = submitted < 0 ? submitted : result;
  throw Wrong(library_.path_ + ": a request failed: " + strerror(-error));
}

}  // namespace pcache::sweep
