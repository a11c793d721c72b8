// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/sides.h"

#include <algorithm>
#include <chrono>
#include <cinttypes>

#include "control/socket.h"
#include "ctl/live.h"

namespace pcache::ctl {

namespace {

double seconds_since(double unix_ms) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return std::max(now.count() - unix_ms / 1000, 0.0);
}

// ", heard last 5 s ago"; nothing if it never was.
std::string heard_text(const Json& status, const char* object, const char* name) {
  const double at = number_in(status, object, name);
  if (at <= 0) return "";
  char text[64];
  snprintf(text, sizeof text, ", heard last %.0f s ago", seconds_since(at));
  return text;
}

void print_work(const Json& status) {
  const std::string error = text_in(status, "state", "error");
  printf("behind:    %s%s in %.0f ksets behind dirty_tail %s; %s written, %.0f flushes\n",
         flag_in(status, "dirty", "is_all") ? "" : "more than ",
         bytes_text(static_cast<uint64_t>(number_in(status, "dirty", "bytes"))).c_str(),
         number_in(status, "dirty", "ksets"), text_in(status, "log", "dirty_tail").c_str(),
         bytes_text(static_cast<uint64_t>(number_in(status, "writeback", "written_bytes"))).c_str(),
         number_in(status, "writeback", "flushes"));
  printf("writeback: %s for %.0f s%s%s\n", text_in(status, "state", "doing").c_str(),
         seconds_since(number_in(status, "state", "since_unix_ms")), error.empty() ? "" : ": ",
         error.c_str());
}

}  // namespace

bool is_backend(const Json& info) {
  const auto at = info.find("side");
  return at != info.end() && at->is_string() && at->get<std::string>() == "backend";
}

std::optional<Json> backend_status(const std::string& cache) {
  const auto socket = find_backend_socket(cache);
  if (!socket) return std::nullopt;
  auto client = ControlClient::connect(socket.value());
  if (!client) return std::nullopt;
  const auto info = ask_json(&client.value(), "info");
  if (!info || !is_backend(info.value())) return std::nullopt;
  auto status = ask_json(&client.value(), "status");
  if (!status) return std::nullopt;
  Json all = {{"attached", info.value()}};
  all.update(status.value());
  return all;
}

void print_backend(const Json& front, const Json* backend) {
  if (!flag_in(front, "sides", "backend_there")) {
    printf("backend:   away%s: nothing is written back\n",
           heard_text(front, "sides", "backend_heard_unix_ms").c_str());
    return;
  }
  if (!backend) {
    printf("backend:   there%s; it does not answer pcachectl\n",
           heard_text(front, "sides", "backend_heard_unix_ms").c_str());
    return;
  }
  const auto info = backend->find("attached");
  printf("backend:   %s (pid %" PRId64 "), disk %s%s\n", text_in(*info, "program").c_str(),
         pid_in(*info), text_in(*info, "backing").c_str(),
         flag_in(front, "sides", "backend_heard") ? "" : "; the doorbell is silent: it looks");
  print_work(*backend);
}

void print_backend_alone(const Json& info, const Json& status) {
  printf("cache:     %s, backend %s (pid %" PRId64 ")\n", text_in(info, "cache").c_str(),
         text_in(info, "program").c_str(), pid_in(info));
  printf("backing:   %s\n", text_in(info, "backing").c_str());
  printf("front:     %s for %.0f s%s\n",
         flag_in(status, "front", "there") ? "there, and does not answer pcachectl," : "away",
         seconds_since(number_in(status, "front", "since_unix_ms")),
         heard_text(status, "front", "heard_unix_ms").c_str());
  if (number_in(status, "front_hints", "segments") > 0)
    printf("segments:  %.0f of %.0f in use, as the front has said last\n",
           number_in(status, "front_hints", "used_segments"),
           number_in(status, "front_hints", "segments"));
  print_work(status);
}

}  // namespace pcache::ctl
