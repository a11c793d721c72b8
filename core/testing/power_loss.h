// SPDX-License-Identifier: GPL-2.0-or-later
// PowerLoss: the states of both media that a loss of power can leave, at every point of a trace.
//
// Of pmem: everything fenced, and of what was stored and is not fenced yet any subset of 8-byte
// words, since the CPU's cache may evict any line at any time and a line is written in words. Of
// the backing device: everything flushed, and of the writes since then any subset of sectors.
//
// Few words: every subset. More: none, all, each store alone and all but it, every subset of whole
// stores while those are few, and random ones. Where only one medium has something pending its
// subsets are gone through; where both have, each pmem state is joined with none, all and a random
// part of the sectors.
//
// Points are before each fence, device flush and mark, and at the end: what is stored in between
// is in the subsets of the next one.
#pragma once

#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>
#include <unordered_set>

#include "testing/trace.h"
#include "testing/undo_memory.h"

namespace pcache {

// Empty, or where an order that the code counts on is missing: persist.h asks for a fence between
// two stores to one place, and of two writes to one sector that are under way at once a device may
// do either one last.
std::string missing_order(const Trace& trace);

// Sectors of the backing device that differ from its first content: number, and 512 bytes.
using Sectors = std::map<uint64_t, const std::byte*>;

struct CrashPoint {
  size_t event = 0;    // the first that did not happen
  uint64_t state = 0;  // number of the state among those of this point
  // Of both media: equal states of one base have equal ones. Of the identity block, which has
  // random numbers and the time in it, only which words are there.
  uint64_t hash = 0;
  const Sectors& device;
};

class PowerLoss {
 public:
  struct Options {
    size_t exhaustive_words = 7;    // up to here all subsets
    size_t exhaustive_stores = 5;   // up to here all subsets of whole stores
    size_t samples = 12;            // random subsets besides
    size_t most_points = SIZE_MAX;  // about so many, chosen at random
    uint64_t seed = 1;
    bool device_lies = false;  // its flush does nothing
    uint64_t hash = 0;         // of the state when the trace began
  };
  // `memory` as it was when the trace began; while a state is visited it holds that state.
  // `device`: the sectors at that time, whose bytes outlive this.
  PowerLoss(UndoMemory& memory, const Trace& trace, Sectors device, const Options& options);

  // The states at the points behind `from` (events); memory ends as the media are, all told, at
  // the end of the trace. `visit` must leave the memory as it found it.
  using Visit = std::function<void(const CrashPoint& point)>;
  void walk(size_t from, const Visit& visit);

  // After walk(): the power goes at the end of the trace. Leaves in memory the state that is left,
  // and returns the device's.
  enum class Survive { kNothing, kSome, kAll };  // of what was pending
  Sectors lose_power(Survive survive);

  uint64_t points() const { return points_; }
  // Of what is durable now.
  uint64_t hash() const { return hash_; }

 private:
  struct Word {
    uint64_t off;
    size_t bytes_at;
    uint32_t len;
    uint32_t store;  // which of the pending stores
    uint32_t thread;
    bool flushed;
  };
  struct Sector {
    uint64_t number;
    size_t bytes_at;
    uint64_t write;
    bool done = false;
    std::set<uint64_t> covered_by{};  // flushes under way
    bool given_up = false;            // a flush that covered it has failed
  };
  using Mask = std::vector<bool>;

  void add_store(const TraceEvent& event);
  void fence(const std::function<bool(uint32_t thread)>& fenced);
  void add_device_write(const TraceEvent& event);
  void end_device_write(uint64_t write);
  void begin_device_flush(uint64_t flush);
  void end_device_flush(uint64_t flush, bool succeeded);
  void visit_states(size_t event, const Visit& visit);
  void visit_state(size_t event, const Mask& words, const Mask& sectors, const Visit& visit);
  std::vector<Mask> word_masks();
  std::vector<Mask> sector_masks(size_t with_words);
  void store_word(const Word& word, uint64_t* hash);
  uint64_t hash_of_word(uint64_t off) const;
  static void put(Sectors* device, uint64_t number, const std::byte* bytes, uint64_t* hash);

  UndoMemory& memory_;
  const Trace& trace_;
  Sectors device_;
  const Options options_;
  std::mt19937_64 random_;
  std::vector<Word> words_;
  std::vector<Sector> sectors_;
  uint32_t next_store_ = 0;
  uint64_t hash_;  // of what is durable, both media
  uint64_t points_ = 0;
  uint64_t state_ = 0;
  bool changed_ = true;  // since the last point: there is something new to see
};

}  // namespace pcache
