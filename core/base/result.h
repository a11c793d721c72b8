// SPDX-License-Identifier: GPL-2.0-or-later
// Error and Result<T>: how media, I/O and configuration failures are reported. Nothing here throws.
// Without memory an error keeps its code, and its text says only that memory is out.
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

// printf-style. Does not add the text of `code`: use error_errno() for that.
[[gnu::format(printf, 2, 3)]] Error make_error(int code, const char* format, ...) noexcept;
// As make_error(), followed by ": " and the text of `code`.
[[gnu::format(printf, 2, 3)]] Error error_errno(int code, const char* format, ...) noexcept;
// The error of a step that found no memory: ENOMEM.
Error out_of_memory() noexcept;

// Frees an Error that a Result holds.
struct ErrorDeleter {
  void operator()(Error* error) const noexcept;
};
using ErrorPtr = std::unique_ptr<Error, ErrorDeleter>;
ErrorPtr keep_error(Error error) noexcept;

// A value or an Error. The error is behind a pointer, so a check for success costs one word.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Error error) : error_(keep_error(std::move(error))) {}

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
  ErrorPtr error_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(keep_error(std::move(error))) {}

  bool ok() const { return error_ == nullptr; }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    PCACHE_CHECK(!ok());
    return *error_;
  }

 private:
  ErrorPtr error_;
};

using Status = Result<void>;

}  // namespace pcache
