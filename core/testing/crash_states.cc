// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/crash_states.h"

#include <algorithm>
#include <random>

namespace pcache {

namespace {

void add_pieces(const PmemEvent& store, size_t tear_up_to_bytes, std::vector<KeptStore>* pieces) {
  const std::span<const std::byte> bytes(store.bytes);
  if (bytes.size() > tear_up_to_bytes) {
    pieces->push_back({store.off, bytes, store.unflushed});
    return;
  }
  for (size_t at = 0; at < bytes.size();) {
    const size_t n = std::min<size_t>(8 - (store.off.v + at) % 8, bytes.size() - at);
    pieces->push_back({store.off + at, bytes.subspan(at, n), store.unflushed});
    at += n;
  }
}

// Which pieces of an epoch survive: one string of '0' and '1' for each state.
std::vector<std::string> survivors(size_t n, const CrashOptions& options, std::mt19937_64& random) {
  std::vector<std::string> sets;
  if (n <= options.exhaustive_up_to) {
    for (size_t bits = 0; bits < size_t{1} << n; bits++) {
      std::string set(n, '0');
      for (size_t i = 0; i < n; i++) set[i] = bits >> i & 1 ? '1' : '0';
      sets.push_back(set);
    }
    return sets;
  }
  for (size_t k = 0; k <= n; k++) sets.push_back(std::string(k, '1') + std::string(n - k, '0'));
  for (size_t s = 0; s < options.samples; s++) {
    std::string set(n, '0');
    for (char& c : set) c = random() & 1 ? '1' : '0';
    sets.push_back(set);
  }
  return sets;
}

}  // namespace

void for_each_crash_state(const Journal& journal, const CrashOptions& options,
                          const CrashVisit& visit) {
  std::mt19937_64 random(options.seed);
  std::vector<KeptStore> durable;
  std::vector<KeptStore> pieces;
  size_t epoch = 0;
  for (size_t i = 0; i <= journal.size(); i++) {
    if (i < journal.size() && !journal[i].fence) {
      add_pieces(journal[i], options.tear_up_to_bytes, &pieces);
      continue;
    }
    for (const std::string& set : survivors(pieces.size(), options, random)) {
      std::vector<KeptStore> kept = durable;
      for (size_t k = 0; k < pieces.size(); k++)
        if (set[k] == '1') kept.push_back(pieces[k]);
      visit(kept, "after fence " + std::to_string(epoch) + ", of the stores behind it " + set);
    }
    std::vector<KeptStore> left;
    for (const KeptStore& piece : pieces) (piece.unflushed ? left : durable).push_back(piece);
    pieces.swap(left);
    epoch++;
  }
}

size_t find_store(const Journal& journal, MediaOff at, size_t from) {
  for (size_t i = from; i < journal.size(); i++)
    if (journal[i].covers(at)) return i;
  return journal.size();
}

bool all_durable(const Journal& journal) {
  bool pending = false;
  for (const PmemEvent& event : journal) {
    if (event.unflushed) return false;
    pending = !event.fence;
  }
  return !pending;
}

size_t count_fences(const Journal& journal, size_t from, size_t end) {
  size_t n = 0;
  for (size_t i = from; i < std::min(end, journal.size()); i++) n += journal[i].fence;
  return n;
}

}  // namespace pcache
