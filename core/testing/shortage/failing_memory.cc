// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/shortage/failing_memory.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace pcache {

bool failing_memory::fails() {
  if (!t_armed) return false;
  const uint64_t n = t_seen++;
  if (n < t_pass || n - t_pass >= t_fail) return false;
  t_failed++;
  return true;
}

FailingMemory::FailingMemory(uint64_t pass, uint64_t fail) {
  failing_memory::t_pass = pass;
  failing_memory::t_fail = fail;
  failing_memory::t_seen = failing_memory::t_failed = 0;
  failing_memory::t_armed = true;
}

}  // namespace pcache

extern "C" {
void* __real_aligned_alloc(size_t align, size_t size);
char* __real_strdup(const char* text);

void* __wrap_aligned_alloc(size_t align, size_t size) {
  if (!pcache::failing_memory::fails()) return __real_aligned_alloc(align, size);
  errno = ENOMEM;
  return nullptr;
}

char* __wrap_strdup(const char* text) {
  if (!pcache::failing_memory::fails()) return __real_strdup(text);
  errno = ENOMEM;
  return nullptr;
}
}

namespace {

void* allocate(std::size_t size) noexcept {
  return pcache::failing_memory::fails() ? nullptr : malloc(size > 0 ? size : 1);
}

void* allocate(std::size_t size, std::align_val_t align) noexcept {
  const auto a = static_cast<std::size_t>(align);
  return pcache::failing_memory::fails()
             ? nullptr
             : __real_aligned_alloc(a, (size + a - 1) / a * a + (size > 0 ? 0 : a));
}

void* or_throw(void* p) {
  if (!p) throw std::bad_alloc();
  return p;
}

}  // namespace

// NOLINTBEGIN: every form of operator new and delete
void* operator new(std::size_t n) { return or_throw(allocate(n)); }
void* operator new[](std::size_t n) { return or_throw(allocate(n)); }
void* operator new(std::size_t n, std::align_val_t a) { return or_throw(allocate(n, a)); }
void* operator new[](std::size_t n, std::align_val_t a) { return or_throw(allocate(n, a)); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return allocate(n); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return allocate(n); }
void* operator new(std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, a);
}
void* operator new[](std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, a);
}
void operator delete(void* p) noexcept { free(p); }
void operator delete[](void* p) noexcept { free(p); }
void operator delete(void* p, std::size_t) noexcept { free(p); }
void operator delete[](void* p, std::size_t) noexcept { free(p); }
void operator delete(void* p, std::align_val_t) noexcept { free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { free(p); }
void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept { free(p); }
void operator delete[](void* p, std::align_val_t, const std::nothrow_t&) noexcept { free(p); }
// NOLINTEND
