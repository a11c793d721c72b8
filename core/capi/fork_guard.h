// SPDX-License-Identifier: GPL-2.0-or-later
// ForkGuard: what of this process's caches a forked child must not touch. The child has their
// memory, but none of their threads; pmem it shares with its parent, and would write where its
// parent writes.
//
// Each handle of the C ABI derives from Guarded, and is listed while it is whole. In the child of a
// fork() all that are listed become foreign: for good, and known without a system call. What the
// child opens itself is its own. vfork() and posix_spawn(), which are for an exec(), change
// nothing. Any thread.
#pragma once

namespace pcache {

class Guarded {
 public:
  Guarded() = default;
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  // It belongs to the process that this one was forked from.
  bool foreign() const { return foreign_; }

 protected:
  // The last thing in the constructor, and the first in the destructor. A foreign one is never
  // destroyed: it is leaked.
  void enlist();
  void delist();
  ~Guarded() = default;
  // In the child, as it becomes foreign: before anything else runs there.
  virtual void disown() {}

 private:
  friend struct ForkHandlers;
  Guarded* next_ = nullptr;
  Guarded** at_ = nullptr;  // what points to it
  bool foreign_ = false;
};

}  // namespace pcache
