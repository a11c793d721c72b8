// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/lock_order.h"

#include "base/check.h"

#ifndef NDEBUG

namespace pcache::lock_order {

namespace {

struct Held {
  const void* lock;
  LockRank rank;
};

constexpr unsigned kMostHeld = 16;
thread_local Held t_held[kMostHeld];
thread_local unsigned t_count = 0;

}  // namespace

void check(LockRank rank) {
  for (unsigned i = 0; i < t_count; i++) PCACHE_CHECK(t_held[i].rank < rank);  // see lock_order.h
}

void taken(const void* lock, LockRank rank) {
  PCACHE_CHECK(t_count < kMostHeld);
  t_held[t_count++] = {lock, rank};
}

// Locks are not always dropped in the order in which they were taken.
void dropped(const void* lock) {
  unsigned at = t_count;
  while (at > 0 && t_held[at - 1].lock != lock) at--;
  PCACHE_CHECK(at > 0);  // dropped by another thread than took it
  for (; at < t_count; at++) t_held[at - 1] = t_held[at];
  t_count--;
}

}  // namespace pcache::lock_order

#endif
