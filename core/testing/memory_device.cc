// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/memory_device.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>

#include "testing/shortage/failing_memory.h"

namespace pcache {

class MemoryQueue : public BlockQueue {
 public:
  explicit MemoryQueue(MemoryDevice& device)
      : device_(device), fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    PCACHE_CHECK(fd_ >= 0);
  }
  ~MemoryQueue() override {
    PCACHE_CHECK(in_flight() == 0);
    close(fd_);
  }

  void submit(BlockIo* io) override {
    const PassAllocations pass;
    {
      std::lock_guard lock(mu_);
      in_flight_++;
    }
    device_.submit(this, io);
  }
  bool kick() override { return device_.takes_requests(); }
  unsigned poll() override {
    unsigned n = 0;
    for (;;) {
      MemoryDevice::Request request;
      {
        std::lock_guard lock(mu_);
        if (completed_.empty()) break;
        request = std::move(completed_.front());
        completed_.pop_front();
        uint64_t drained;
        if (completed_.empty()) (void)!read(fd_, &drained, sizeof drained);
      }
      BlockIo* io = request.io;
      io->result = request.error;
      if (io->result == 0 && io->op == BlockOp::kRead)
        memcpy(io->buf, request.data.data(), io->len);
      io->done(io);
      std::lock_guard lock(mu_);
      in_flight_--;
      polled_++;
      changed_.notify_all();
      n++;
    }
    return n;
  }
  unsigned wait(int64_t timeout_ns) override {
    device_.before_wait();
    {
      std::unique_lock lock(mu_);
      const uint64_t before = polled_;
      const auto ready = [&] {
        return in_flight_ == 0 || !completed_.empty() || polled_ != before;
      };
      if (timeout_ns < 0)
        changed_.wait(lock, ready);
      else
        changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns), ready);
    }
    return poll();
  }
  int fd() const override { return fd_; }
  unsigned in_flight() const override {
    std::lock_guard lock(mu_);
    return in_flight_;
  }

  void complete(MemoryDevice::Request request) {
    std::lock_guard lock(mu_);
    completed_.push_back(std::move(request));
    const uint64_t one = 1;
    PCACHE_CHECK(write(fd_, &one, sizeof one) == sizeof one);
    changed_.notify_all();
  }

 private:
  MemoryDevice& device_;
  const int fd_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::deque<MemoryDevice::Request> completed_;
  unsigned in_flight_ = 0;
  uint64_t polled_ = 0;
};

namespace {

std::byte* map_zeros(uint64_t size_bytes) {
  void* p = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PCACHE_CHECK(p != MAP_FAILED);
  return static_cast<std::byte*>(p);
}

// By words, which the compiler does not do by itself.
void xor_bytes(std::byte* to, const std::byte* from, uint64_t len) {
  uint64_t i = 0;
  for (; i + sizeof(uint64_t) <= len; i += sizeof(uint64_t)) {
    uint64_t a, b;
    memcpy(&a, to + i, sizeof a);
    memcpy(&b, from + i, sizeof b);
    a ^= b;
    memcpy(to + i, &a, sizeof a);
  }
  for (; i < len; i++) to[i] ^= from[i];
}

}  // namespace

MemoryDevice::MemoryDevice(uint64_t size_bytes, uint32_t block_bytes)
    : most_bytes_(kMostTimes * size_bytes),
      size_(size_bytes),
      real_size_(size_bytes),
      block_bytes_(block_bytes),
      changes_(map_zeros(most_bytes_)) {}

MemoryDevice::~MemoryDevice() { munmap(changes_, most_bytes_); }

void MemoryDevice::set_real_size(uint64_t bytes) {
  PCACHE_CHECK(bytes > 0 && bytes % block_bytes_ == 0);
  real_size_ = bytes;
}

Result<uint64_t> MemoryDevice::measure_again() {
  const uint64_t bytes = real_size_;
  if (bytes > size_) size_.grow(bytes);
  return bytes;
}

std::vector<std::byte> MemoryDevice::load(uint64_t off, uint64_t len) const {
  std::vector<std::byte> bytes = pattern(off, len);
  xor_bytes(bytes.data(), changes_ + off, len);
  return bytes;
}

void MemoryDevice::poke(uint64_t off, std::span<const std::byte> bytes) {
  const std::vector<std::byte> fresh = pattern(off, bytes.size());
  memcpy(changes_ + off, bytes.data(), bytes.size());
  xor_bytes(changes_ + off, fresh.data(), bytes.size());
}

Result<std::unique_ptr<BlockQueue>> MemoryDevice::open_queue(unsigned) {
  return std::unique_ptr<BlockQueue>(std::make_unique<MemoryQueue>(*this));
}

std::vector<std::byte> MemoryDevice::pattern(uint64_t off, uint64_t len) {
  std::vector<std::byte> bytes(len);
  for (uint64_t at = 0; at + sizeof(uint64_t) <= len; at += sizeof(uint64_t)) {
    const uint64_t word = (off + at) * 0x9e3779b97f4a7c15 + 1;
    memcpy(bytes.data() + at, &word, sizeof word);
  }
  return bytes;
}

void MemoryDevice::submit(MemoryQueue* queue, BlockIo* io) {
  Fate fate;
  if (fate_) fate = fate_(io->op, {io->off, io->len});
  std::lock_guard lock(mu_);
  PCACHE_CHECK(io->op == BlockOp::kFlush ||
               (io->off + io->len <= size_ && io->off % block_bytes_ == 0 &&
                io->len % block_bytes_ == 0 && io->len > 0));
  const int error = fate.error ? fate.error : errors_[static_cast<size_t>(io->op)];
  Request request{io, queue, {}, error, next_id_++};
  if (on_change_ && io->op == BlockOp::kFlush) on_change_({io->op, false, request.id, 0, {}, 0});
  if (io->op == BlockOp::kRead) {
    reads_.push_back({io->off, io->len});
    request.data = load(io->off, io->len);
  } else if (error == 0 || fate.written_bytes > 0) {
    std::span<const std::byte> bytes;
    std::vector<std::byte> zeros;
    if (io->op != BlockOp::kFlush) {
      const uint64_t len = error ? fate.written_bytes : io->len;
      if (makes_zeros(io->op)) zeros.resize(len);
      bytes = {has_data(io->op) ? static_cast<const std::byte*>(io->buf) : zeros.data(), len};
      poke(io->off, bytes);
    }
    if (on_change_ && io->op != BlockOp::kFlush)
      on_change_({io->op, false, request.id, io->off, bytes, 0});
    if (journaling_)
      journal_.push_back({io->op, {io->off, bytes.size()}, {bytes.begin(), bytes.end()}});
  }
  if (!holding_) {
    finish(std::move(request));
    return;
  }
  held_.push_back(std::move(request));
  most_held_ = std::max(most_held_, held_.size());
}

void MemoryDevice::finish(Request request) {
  if (on_change_ && request.io->op != BlockOp::kRead)
    on_change_({request.io->op, true, request.id, 0, {}, request.error});
  MemoryQueue* const queue = request.queue;
  queue->complete(std::move(request));
}

void MemoryDevice::hold() {
  std::lock_guard lock(mu_);
  holding_ = true;
  most_held_ = held_.size();
}

void MemoryDevice::release_all() {
  std::lock_guard lock(mu_);
  holding_ = false;
  release_held();
}

void MemoryDevice::release_held() {
  for (Request& request : held_) finish(std::move(request));
  held_.clear();
}

void MemoryDevice::release(size_t index) {
  std::lock_guard lock(mu_);
  PCACHE_CHECK(index < held_.size());
  Request request = std::move(held_[index]);
  held_.erase(held_.begin() + static_cast<ptrdiff_t>(index));
  finish(std::move(request));
}

size_t MemoryDevice::held() const {
  std::lock_guard lock(mu_);
  return held_.size();
}

size_t MemoryDevice::most_held() const {
  std::lock_guard lock(mu_);
  return most_held_;
}

void MemoryDevice::set_release_on_wait(bool on) {
  std::lock_guard lock(mu_);
  release_on_wait_ = on;
}

void MemoryDevice::before_wait() {
  const PassAllocations pass;
  {
    std::lock_guard lock(mu_);
    if (!release_on_wait_) return;
    release_held();
  }
}

void MemoryDevice::set_error(int error) {
  std::lock_guard lock(mu_);
  errors_.fill(error);
}

void MemoryDevice::set_error(BlockOp op, int error) {
  std::lock_guard lock(mu_);
  errors_[static_cast<size_t>(op)] = error;
}

std::vector<Extent> MemoryDevice::reads() const {
  std::lock_guard lock(mu_);
  return reads_;
}

void MemoryDevice::start_journal() {
  std::lock_guard lock(mu_);
  journaling_ = true;
  journal_.clear();
}

std::vector<MemoryDevice::Event> MemoryDevice::journal() const {
  std::lock_guard lock(mu_);
  return journal_;
}

}  // namespace pcache
