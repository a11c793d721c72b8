// SPDX-License-Identifier: GPL-2.0-or-later
// ForkGuard: keeps a forked child off its parent's caches. The child has a copy of their memory,
// but none of their threads; it shares pmem with its parent, and would write where its parent
// writes.
//
// Each handle of the C ABI derives from Guarded, and is in a list from the end of its construction
// on. In the child of a fork() all in the list become foreign for good; a handle knows it without a
// system call. The child may open caches of its own. vfork() and posix_spawn(), which are for an
// exec(), change nothing. Any thread.
#pragma once

namespace pcache {

class Guarded {
 public:
  Guarded() = default;
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  // The handle belongs to the process that this one was forked from.
  bool foreign() const { return foreign_; }

 protected:
  // Call enlist() last in the constructor, and delist() first in the destructor. A foreign handle
  // is never destroyed: it is leaked.
  void enlist();
  void delist();
  ~Guarded() = default;
  // Called in the child when the handle becomes foreign, before any other code runs there.
  virtual void disown() {}

 private:
  friend struct ForkHandlers;
  Guarded* next_ = nullptr;
  Guarded** at_ = nullptr;  // the pointer to this one in the list
  bool foreign_ = false;
};

}  // namespace pcache
