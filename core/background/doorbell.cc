// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/doorbell.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <new>
#include <thread>

#include "pmem/checked_copy.h"

namespace pcache {

namespace {

// Where the page cannot be slept on, since its file was cut.
constexpr Doorbell::Milliseconds kWithoutPage{10};

}  // namespace

// A file's page stays at the address of this one, so no other thread has to be told of it.
Doorbell::Doorbell(Side side)
    : side_(side),
      other_(side == Side::kFront ? Side::kBackend : Side::kFront),
      next_ring_(static_cast<uint32_t>(getpid()) << 16 |
                 static_cast<uint32_t>(std::chrono::steady_clock::now().time_since_epoch().count() &
                                       0xffff)) {
  install_checked_copy_handler();
  void* const page =
      mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw std::bad_alloc();
  page_ = static_cast<std::byte*>(page);
}

Doorbell::~Doorbell() { munmap(page_, kPageBytes); }

Status Doorbell::connect(int fd) {
  if (mmap(page_, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
    return error_errno(errno, "doorbell: its page cannot be mapped");
  beat_known_ = false;
  store(word(side_, kListens), listens_.load());
  want(wants_.load());
  wake_self();
  return {};
}

// Without memory for a page the file's stays.
void Doorbell::disconnect() {
  (void)mmap(page_, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1,
             0);
  beat_known_ = false;
  speaks_.store(false, std::memory_order_relaxed);
}

// A word is loaded and stored by one instruction.
uint64_t Doorbell::load(const std::byte* word) {
  uint64_t value;
  return checked_copy(&value, word, sizeof value) ? value : 0;
}

void Doorbell::store(std::byte* word, uint64_t value) {
  (void)checked_copy(word, &value, sizeof value);
}

uint32_t Doorbell::rings_heard() const { return static_cast<uint32_t>(load(word(side_, kRung))); }

uint32_t Doorbell::listen(bool on) {
  const uint32_t heard = rings_heard();
  listens_.store(on, std::memory_order_relaxed);
  store(word(side_, kListens), on);
  _mm_mfence();  // before the caller's last look, as the one of ring() is behind what it rings for
  return heard;
}

bool Doorbell::wait(uint32_t heard, Milliseconds most) {
  const timespec time{most.count() / 1000, static_cast<long>(most.count() % 1000) * 1000000};
  if (syscall(SYS_futex, word(side_, kRung), FUTEX_WAIT, heard, &time, nullptr, 0) == 0)
    return true;
  if (errno == EAGAIN || errno == EINTR) return true;
  if (errno != ETIMEDOUT) std::this_thread::sleep_for(std::min(most, kWithoutPage));
  return false;
}

// Each value but once, so no waiter takes it for what it has seen. Two threads may store in the
// other order: both wake after that.
void Doorbell::wake(Side side) {
  store(word(side, kRung), next_ring_.fetch_add(1, std::memory_order_relaxed) + 1);
  (void)syscall(SYS_futex, word(side, kRung), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void Doorbell::ring() {
  _mm_mfence();
  if (load(word(other_, kListens)) == 0) return;
  rings_.fetch_add(1, std::memory_order_relaxed);
  wake(other_);
}

void Doorbell::wake_self() { wake(side_); }

void Doorbell::want(bool on) {
  wants_.store(on, std::memory_order_relaxed);
  say(Hint::kWants, on);
  if (on) ring();
}

void Doorbell::say(Hint hint, uint64_t value) {
  std::byte* const at = word(side_, hint_at(hint));
  if (load(at) != value) store(at, value);
}

uint64_t Doorbell::heard(Hint hint) const { return load(word(other_, hint_at(hint))); }

void Doorbell::beat(Milliseconds unix_time) {
  say(Hint::kPid, static_cast<uint64_t>(getpid()));
  say(Hint::kBeat, static_cast<uint64_t>(unix_time.count()));
}

void Doorbell::leave() {
  listen(false);
  wants_.store(false);
  for (const Hint hint : {Hint::kWants, Hint::kWaiting, Hint::kPid}) say(hint, 0);
  say(Hint::kBeat, 0);
  ring();
}

// What stands in the page when it is first looked at may have been left by a dead process.
void Doorbell::look(Milliseconds now) {
  const uint64_t beat = heard(Hint::kBeat);
  const bool changed = beat_known_ && beat != seen_beat_;
  if (changed) last_change_ = now;
  if (beat == 0)
    speaks_.store(false, std::memory_order_relaxed);
  else if (changed)
    speaks_.store(true, std::memory_order_relaxed);
  else if (now - last_change_ > kMostSilence)
    speaks_.store(false, std::memory_order_relaxed);
  beat_known_ = true;
  seen_beat_ = beat;
  if (beat != 0 && speaks()) last_beat_.store(beat, std::memory_order_relaxed);
}

}  // namespace pcache
