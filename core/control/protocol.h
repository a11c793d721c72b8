// SPDX-License-Identifier: GPL-2.0-or-later
// The protocol of control sockets, for both ends: CONTROL.md.
#pragma once

#include <cstddef>

namespace pcache::control {

inline constexpr size_t kMostLine = 1024;  // bytes of a command, or of the first line of an answer
inline constexpr size_t kMostText = 16 << 20;  // bytes of an answer's text
inline constexpr const char* kOk = "ok";
inline constexpr const char* kError = "error";

}  // namespace pcache::control
