// SPDX-License-Identifier: GPL-2.0-or-later
// Seqlock: a value of several words that one thread at a time replaces, and that any thread reads
// whole without a lock. A reader never delays the writer.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <optional>
#include <type_traits>

namespace pcache {

template <typename T>
class Seqlock {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(uint64_t) == 0);

 public:
  explicit Seqlock(const T& value) { store(value); }

  // One thread at a time.
  void store(const T& value) {
    const auto words = std::bit_cast<Words>(value);
    const uint64_t sequence = sequence_.load(std::memory_order_relaxed);
    sequence_.store(sequence + 1, std::memory_order_relaxed);
    // Release: who reads one of them sees the odd sequence, too.
    for (size_t i = 0; i < kWords; i++) words_[i].store(words[i], std::memory_order_release);
    sequence_.store(sequence + 2, std::memory_order_release);
  }

  // Any thread. Nothing: each attempt met a store() under way; its thread may have been preempted.
  std::optional<T> try_load() const {
    for (int attempt = 0; attempt < kAttempts; attempt++) {
      const uint64_t before = sequence_.load(std::memory_order_acquire);
      Words words;
      for (size_t i = 0; i < kWords; i++) words[i] = words_[i].load(std::memory_order_acquire);
      if (before % 2 != 0 || sequence_.load(std::memory_order_relaxed) != before) continue;
      return std::bit_cast<T>(words);
    }
    return std::nullopt;
  }

 private:
  static constexpr int kAttempts = 64;
  static constexpr size_t kWords = sizeof(T) / sizeof(uint64_t);
  using Words = std::array<uint64_t, kWords>;

  std::atomic<uint64_t> sequence_{0};
  std::array<std::atomic<uint64_t>, kWords> words_{};
};

}  // namespace pcache
