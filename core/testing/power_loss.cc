// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/power_loss.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "base/ids.h"
#include "format/media.h"
#include "pmem/cpu.h"

namespace pcache {

namespace {

constexpr size_t kWordBytes = 8;

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// The hash of a state is the XOR of its words' hashes, so a change of a word updates it.
uint64_t hash_of(uint64_t off, const std::byte* bytes, size_t len) {
  uint64_t hash = mix(off * 2 + 1);
  for (size_t at = 0; at < len; at += kWordBytes) {
    uint64_t word = 0;
    memcpy(&word, bytes + at, std::min(kWordBytes, len - at));
    hash = mix(hash ^ word);
  }
  return hash;
}

std::vector<std::vector<bool>> all_subsets(size_t n) {
  std::vector<std::vector<bool>> subsets;
  for (size_t bits = 0; bits < size_t{1} << n; bits++) {
    std::vector<bool>& subset = subsets.emplace_back(n);
    for (size_t i = 0; i < n; i++) subset[i] = bits >> i & 1;
  }
  return subsets;
}

}  // namespace

namespace {

// Whether this event makes durable what a thread of a process has stored, or flushed.
bool fences(const TraceEvent& event, uint32_t process, uint32_t thread) {
  if (process != event.process) return false;
  return event.kind == TraceEvent::Kind::kFence
             ? thread == event.thread
             : event.kind == TraceEvent::Kind::kFenceThreads && thread != event.thread;
}

std::string missing_fence(const Trace& trace) {
  // Word, and who stored it. What a killed process has stored is ordered before all that comes.
  std::map<uint64_t, std::pair<uint32_t, uint32_t>> pending;
  for (const TraceEvent& event : trace.events()) {
    std::erase_if(pending, [&](const auto& word) {
      const auto [process, thread] = word.second;
      return event.kind == TraceEvent::Kind::kKilled ? process == event.process
                                                     : fences(event, process, thread);
    });
    if (event.kind != TraceEvent::Kind::kStore) continue;
    for (uint64_t word = event.off / kWordBytes; word * kWordBytes < event.off + event.len; word++)
      if (!pending.emplace(word, std::pair(event.process, event.thread)).second)
        return "stored twice without a fence between: the word at " +
               std::to_string(word * kWordBytes);
  }
  return {};
}

std::string missing_wait(const Trace& trace) {
  std::map<uint64_t, uint64_t> under_way;  // sector, and the request that writes it
  for (const TraceEvent& event : trace.events()) {
    if (event.kind == TraceEvent::Kind::kDeviceWriteDone)
      std::erase_if(under_way, [&](const auto& sector) { return sector.second == event.id; });
    if (event.kind != TraceEvent::Kind::kDeviceWrite) continue;
    for (uint64_t at = event.off; at < event.off + event.len; at += kSectorBytes)
      if (!under_way.emplace(at / kSectorBytes, event.id).second)
        return "two writes to one sector of the device at once: " +
               std::to_string(at / kSectorBytes);
  }
  return {};
}

}  // namespace

std::string missing_order(const Trace& trace) {
  const std::string fence = missing_fence(trace);
  return fence.empty() ? missing_wait(trace) : fence;
}

PowerLoss::PowerLoss(UndoMemory& memory, const Trace& trace, Sectors device, const Options& options)
    : memory_(memory),
      trace_(trace),
      device_(std::move(device)),
      options_(options),
      random_(options.seed),
      hash_(options.hash) {}

void PowerLoss::walk(size_t from, const Visit& visit) {
  const auto& events = trace_.events();
  const auto is_point = [&](size_t i) {
    using Kind = TraceEvent::Kind;
    return i == events.size() || events[i].kind == Kind::kFence ||
           events[i].kind == Kind::kFenceThreads || events[i].kind == Kind::kDeviceFlush ||
           events[i].kind == Kind::kMark;
  };
  size_t points = 0;
  for (size_t i = from; i <= events.size(); i++) points += is_point(i);
  for (size_t i = 0; i <= events.size(); i++) {
    using Kind = TraceEvent::Kind;
    const Kind kind = i < events.size() ? events[i].kind : Kind::kMark;
    if (is_point(i) && i >= from && (changed_ || i == events.size())) {
      if (options_.wanted
              ? options_.wanted(i)
              : points <= options_.most_points || random_() % points < options_.most_points)
        visit_states(i, visit);
      changed_ = false;
    }
    if (i == events.size()) break;
    switch (kind) {
      case Kind::kStore:
      case Kind::kUnflushed:
        add_store(events[i]);
        break;
      case Kind::kFence:
      case Kind::kFenceThreads:
        fence(events[i]);
        break;
      case Kind::kFlush:
        flush_lines(events[i]);
        break;
      case Kind::kDeviceWrite:
        add_device_write(events[i]);
        break;
      case Kind::kDeviceWriteDone:
        end_device_write(events[i].id);
        break;
      case Kind::kDeviceFlushBegun:
        begin_device_flush(events[i].id);
        break;
      case Kind::kDeviceFlush:
      case Kind::kDeviceFlushFailed:
        end_device_flush(events[i].id, kind == Kind::kDeviceFlush);
        break;
      case Kind::kKilled:
      case Kind::kMark:
        break;
    }
    changed_ = true;
  }
}

void PowerLoss::add_store(const TraceEvent& event) {
  const bool flushed = event.kind == TraceEvent::Kind::kStore;
  const uint32_t store = next_store_++;
  for (uint64_t at = 0; at < event.len;) {
    const uint64_t off = event.off + at;
    const auto len =
        static_cast<uint32_t>(std::min<uint64_t>(kWordBytes - off % kWordBytes, event.len - at));
    words_.push_back(
        {off, event.bytes_at + at, len, store, {event.process, event.thread}, flushed});
    at += len;
  }
}

// Stores to a word before the one that is durable now cannot come back.
void PowerLoss::fence(const TraceEvent& event) {
  const auto fenced = [&event](const Maker& by) { return fences(event, by.process, by.thread); };
  std::unordered_set<uint64_t> durable;
  std::vector<Word> left;
  for (auto word = words_.rbegin(); word != words_.rend(); ++word) {
    if (durable.contains(word->off / kWordBytes)) continue;
    if ((word->flushed && fenced(word->maker)) ||
        std::any_of(word->also_flushed.begin(), word->also_flushed.end(), fenced)) {
      store_word(*word, &hash_);
      durable.insert(word->off / kWordBytes);
    } else {
      left.push_back(*word);
    }
  }
  words_.assign(left.rbegin(), left.rend());
}

void PowerLoss::flush_lines(const TraceEvent& event) {
  const uint64_t first = event.off / kLineBytes, end = event.off + event.len;
  for (Word& word : words_)
    if (word.off / kLineBytes >= first && word.off / kLineBytes * kLineBytes < end)
      word.also_flushed.push_back({event.process, event.thread});
}

void PowerLoss::add_device_write(const TraceEvent& event) {
  PCACHE_CHECK(event.off % kSectorBytes == 0 && event.len % kSectorBytes == 0);
  for (uint32_t at = 0; at < event.len; at += kSectorBytes)
    sectors_.push_back({(event.off + at) / kSectorBytes, event.bytes_at + at, event.id});
}

void PowerLoss::end_device_write(uint64_t write) {
  for (Sector& sector : sectors_) sector.done |= sector.write == write;
}

void PowerLoss::begin_device_flush(uint64_t flush) {
  for (Sector& sector : sectors_)
    if (sector.done) sector.covered_by.insert(flush);
}

// A write in flight to a sector may overwrite what is durable now; one that completed before what
// is durable may not.
void PowerLoss::end_device_flush(uint64_t flush, bool succeeded) {
  if (options_.device_lies) return;
  std::vector<Sector> left;
  for (Sector& sector : sectors_) {
    const bool covered = sector.covered_by.erase(flush) > 0;
    if (covered && succeeded && !sector.given_up) {
      std::erase_if(
          left, [&](const Sector& older) { return older.number == sector.number && older.done; });
      put(&device_, sector.number, trace_.all_bytes() + sector.bytes_at, &hash_);
      continue;
    }
    sector.given_up |= covered && !succeeded;
    left.push_back(sector);
  }
  sectors_.swap(left);
}

void PowerLoss::store_word(const Word& word, uint64_t* hash) {
  const uint64_t first = word.off / kWordBytes * kWordBytes;
  *hash ^= hash_of_word(first);
  memory_.write(word.off, trace_.all_bytes() + word.bytes_at, word.len);
  *hash ^= hash_of_word(first);
}

uint64_t PowerLoss::hash_of_word(uint64_t off) const {
  uint64_t word;
  memcpy(&word, memory_.data() + off, sizeof word);
  if (off < media::kSuperblockOff) word = word != 0;
  return hash_of(off, reinterpret_cast<const std::byte*>(&word), sizeof word);
}

void PowerLoss::put(Sectors* device, uint64_t number, const std::byte* bytes, uint64_t* hash) {
  constexpr uint64_t kDeviceSide = uint64_t{1} << 62;
  const auto [at, is_new] = device->emplace(number, bytes);
  if (!is_new) *hash ^= hash_of(kDeviceSide + number, at->second, kSectorBytes);
  at->second = bytes;
  *hash ^= hash_of(kDeviceSide + number, bytes, kSectorBytes);
}

std::vector<PowerLoss::Mask> PowerLoss::word_masks() {
  const size_t n = words_.size();
  if (n <= options_.exhaustive_words) return all_subsets(n);
  std::vector<uint32_t> stores;
  for (const Word& word : words_)
    if (stores.empty() || stores.back() != word.store) stores.push_back(word.store);
  std::vector<Mask> masks;
  const auto add_stores = [&](const auto& kept) {
    Mask& mask = masks.emplace_back(n);
    for (size_t i = 0; i < n; i++) mask[i] = kept(words_[i].store);
  };
  add_stores([](uint32_t) { return false; });
  add_stores([](uint32_t) { return true; });
  if (stores.size() <= options_.exhaustive_stores) {
    for (const Mask& kept : all_subsets(stores.size())) {
      const auto index = [&](uint32_t store) {
        return std::find(stores.begin(), stores.end(), store) - stores.begin();
      };
      add_stores([&](uint32_t store) { return kept[static_cast<size_t>(index(store))]; });
    }
  } else if (options_.each_alone) {
    for (const uint32_t one : stores) {
      add_stores([&](uint32_t store) { return store == one; });
      add_stores([&](uint32_t store) { return store != one; });
    }
  }
  for (size_t s = 0; s < options_.samples; s++) {
    // Few lost, few kept, or half of them.
    const uint64_t of_eight = std::array<uint64_t, 3>{1, 4, 7}[s % 3];
    Mask& mask = masks.emplace_back(n);
    for (size_t i = 0; i < n; i++) mask[i] = random_() % 8 < of_eight;
  }
  return masks;
}

std::vector<PowerLoss::Mask> PowerLoss::sector_masks(size_t with_words) {
  const size_t n = sectors_.size();
  if (n == 0) return {Mask()};
  if (with_words == 0 && n <= options_.exhaustive_words) return all_subsets(n);
  std::vector<Mask> masks = {Mask(n, false), Mask(n, true)};
  if (with_words == 0 && options_.each_alone)
    for (size_t one = 0; one < n; one++) {
      masks.emplace_back(n)[one] = true;
      masks.emplace_back(n, true)[one] = false;
    }
  const size_t samples = with_words == 0 ? options_.samples : 1;
  for (size_t s = 0; s < samples; s++) {
    Mask& mask = masks.emplace_back(n);
    for (size_t i = 0; i < n; i++) mask[i] = random_() & 1;
  }
  return masks;
}

void PowerLoss::visit_states(size_t event, const Visit& visit) {
  points_++;
  state_ = 0;
  for (const Mask& words : word_masks())
    for (const Mask& sectors : sector_masks(words_.size()))
      visit_state(event, words, sectors, visit);
}

void PowerLoss::visit_state(size_t event, const Mask& words, const Mask& sectors,
                            const Visit& visit) {
  const UndoMemory::Mark mark = memory_.mark();
  uint64_t hash = hash_;
  for (size_t i = 0; i < words_.size(); i++)
    if (words[i]) store_word(words_[i], &hash);
  if (std::find(sectors.begin(), sectors.end(), true) == sectors.end()) {
    visit({event, state_++, hash, device_});
  } else {
    Sectors device = device_;
    for (size_t i = 0; i < sectors_.size(); i++)
      if (sectors[i])
        put(&device, sectors_[i].number, trace_.all_bytes() + sectors_[i].bytes_at, &hash);
    visit({event, state_++, hash, device});
  }
  memory_.rollback(mark);
}

Sectors PowerLoss::lose_power(Survive survive) {
  const auto survives = [&] {
    return survive == Survive::kAll || (survive == Survive::kSome && (random_() & 1));
  };
  for (const Word& word : words_)
    if (survives()) store_word(word, &hash_);
  for (const Sector& sector : sectors_)
    if (survives()) put(&device_, sector.number, trace_.all_bytes() + sector.bytes_at, &hash_);
  words_.clear();
  sectors_.clear();
  return device_;
}

}  // namespace pcache
