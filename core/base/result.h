// SPDX-License-Identifier: GPL-2.0-or-later
// Error and Result<T>: how media, I/O and configuration failures travel. Nothing here throws.
// A message names the thing, what was expected, what was found and what to do, in one line.
#pragma once

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"

namespace pcache {

struct Error {
  int code = EIO;  // positive errno
  std::string text;
};

// printf-style; strerror text is not added, use error_errno() for that.
[[gnu::format(printf, 2, 3)]] Error make_error(int code, const char* format, ...);
// As make_error(), followed by ": " and the text of `code`.
[[gnu::format(printf, 2, 3)]] Error error_errno(int code, const char* format, ...);

// A value or an Error. The error sits behind a pointer: the good case costs one word to check.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Error error) : error_(std::make_unique<Error>(std::move(error))) {}

  bool ok() const { return error_ == nullptr; }
  explicit operator bool() const { return ok(); }
  T& value() {
    PCACHE_CHECK(ok());
    return *value_;
  }
  const T& value() const {
    PCACHE_CHECK(ok());
    return *value_;
  }
  T take() {
    PCACHE_CHECK(ok());
    return std::move(*value_);
  }
  const Error& error() const {
    PCACHE_CHECK(!ok());
    return *error_;
  }

 private:
  std::optional<T> value_;
  std::unique_ptr<Error> error_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::make_unique<Error>(std::move(error))) {}

  bool ok() const { return error_ == nullptr; }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    PCACHE_CHECK(!ok());
    return *error_;
  }

 private:
  std::unique_ptr<Error> error_;
};

using Status = Result<void>;

}  // namespace pcache
