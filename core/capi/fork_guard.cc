// SPDX-License-Identifier: GPL-2.0-or-later
#include "capi/fork_guard.h"

#include <pthread.h>

#include <mutex>
#include <new>

#include "base/check.h"

namespace pcache {

namespace {

// A plain pthread mutex, as fork()'s handlers lock in one function and unlock in another.
pthread_mutex_t list_mu = PTHREAD_MUTEX_INITIALIZER;
Guarded* list = nullptr;  // under list_mu

}  // namespace

struct ForkHandlers {
  static void prepare() { pthread_mutex_lock(&list_mu); }
  static void parent() { pthread_mutex_unlock(&list_mu); }
  static void child() {
    for (Guarded* one = list; one; one = one->next_) {
      PCACHE_CHECK(!one->foreign_);
      one->foreign_ = true;
      one->disown();
    }
    list = nullptr;
    pthread_mutex_unlock(&list_mu);
  }
};

void Guarded::enlist() {
  PCACHE_CHECK(at_ == nullptr && !foreign_);
  static std::once_flag once;
  std::call_once(once, [] {
    if (pthread_atfork(ForkHandlers::prepare, ForkHandlers::parent, ForkHandlers::child) != 0)
      throw std::bad_alloc();
  });
  pthread_mutex_lock(&list_mu);
  next_ = list;
  at_ = &list;
  if (next_) next_->at_ = &next_;
  list = this;
  pthread_mutex_unlock(&list_mu);
}

void Guarded::delist() {
  PCACHE_CHECK(!foreign_);
  pthread_mutex_lock(&list_mu);
  PCACHE_CHECK(at_ != nullptr && *at_ == this);
  *at_ = next_;
  if (next_) next_->at_ = at_;
  pthread_mutex_unlock(&list_mu);
}

}  // namespace pcache
