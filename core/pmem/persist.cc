// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/persist.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "pmem/cpu.h"
#include "pmem/may_fault.h"
#include "pmem/persist_copy.h"

namespace pcache {

namespace {

// From here on 64-byte vectors stream faster than 32-byte ones (64 KiB: 6.8 us against 7.5), below
// that slower (4 KiB and a fence: 750 ns against 700).
constexpr size_t kWideLines = 32768 / kLineBytes;

// Assembly, not intrinsics: each may meet a bad page (may_fault.h), and without a target attribute
// they can be inlined everywhere. The clobber keeps the compiler from moving a store to the line
// behind the line's flush.
template <Flush flush>
inline bool flush_line(std::byte* line) {
  if constexpr (flush == Flush::kClwb)
    asm goto(PCACHE_MAY_FAULT_TO("clwb %0", "%l[lost]")::"m"(*line) : "memory" : lost);
  else if constexpr (flush == Flush::kClflushopt)
    asm goto(PCACHE_MAY_FAULT_TO("clflushopt %0", "%l[lost]")::"m"(*line) : "memory" : lost);
  else
    asm goto(PCACHE_MAY_FAULT_TO("clflush %0", "%l[lost]")::"m"(*line) : "memory" : lost);
  return true;
lost:
  return false;
}

// Stores one vector; jumps to `lost` if the page is bad.
#define PCACHE_STREAM(insn, constraint, dst, value)                                     \
  asm goto(PCACHE_MAY_FAULT_TO(insn " %1, %0", "%l[lost]")::"m"(dst), constraint(value) \
           : "memory"                                                                   \
           : lost)

// Assembly is not instrumented: this tells the sanitizers what it reads and writes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PCACHE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PCACHE_SANITIZED 1
#endif
#endif
#ifdef PCACHE_SANITIZED
extern "C" {
[[gnu::weak]] void __asan_loadN(const void* at, size_t len);
[[gnu::weak]] void __tsan_read_range(const void* at, size_t len);
[[gnu::weak]] void __tsan_write_range(void* at, size_t len);
}
void tell_sanitizers(std::byte* dst, const void* src, size_t len) {
  if (__asan_loadN) __asan_loadN(src, len);
  if (__tsan_read_range) __tsan_read_range(src, len);
  if (__tsan_write_range) __tsan_write_range(dst, len);
}
#else
inline void tell_sanitizers(std::byte*, const void*, size_t) {}
#endif

// Operands that need no alignment.
template <size_t n>
struct Bytes {
  std::byte bytes[n];
};
using AnyVector = __m128i_u;
typedef uint64_t AnyWord __attribute__((aligned(1), may_alias));

template <typename Vector>
inline Vector load_vector(const std::byte* from) {
  Vector v;
  memcpy(&v, from, sizeof v);
  return v;
}

inline void store_vector(std::byte* dst, const std::byte* src) {
  asm volatile(PCACHE_MAY_FAULT("movups %1, %0")
               : "=m"(*reinterpret_cast<AnyVector*>(dst))
               : "x"(load_vector<__m128i>(src)));
}

inline void store_word(std::byte* dst, const std::byte* src) {
  asm volatile(PCACHE_MAY_FAULT("movq %1, %0")
               : "=m"(*reinterpret_cast<AnyWord*>(dst))
               : "r"(load_vector<uint64_t>(src)));
}

// As memcpy(): the last vector, or word, ends at the end and may overlap the one before. From
// kStringBytes on the string instruction is as fast as any; it fetches each line that it stores to,
// as other stores do.
void store_through_cache(std::byte* dst, const std::byte* src, size_t len) {
  constexpr size_t kVectorBytes = sizeof(__m128i), kStringBytes = 1024;
  if (len >= kStringBytes) {
    asm volatile(PCACHE_MAY_FAULT("rep movsb") : "+D"(dst), "+S"(src), "+c"(len)::"memory");
  } else if (len >= kVectorBytes) {
    std::byte* const last = dst + (len - kVectorBytes);
    const std::byte* const last_from = src + (len - kVectorBytes);
    for (; dst < last; dst += kVectorBytes, src += kVectorBytes) store_vector(dst, src);
    store_vector(last, last_from);
  } else if (len >= kWordBytes) {
    store_word(dst, src);
    store_word(dst + (len - kWordBytes), src + (len - kWordBytes));
  } else {
    for (; len > 0; len--, dst++, src++)
      asm volatile(PCACHE_MAY_FAULT("movb %1, %0") : "=m"(*dst) : "q"(*src));
  }
}

void stream_lines_sse2(std::byte* dst, const std::byte* src, size_t lines) {
  for (; lines > 0; lines--, dst += kLineBytes, src += kLineBytes) {
    auto* to = reinterpret_cast<__m128i*>(dst);
    const auto* from = reinterpret_cast<const __m128i*>(src);
    const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
    PCACHE_STREAM("movntdq", "x", to[0], a);
    PCACHE_STREAM("movntdq", "x", to[1], b);
    PCACHE_STREAM("movntdq", "x", to[2], c);
    PCACHE_STREAM("movntdq", "x", to[3], d);
  }
lost:
  return;
}

[[gnu::target("avx2")]] void stream_lines_avx2(std::byte* dst, const std::byte* src, size_t lines) {
  constexpr size_t kLines = 4;  // in one step of the loop
  for (const auto* const end = src + lines / kLines * kLines * kLineBytes; src != end;
       dst += kLines * kLineBytes, src += kLines * kLineBytes) {
    auto* to = reinterpret_cast<__m256i*>(dst);
    const auto* from = reinterpret_cast<const __m256i*>(src);
    const __m256i a = _mm256_loadu_si256(from), b = _mm256_loadu_si256(from + 1);
    const __m256i c = _mm256_loadu_si256(from + 2), d = _mm256_loadu_si256(from + 3);
    const __m256i e = _mm256_loadu_si256(from + 4), f = _mm256_loadu_si256(from + 5);
    const __m256i g = _mm256_loadu_si256(from + 6), h = _mm256_loadu_si256(from + 7);
    PCACHE_STREAM("vmovntdq", "x", to[0], a);
    PCACHE_STREAM("vmovntdq", "x", to[1], b);
    PCACHE_STREAM("vmovntdq", "x", to[2], c);
    PCACHE_STREAM("vmovntdq", "x", to[3], d);
    PCACHE_STREAM("vmovntdq", "x", to[4], e);
    PCACHE_STREAM("vmovntdq", "x", to[5], f);
    PCACHE_STREAM("vmovntdq", "x", to[6], g);
    PCACHE_STREAM("vmovntdq", "x", to[7], h);
  }
  if (lines % kLines != 0) stream_lines_sse2(dst, src, lines % kLines);
lost:
  return;
}

[[gnu::target("avx512f")]] void stream_lines_avx512(std::byte* dst, const std::byte* src,
                                                    size_t lines) {
  if (lines < kWideLines) return stream_lines_avx2(dst, src, lines);
  for (; lines > 0; lines--, dst += kLineBytes, src += kLineBytes) {
    const __m512i line = _mm512_loadu_si512(src);
    PCACHE_STREAM("vmovntdq", "v", *reinterpret_cast<__m512i*>(dst), line);
  }
lost:
  return;
}

void stream_lines_movdir64b(std::byte* dst, const std::byte* src, size_t lines) {
  for (; lines > 0; lines--, dst += kLineBytes, src += kLineBytes)
    asm goto(PCACHE_MAY_FAULT_TO("movdir64b %1, %0", "%l[lost]")::"r"(dst),
             "m"(*reinterpret_cast<const Bytes<kLineBytes>*>(src))
             : "memory"
             : lost);
lost:
  return;
}

void stream_words_sse2(std::byte* dst, const std::byte* src, size_t words) {
  for (; words > 0; words--, dst += kWordBytes, src += kWordBytes)
    asm volatile(PCACHE_MAY_FAULT("movnti %1, %0")
                 : "=m"(*reinterpret_cast<AnyWord*>(dst))
                 : "r"(load_vector<uint64_t>(src)));
}

[[maybe_unused]] bool is_multiple(const std::byte* at, size_t bytes) {
  return reinterpret_cast<uintptr_t>(at) % bytes == 0;
}

struct Cpu {
  static void store(std::byte* dst, const void* src, size_t len) {
    tell_sanitizers(dst, src, len);
    store_through_cache(dst, static_cast<const std::byte*>(src), len);
  }
  template <Flush method>
  static bool flush(std::byte* line) {
    PCACHE_DCHECK(is_multiple(line, kLineBytes));
    return flush_line<method>(line);
  }
  static void stream_words(std::byte* dst, const std::byte* src, size_t words) {
    PCACHE_DCHECK(is_multiple(dst, kWordBytes));
    tell_sanitizers(dst, src, words * kWordBytes);
    stream_words_sse2(dst, src, words);
  }
  template <Stream method>
  static void stream(std::byte* dst, const std::byte* src, size_t lines) {
    PCACHE_DCHECK(lines == 0 || is_multiple(dst, kLineBytes));
    tell_sanitizers(dst, src, lines * kLineBytes);
    if constexpr (method == Stream::kSse2)
      stream_lines_sse2(dst, src, lines);
    else if constexpr (method == Stream::kAvx2)
      stream_lines_avx2(dst, src, lines);
    else if constexpr (method == Stream::kAvx512)
      stream_lines_avx512(dst, src, lines);
    else
      stream_lines_movdir64b(dst, src, lines);
  }
};

void store_fence(void*) { _mm_sfence(); }

bool always() { return true; }
bool has_clflushopt() { return cpu_features().clflushopt; }
bool has_clwb() { return cpu_features().clwb; }
bool has_movdir64b() { return cpu_features().movdir64b && has_clflushopt(); }

bool has_avx512() { return cpu_features().avx512f && cpu_features().avx2 && has_clflushopt(); }
bool has_avx512_and_words() { return has_avx512() && cpu_features().amd; }
bool has_avx2() { return cpu_features().avx2 && has_clflushopt(); }
bool has_only_avx2() { return cpu_features().avx2; }

// Best first. clflushopt before clwb: data that flushcache writes is not read soon, and a 64-byte
// record at a random place took 143 ns with clflushopt, 258 with clwb (equal on other CPUs and for
// appends).
constexpr PersistOps kFlushcacheVariants[] = {
    {"flushcache-avx512-words", kFlushcacheWords<Cpu, Stream::kAvx512>, store_fence,
     has_avx512_and_words},
    {"flushcache-avx512", kFlushcache<Cpu, Stream::kAvx512>, store_fence, has_avx512},
    {"flushcache-avx2", kFlushcache<Cpu, Stream::kAvx2>, store_fence, has_avx2},
    {"flushcache-avx2-clflush", kFlushcache<Cpu, Stream::kAvx2, Flush::kClflush>, store_fence,
     has_only_avx2},
    {"flushcache-sse2", kFlushcache<Cpu, Stream::kSse2, Flush::kClflush>, store_fence, always},
};

PersistCopy best_flushcache() {
  return std::ranges::find_if(kFlushcacheVariants, [](const auto& v) { return v.supported(); })
      ->copy;
}

}  // namespace

std::span<const PersistOps> persist_methods() {
  static const std::array<PersistOps, 4> methods = {{
      {"flushcache", best_flushcache(), store_fence, always},
      {"clflushopt", store_and_flush<Cpu, Flush::kClflushopt>, store_fence, has_clflushopt},
      {"clwb", store_and_flush<Cpu, Flush::kClwb>, store_fence, has_clwb},
      {"movdir64b", kMovdir64b<Cpu>, store_fence, has_movdir64b},
  }};
  return methods;
}

std::span<const PersistOps> flushcache_variants() { return kFlushcacheVariants; }

Result<const PersistOps*> find_persist_method(std::string_view name) {
  // Until it is measured: every x86-64 CPU has flushcache, and it keeps data that is not read soon
  // out of the cache.
  if (name == kPersistAuto) name = "flushcache";
  std::string known = "auto";
  for (const PersistOps& ops : persist_methods()) {
    known.append(", ").append(ops.name);
    if (name != ops.name) continue;
    if (ops.supported()) return &ops;
    return make_error(ENOTSUP,
                      "persist=%s: this CPU does not have it; use persist=auto or persist=%s",
                      ops.name, persist_methods().front().name);
  }
  return make_error(EINVAL, "persist=%.*s: unknown method; use one of %s",
                    static_cast<int>(name.size()), name.data(), known.c_str());
}

// With the instruction that every CPU has: who follows another process flushes a kset at a time.
void flush_lines(const std::byte* at, size_t len_bytes) {
  if (len_bytes == 0) return;
  const auto first = reinterpret_cast<uintptr_t>(at) / kLineBytes * kLineBytes;
  const auto end = reinterpret_cast<uintptr_t>(at) + len_bytes;
  for (uintptr_t line = first; line < end; line += kLineBytes)
    (void)flush_line<Flush::kClflush>(reinterpret_cast<std::byte*>(line));
}

}  // namespace pcache
