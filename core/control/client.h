// SPDX-License-Identifier: GPL-2.0-or-later
// Asking a cache that some process has attached, over its control socket. CONTROL.md has the
// protocol. One thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "blockdev/unique_fd.h"

namespace pcache {

class ControlClient {
 public:
  static constexpr int kAnswerMs = 10000;

  // ECONNREFUSED: the process that had it has ended. EAGAIN: it takes no connections, for so long.
  static Result<ControlClient> connect(const std::string& path, int timeout_ms = kAnswerMs);
  // The text of the answer, or the error of the cache. ETIMEDOUT: none in time; `timeout_ms` < 0:
  // waits as long as it takes. EPROTO: what answers is no cache. ECONNRESET: it has ended.
  Result<std::string> ask(const std::string& command, int timeout_ms = kAnswerMs);

 private:
  ControlClient(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Error closed() const;
  Status send_all(const std::string& text);
  // For an answer, in however many pieces it comes.
  class Deadline {
   public:
    explicit Deadline(int timeout_ms)
        : for_ever_(timeout_ms < 0), at_(Clock::now() + std::chrono::milliseconds(timeout_ms)) {}
    int left_ms() const {
      if (for_ever_) return -1;
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(at_ - Clock::now());
      return static_cast<int>(std::max<int64_t>(left.count(), 0));
    }

   private:
    using Clock = std::chrono::steady_clock;
    const bool for_ever_;
    const Clock::time_point at_;
  };
  // Appends what has come of the answer, `most` bytes of it.
  Status receive(const Deadline& deadline, size_t most, std::string* answer);

  UniqueFd fd_;
  std::string path_;
};

}  // namespace pcache
