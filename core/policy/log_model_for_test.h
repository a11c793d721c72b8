// SPDX-License-Identifier: GPL-2.0-or-later
// Models of a cache for tests: one log under an EvictionPolicy, and LRU to compare it with. Each
// counts its accesses and misses.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "policy/eviction_policy.h"

namespace pcache::policy {

struct MissCount {
  uint64_t accesses = 0, misses = 0;
  double ratio() const { return static_cast<double>(misses) / static_cast<double>(accesses); }
};

// One log: appends at its head, and asks the policy at its tail when it is full.
class LogModel {
 public:
  LogModel(PolicyKind kind, uint64_t capacity)
      : policy_(EvictionPolicy::make(kind, capacity)), capacity_(capacity) {}

  bool read(uint64_t page) {
    count_.accesses++;
    if (auto found = held_.find(page); found != held_.end()) {
      Mark& mark = found->second.mark;
      if (mark != Mark::kHit) mark = policy_->told_of_hit(page, has_room());
      return true;
    }
    count_.misses++;
    if (policy_->admits(page, 1, has_room())) append(page);
    return false;
  }

  void write(uint64_t page) {
    count_.accesses++;
    policy_->wrote(page, 1);
    if (auto found = held_.find(page); found != held_.end()) {
      log_.erase(found->second.place);
      held_.erase(found);
    } else {
      count_.misses++;
    }
    append(page);
  }

  // So many pages from this one on, of which the policy is told nothing.
  void hold(uint64_t page, uint64_t pages) {
    for (uint64_t at = page; at < page + pages; at++) append(at);
  }
  const MissCount& count() const { return count_; }
  void forget_counts() { count_ = {}; }
  uint64_t appended() const { return appended_; }
  uint64_t moved() const { return moved_; }
  EvictionPolicy& policy() { return *policy_; }

 private:
  struct Held {
    Mark mark;
    std::list<uint64_t>::iterator place;
  };

  bool has_room() const { return held_.size() < capacity_; }
  void append(uint64_t page) {
    while (held_.size() >= capacity_) {
      Held& oldest = held_.at(log_.front());
      if (policy_->stays(oldest.mark)) {
        log_.splice(log_.end(), log_, log_.begin());
        oldest.mark = Mark::kNotHit;
        moved_++;
      } else {
        held_.erase(log_.front());
        log_.pop_front();
      }
    }
    log_.push_back(page);
    held_[page] = {Mark::kNotHit, std::prev(log_.end())};
    appended_++;
  }

  std::unique_ptr<EvictionPolicy> policy_;
  const uint64_t capacity_;
  std::list<uint64_t> log_;  // from the tail to the head
  std::unordered_map<uint64_t, Held> held_;
  MissCount count_;
  uint64_t appended_ = 0, moved_ = 0;
};

class LruModel {
 public:
  explicit LruModel(uint64_t capacity) : capacity_(capacity) {}

  bool read(uint64_t page) {
    count_.accesses++;
    if (auto found = places_.find(page); found != places_.end()) {
      pages_.splice(pages_.begin(), pages_, found->second);
      return true;
    }
    count_.misses++;
    if (places_.size() >= capacity_) {
      places_.erase(pages_.back());
      pages_.pop_back();
    }
    pages_.push_front(page);
    places_[page] = pages_.begin();
    return false;
  }

  const MissCount& count() const { return count_; }

 private:
  const uint64_t capacity_;
  std::list<uint64_t> pages_;  // the newest first
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> places_;
  MissCount count_;
};

}  // namespace pcache::policy
