// SPDX-License-Identifier: GPL-2.0-or-later
// PowerLoss: the states of both media that a power failure can leave, at every point of a trace.
//
// Of pmem: all that is fenced, and any subset of the 8-byte words that are stored and not fenced,
// since the CPU may evict any line at any time, word by word. Of the backing device: all that is
// flushed, and any subset of the sectors written since.
//
// Of several processes over one pmem each makes durable what it has stored itself, and of what
// others have stored that alone whose lines it has flushed since. A flush takes the line's present
// content, be it stored or streamed: what is seen of a streaming store has left the CPU that made
// it. What a killed process has not fenced stays pending, until it is flushed or overwritten.
//
// Few words: every subset. More: none, all, each store alone and all but it, every subset of whole
// stores while those are few, and random ones. If only one medium has something pending, all its
// subsets are tried; if both have, each pmem state is joined with none, all and a random part of
// the sectors.
//
// Points are before each fence, device flush and mark, and at the end: stores in between are in the
// subsets of the next point.
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

// Empty, or the place of a missing order that the code relies on: persist.h asks for a fence
// between two stores to one place, and of two writes to one sector that are in flight at once a
// device may do either last.
std::string missing_order(const Trace& trace);

// Sectors of the backing device that differ from its first content: number, and 512 bytes.
using Sectors = std::map<uint64_t, const std::byte*>;

struct CrashPoint {
  size_t event = 0;    // the first event that did not happen
  uint64_t state = 0;  // number of the state among those of this point
  // Of both media: equal states of one base have equal hashes. For the identity block, which has
  // random numbers and the time, it depends only on which words are there.
  uint64_t hash = 0;
  const Sectors& device;
};

class PowerLoss {
 public:
  struct Options {
    size_t exhaustive_words = 7;    // up to so many: all subsets
    size_t exhaustive_stores = 5;   // up to so many: all subsets of whole stores
    size_t samples = 12;            // and so many random subsets
    size_t most_points = SIZE_MAX;  // about so many, chosen at random
    // Not nullptr: the points before these events instead.
    std::function<bool(size_t event)> wanted = nullptr;
    bool each_alone = true;  // where not all subsets: each store or sector alone, and all but it
    uint64_t seed = 1;
    bool device_lies = false;  // its flush does nothing
    uint64_t hash = 0;         // of the state when the trace began
  };
  // `memory` as it was when the trace began; during a visit it has that state. `device`: the
  // sectors at that time; their bytes must outlive this.
  PowerLoss(UndoMemory& memory, const Trace& trace, Sectors device, const Options& options);

  // The states at the points behind `from` (events). Afterwards memory is as after the whole trace.
  // `visit` must leave the memory as it found it.
  using Visit = std::function<void(const CrashPoint& point)>;
  void walk(size_t from, const Visit& visit);

  // After walk(): a power failure at the end of the trace. Leaves its state in memory, and returns
  // the device's.
  enum class Survive { kNothing, kSome, kAll };  // of what was pending
  Sectors lose_power(Survive survive);

  uint64_t points() const { return points_; }
  // The hash of what is durable now.
  uint64_t hash() const { return hash_; }

 private:
  struct Maker {
    uint32_t process, thread;
  };
  struct Word {
    uint64_t off;
    size_t bytes_at;
    uint32_t len;
    uint32_t store;  // which of the pending stores
    Maker maker;
    bool flushed;                       // by who stored it
    std::vector<Maker> also_flushed{};  // by others
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
  void fence(const TraceEvent& event);
  void flush_lines(const TraceEvent& event);
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
  uint64_t hash_;  // of what is durable on both media
  uint64_t points_ = 0;
  uint64_t state_ = 0;
  bool changed_ = true;  // since the last point, so there are new states
};

}  // namespace pcache
