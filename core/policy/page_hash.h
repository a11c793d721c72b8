// SPDX-License-Identifier: GPL-2.0-or-later
// The hash of a page's number, from which all of policy/ takes its samples, places and tags.
//
// Who takes which bits: a tag in a ghost list 22-37, a shadow log the upper 32, and a place in a
// table the highest ones. So what one of them has selected is still spread evenly for the others. A
// sample of pages has a hash of its own.
#pragma once

#include <cstdint>

namespace pcache::policy {

// The finalizer of splitmix64 (Steele, Lea, Flood 2014): each bit of `page` changes half of the
// result's. Different pages have different hashes.
inline uint64_t page_hash(uint64_t page) {
  uint64_t x = page + 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// What selects a sample: the pages whose place is at most some limit. Each write asks, so it is one
// multiplication; the places of pages in a row, or at equal distances, are far from each other
// (Fibonacci hashing, Knuth).
inline uint64_t sample_place(uint64_t page) { return page * 0x9e3779b97f4a7c15; }

// A place in 0..places-1, by the highest bits of `hash`.
inline uint64_t place_of(uint64_t hash, uint64_t places) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(hash) * places >> 64);
}

}  // namespace pcache::policy
