// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/persist.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "pmem/cpu.h"
#include "pmem/persist_copy.h"

namespace pcache {

namespace {

// From here on 64-byte vectors stream faster than 32-byte ones (64 KiB: 6.8 us against 7.5), below
// slower (4 KiB and a fence: 750 ns against 700).
constexpr size_t kWideLines = 32768 / kLineBytes;

// Assembly and not intrinsics: no target attribute is needed, so they can be inlined everywhere.
// The clobber keeps the compiler from moving a store to the line behind the line's flush.
template <Flush flush>
inline void flush_line(std::byte* line) {
  if constexpr (flush == Flush::kClwb)
    asm volatile("clwb %0" : "+m"(*line)::"memory");
  else if constexpr (flush == Flush::kClflushopt)
    asm volatile("clflushopt %0" : "+m"(*line)::"memory");
  else
    asm volatile("clflush %0" : "+m"(*line)::"memory");
}

void stream_lines_sse2(std::byte* dst, const std::byte* src, size_t lines) {
  for (; lines > 0; lines--, dst += kLineBytes, src += kLineBytes) {
    auto* to = reinterpret_cast<__m128i*>(dst);
    const auto* from = reinterpret_cast<const __m128i*>(src);
    const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
}

[[gnu::target("avx2")]] void stream_lines_avx2(std::byte* dst, const std::byte* src, size_t lines) {
  for (; lines >= 2; lines -= 2, dst += 2 * kLineBytes, src += 2 * kLineBytes) {
    auto* to = reinterpret_cast<__m256i*>(dst);
    const auto* from = reinterpret_cast<const __m256i*>(src);
    const __m256i a = _mm256_loadu_si256(from), b = _mm256_loadu_si256(from + 1);
    const __m256i c = _mm256_loadu_si256(from + 2), d = _mm256_loadu_si256(from + 3);
    _mm256_stream_si256(to, a);
    _mm256_stream_si256(to + 1, b);
    _mm256_stream_si256(to + 2, c);
    _mm256_stream_si256(to + 3, d);
  }
  if (lines > 0) stream_lines_sse2(dst, src, lines);
}

[[gnu::target("avx512f")]] void stream_lines_avx512(std::byte* dst, const std::byte* src,
                                                    size_t lines) {
  if (lines < kWideLines) return stream_lines_avx2(dst, src, lines);
  for (; lines > 0; lines--, dst += kLineBytes, src += kLineBytes)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(dst), _mm512_loadu_si512(src));
}

[[gnu::target("movdir64b")]] void stream_lines_movdir64b(std::byte* dst, const std::byte* src,
                                                         size_t lines) {
  for (; lines > 0; lines--, dst += kLineBytes, src += kLineBytes) _movdir64b(dst, src);
}

void stream_words_sse2(std::byte* dst, const std::byte* src, size_t words) {
  for (; words > 0; words--, dst += kWordBytes, src += kWordBytes) {
    long long word;
    memcpy(&word, src, sizeof word);
    _mm_stream_si64(reinterpret_cast<long long*>(dst), word);
  }
}

struct Cpu {
  static void store(std::byte* dst, const void* src, size_t len) { memcpy(dst, src, len); }
  template <Flush method>
  static void flush(std::byte* line) {
    flush_line<method>(line);
  }
  static void stream_words(std::byte* dst, const std::byte* src, size_t words) {
    stream_words_sse2(dst, src, words);
  }
  template <Stream method>
  static void stream(std::byte* dst, const std::byte* src, size_t lines) {
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

// Best first. clflushopt and not clwb where both exist: what flushcache writes is not read soon,
// and a 64-byte record at a random place took 143 ns with it, 258 with clwb (equal on other CPUs
// and for appends).
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
  // Until it is measured, the one that every x86-64 CPU has and that keeps the cache free of data
  // nobody reads soon.
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

}  // namespace pcache
