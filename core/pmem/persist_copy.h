// SPDX-License-Identifier: GPL-2.0-or-later
// How the persist methods combine stores, streaming stores and flushes. The instruction set is a
// template parameter, so that a test can watch each instruction (persist_model_test.cc) at no cost
// for the library.
//
// Isa:
//   store(dst, src, len)           through the cache: durable once its lines are flushed and fenced
//   flush<Flush>(line)             writes a line of the cache back; false: its page is bad
//   stream<Stream>(dst, src, n)    n whole lines past the cache: durable once fenced
//   stream_words(dst, src, n)      n words of 8 bytes, aligned: the same
//   fence()
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "base/mutants.h"
#include "pmem/cpu.h"

namespace pcache {

// flushcache stores and flushes records of up to this size, and streams longer ones. Appended with
// a fence each (ns, flushed / streamed): 64 B 112/173, 128 B 116/178, 256 B 145/184, 320 B 167/187,
// 384 B 187/188; at random places: 64 B 212/280, 256 B 293/324, 384 B 361/339. Without fences
// streaming wins from 128 B on, but such copies are rare. (Xeon; for AMD see
// store_words_streaming().)
inline constexpr size_t kStoreAndFlushBytes = 256;

inline constexpr size_t kWordBytes = 8;

enum class Flush { kClflush, kClflushopt, kClwb };
enum class Stream { kSse2, kAvx2, kAvx512, kMovdir64b };

// Copies all, then flushes: to alternate by 1..16 KiB made 64 KiB and more 10-60 % slower.
template <typename Isa, Flush flush>
void store_and_flush(void*, std::byte* dst, const void* src, size_t len) {
  if (len == 0) return;
  Isa::store(dst, src, len);
  std::byte* const end = dst + len;
  for (std::byte* line = dst - reinterpret_cast<uintptr_t>(dst) % kLineBytes; line < end;
       line += kLineBytes)
    if (!Isa::template flush<flush>(line)) return;
}

// Streams whole lines, and stores the partial ones at the ends through the cache: to stream a
// partial line is a read-modify-write on the media, and 8-byte streams are the slowest of all.
template <typename Isa, Stream stream, Flush flush, size_t small_bytes>
void store_streaming(void* ctx, std::byte* dst, const void* src, size_t len) {
  if (len <= small_bytes) return store_and_flush<Isa, flush>(ctx, dst, src, len);
  const auto* from = static_cast<const std::byte*>(src);
  const size_t to_line_end = -reinterpret_cast<uintptr_t>(dst) % kLineBytes;
  const size_t head = std::min(len, to_line_end);
  const size_t lines = (len - head) / kLineBytes;
  const size_t middle_end = head + lines * kLineBytes;
  store_and_flush<Isa, flush>(ctx, dst, from, head);
  Isa::template stream<stream>(dst + head, from + head, lines);
  store_and_flush<Isa, flush>(ctx, dst + middle_end, from + middle_end, len - middle_end);
}

// Streams copies of whole words altogether. On AMD CPUs the next store to a line that was flushed
// reads it from memory again, and a log stores to each of its lines two or three times: 4 KiB and
// the records of a flush took 710 ns with clflushopt, 400 with clwb, 316 with streamed words (EPYC
// 9005).
template <typename Isa, Stream stream, Flush flush>
void store_words_streaming(void* ctx, std::byte* dst, const void* src, size_t len) {
  if ((reinterpret_cast<uintptr_t>(dst) | len) % kWordBytes != 0)
    return store_streaming<Isa, stream, flush, kStoreAndFlushBytes>(ctx, dst, src, len);
  const auto* from = static_cast<const std::byte*>(src);
  const size_t to_line_end = -reinterpret_cast<uintptr_t>(dst) % kLineBytes;
  const size_t head = std::min(len, to_line_end);
  const size_t lines = (len - head) / kLineBytes;
  const size_t middle_end = head + lines * kLineBytes;
  Isa::stream_words(dst, from, head / kWordBytes);
  Isa::template stream<stream>(dst + head, from + head, lines);
  Isa::stream_words(dst + middle_end, from + middle_end, (len - middle_end) / kWordBytes);
}

using PersistCopy = void (*)(void* ctx, std::byte* dst, const void* src, size_t len_bytes);

template <typename Isa, Stream stream, Flush flush = Flush::kClflushopt>
constexpr PersistCopy kFlushcache = store_streaming<Isa, stream, flush, kStoreAndFlushBytes>;
template <typename Isa, Stream stream>
constexpr PersistCopy kFlushcacheWords = store_words_streaming<Isa, stream, Flush::kClflushopt>;
// movdir64b stores whole lines at any length: it is one instruction and bypasses the cache.
template <typename Isa>
constexpr PersistCopy kMovdir64b = store_streaming<Isa, Stream::kMovdir64b, Flush::kClflushopt, 0>;

struct NamedCopy {
  const char* name;
  PersistCopy copy;
};
// All methods, for code that counts or records what they do.
template <typename Isa>
constexpr std::array<NamedCopy, 5> kPersistCopies = {{
    {"flushcache", kFlushcache<Isa, Stream::kAvx2>},
    {"flushcache-words", kFlushcacheWords<Isa, Stream::kAvx2>},
    {"clflushopt", store_and_flush<Isa, Flush::kClflushopt>},
    {"clwb", store_and_flush<Isa, Flush::kClwb>},
    {"movdir64b", kMovdir64b<Isa>},
}};

}  // namespace pcache
