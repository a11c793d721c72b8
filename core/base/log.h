// SPDX-License-Identifier: GPL-2.0-or-later
// Log: where the library sends its few lines for a person. Thread-safe if the sink is.
#pragma once

#include <functional>
#include <string>

namespace pcache {

enum class LogLevel { kError = 0, kWarning = 1, kNotice = 2 };

class Log {
 public:
  using Sink = std::function<void(LogLevel, const char*)>;
  Log() = default;
  explicit Log(Sink sink) : sink_(std::move(sink)) {}

  [[gnu::format(printf, 3, 4)]] void print(LogLevel level, const char* format, ...) const;

 private:
  Sink sink_;
};

}  // namespace pcache
