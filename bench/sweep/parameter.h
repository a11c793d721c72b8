// SPDX-License-Identifier: GPL-2.0-or-later
// The parameters of a measurement: their names, what they may be, and which engines look at them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace pcache::sweep {

// One line for the user: what, where, expected, found, what to do.
struct Wrong : std::runtime_error {
  using runtime_error::runtime_error;
};

struct Parameter {
  const char* name;
  const char* fallback;  // when it is not given
  const char* allowed;   // for messages and --parameters
  const char* what;
  // Of a value, in its one spelling; nothing: it is not allowed.
  std::optional<std::string> (*normal)(std::string_view value);
  // Engines that look at it, with blanks between; nullptr: all.
  const char* engines;
  // Which cases look at it: those whose requests come from a trace, those whose come from fio's own
  // patterns, or both.
  enum Of { kBoth, kPattern, kTrace } of = kBoth;
};

std::span<const Parameter> parameters();
// Also by the name that fio has for it: ioengine, readwrite, blocksize, random_distribution.
const Parameter* find_parameter(std::string_view name);

// A value of every parameter that its engine looks at, by name.
using Values = std::map<std::string, std::string>;

// "4k" and "4KiB" -> 4096; also "1.5g". Nothing: no size, or "4KB", of which people disagree.
std::optional<uint64_t> bytes_of(std::string_view size);
// 4096 -> "4k"; the inverse.
std::string size_of(uint64_t bytes);

}  // namespace pcache::sweep
