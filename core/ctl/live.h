// SPDX-License-Identifier: GPL-2.0-or-later
// A cache that some process has attached, asked over its control socket.
#pragma once

#include <optional>

#include "control/client.h"
#include "ctl/common.h"

namespace pcache::ctl {

// Of the cache device or socket at `path`. Nothing: no process that can be asked has it attached.
// EACCES: one has, but this user may not ask it.
Result<std::optional<ControlClient>> find_live(const std::string& path);
// The same, but ENOENT in place of nothing.
Result<ControlClient> require_live(const std::string& path);
// The JSON of an answer, which may take so long.
Result<Json> ask_json(ControlClient* client, const char* command,
                      int timeout_ms = ControlClient::kAnswerMs);

// No time is too long for a drain.
inline constexpr int kNoTimeout = -1;

// Of what has been answered: a member, in one line, "?" if it is none; a number, 0 if it is none.
std::string text_in(const Json& json, const char* name);
std::string text_in(const Json& status, const char* object, const char* name);
double number_in(const Json& status, const char* object, const char* name);
bool flag_in(const Json& status, const char* object, const char* name);
int64_t pid_in(const Json& info);

int run_live_status(ControlClient client, const Image& image, bool line);
// A row each so many seconds, until the cache is detached or `count` are printed.
int run_watch(const Image& image, uint64_t seconds, uint64_t count);
int run_live_set(ControlClient client, const Image& image, const std::string& name,
                 const std::string& value);

}  // namespace pcache::ctl
