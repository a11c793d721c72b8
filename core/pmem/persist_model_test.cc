// SPDX-License-Identifier: GPL-2.0-or-later
// The persist methods, instruction by instruction: what copy() stores is durable after the next
// fence, for any length and alignment; nothing else is stored, and no flush is superfluous. The
// simulated pmem relies on this.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "pmem/persist_copy.h"

namespace pcache {
namespace {

struct Instruction {
  enum Kind { kStore, kFlush, kStream } kind;
  const std::byte* at;
  size_t len;
};
std::vector<Instruction> g_done;

struct Recorder {
  static void store(std::byte* dst, const void* src, size_t len) {
    memcpy(dst, src, len);
    g_done.push_back({Instruction::kStore, dst, len});
  }
  template <Flush>
  static bool flush(std::byte* line, [[maybe_unused]] const CodeSite& site = CodeSite::current()) {
#ifdef PCACHE_MUTANTS
    if (mutants::flush_left_out(site)) return true;
#endif
    g_done.push_back({Instruction::kFlush, line, kLineBytes});
    return true;
  }
  static void stream_words(std::byte* dst, const std::byte* src, size_t words) {
    if (words == 0) return;
    ASSERT_EQ(reinterpret_cast<uintptr_t>(dst) % kWordBytes, 0u);
    ASSERT_LT(words, kLineBytes / kWordBytes) << "whole lines are streamed as such";
    memcpy(dst, src, words * kWordBytes);
    g_done.push_back({Instruction::kStream, dst, words * kWordBytes});
  }
  template <Stream>
  static void stream(std::byte* dst, const std::byte* src, size_t lines) {
    if (lines == 0) return;
    ASSERT_EQ(reinterpret_cast<uintptr_t>(dst) % kLineBytes, 0u) << "streams are of whole lines";
    memcpy(dst, src, lines * kLineBytes);
    g_done.push_back({Instruction::kStream, dst, lines * kLineBytes});
  }
};

constexpr auto& kMethods = kPersistCopies<Recorder>;

alignas(4096) std::byte g_memory[4096];

enum class State : uint8_t {
  kUntouched,
  kInCache,
  kOnItsWay
};  // kOnItsWay: the fence waits for it

// The state of each byte at a fence behind all instructions but number `without`.
std::vector<State> states(size_t without = SIZE_MAX) {
  std::vector<State> states(sizeof g_memory, State::kUntouched);
  for (size_t i = 0; i < g_done.size(); i++) {
    if (i == without) continue;
    const auto first = static_cast<size_t>(g_done[i].at - g_memory);
    for (size_t at = first; at < first + g_done[i].len; at++) switch (g_done[i].kind) {
        case Instruction::kStore:
          states[at] = State::kInCache;
          break;
        case Instruction::kStream:
          states[at] = State::kOnItsWay;
          break;
        case Instruction::kFlush:
          if (states[at] == State::kInCache) states[at] = State::kOnItsWay;
      }
  }
  return states;
}

bool durable(const std::vector<State>& states, size_t first, size_t len) {
  for (size_t at = 0; at < states.size(); at++)
    if (states[at] != (at >= first && at < first + len ? State::kOnItsWay : State::kUntouched))
      return false;
  return true;
}

void copy(const NamedCopy& method, size_t at, size_t len) {
  static std::byte source[sizeof g_memory];
  for (size_t i = 0; i < sizeof source; i++) source[i] = std::byte(i * 7 + len);
  g_done.clear();
  memset(g_memory, 0, sizeof g_memory);
  method.copy(nullptr, g_memory + at, source, len);
  ASSERT_EQ(memcmp(g_memory + at, source, len), 0);
}

TEST(PersistModel, WhatIsCopiedIsDurableAfterTheFence) {
  for (const NamedCopy& method : kMethods)
    for (size_t len = 0; len <= 700; len++)
      for (size_t at = 128; at < 128 + kLineBytes; at++) {
        ASSERT_NO_FATAL_FAILURE(copy(method, at, len));
        ASSERT_TRUE(durable(states(), at, len)) << method.name << " +" << at << " len " << len;
      }
}

TEST(PersistModel, EveryInstructionIsNeeded) {
  size_t flushes = 0;
  for (const NamedCopy& method : kMethods)
    for (size_t len : {1, 8, 24, 64, 65, 256, 257, 320, 511, 700})
      for (size_t at : {128, 129, 136, 160, 191}) {
        ASSERT_NO_FATAL_FAILURE(copy(method, at, len));
        for (size_t i = 0; i < g_done.size(); i++) {
          EXPECT_FALSE(durable(states(i), at, len))
              << method.name << " +" << at << " len " << len << " without number " << i;
          flushes += g_done[i].kind == Instruction::kFlush;
        }
      }
  EXPECT_GT(flushes, 500u);
}

}  // namespace
}  // namespace pcache
