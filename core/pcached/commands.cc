// SPDX-License-Identifier: GPL-2.0-or-later
#include "pcached/commands.h"

#include <errno.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "blockdev/nbd_uri.h"
#include "cache/json.h"

namespace pcache {

namespace {

constexpr const char* kHelp =
    "info               the process, the paths of the cache and of the disk\n"
    "status             as pcachectl status --json\n"
    "offer              what a front has to know: lines of a word and its value\n"
    "end                ends it, if who has started it has gone\n"
    "help               this\n";

std::string absolute(const std::string& path) {
  std::error_code none;
  const auto whole = std::filesystem::absolute(path, none);
  return none ? path : whole.string();
}

// What is on a server is no path.
BackendCommands::Places absolute(BackendCommands::Places places) {
  places.cache_path = absolute(places.cache_path);
  if (!is_nbd_uri(places.disk_path)) places.disk_path = absolute(places.disk_path);
  return places;
}

const char* text_of(Ending::Input input) {
  switch (input) {
    case Ending::Input::kNone:
      return "none";
    case Ending::Input::kOpen:
      return "open";
    case Ending::Input::kEnded:
      break;
  }
  return "ended";
}

std::string info_of(const BackendCommands::Places& places) {
  Json info;
  info["program"] = program_invocation_short_name;
  info["pid"] = getpid();
  info["cache"] = places.cache_path;
  info["backing"] = places.disk_path;
  info["readonly"] = false;
  info["side"] = "backend";
  if (!places.socket.empty()) info["serves"] = places.socket;
  return info.dump();
}

int64_t unix_ms(std::chrono::system_clock::time_point at) {
  return at.time_since_epoch() / std::chrono::milliseconds(1);
}

}  // namespace

BackendCommands::BackendCommands(const Backend& backend, const BackendLoop& loop,
                                 const Doorbell& bell, Ending& ending, const Places& places)
    : backend_(backend),
      loop_(loop),
      bell_(bell),
      ending_(ending),
      places_(absolute(places)),
      info_(info_of(places_)) {}

Status BackendCommands::drain(const std::atomic<bool>&) {
  return make_error(EOPNOTSUPP,
                    "drain: a backend writes back to the end when its front has gone: end that, "
                    "and pcached --once");
}

// What is a hint the front has left in the doorbell's page, which may be anything.
std::string BackendCommands::status() const {
  using Hint = Doorbell::Hint;
  const BackendLoop::State state = loop_.state();
  const Backend::Left left = backend_.left();
  const CachePos tail = backend_.dirty_tail();
  Json json;
  json["version"] = 1;
  json["state"] = {{"doing", BackendLoop::text_of(state.doing)},
                   {"since_unix_ms", unix_ms(state.since)},
                   {"error", state.error}};
  json["front"] = {{"there", backend_.front_is_there()},
                   {"since_unix_ms", unix_ms(state.front_changed)},
                   {"heard", bell_.speaks()},
                   {"heard_unix_ms", bell_.last_beat()},
                   {"wants", bell_.wanted()}};
  json["front_hints"] = {{"pid", bell_.heard(Hint::kPid)},
                         {"segments", bell_.heard(Hint::kSegments)},
                         {"used_segments", bell_.heard(Hint::kUsedSegments)},
                         {"dirty_live_bytes", bell_.heard(Hint::kDirtyBytes)},
                         {"waiting_requests", bell_.heard(Hint::kWaiting)}};
  json["dirty"] = {{"ksets", left.ksets}, {"bytes", left.bytes}, {"is_all", left.is_all}};
  json["log"] = {{"dirty_tail", std::to_string(tail.seg.v) + ":" + std::to_string(tail.off)}};
  const Backend::Counters& n = state.counters;
  json["writeback"] = {{"batches", n.batches},
                       {"ksets", n.ksets},
                       {"keys", n.keys},
                       {"written_bytes", n.written_bytes},
                       {"flushes", n.flushes},
                       {"errors", n.errors},
                       {"passed_ksets", n.passed_ksets},
                       {"disbelieved", n.disbelieved},
                       {"overwritten_keys", n.overwritten_keys}};
  json["doorbell"] = {{"rings", bell_.rings()}};
  return json.dump();
}

std::string BackendCommands::offer() const {
  std::string text = "pid ";
  text.append(std::to_string(getpid())).append("\ndisk ").append(places_.disk_path);
  text.append("\nsocket ").append(places_.socket).append("\ninput ");
  return text.append(text_of(ending_.input())).append("\n");
}

// A front that comes after a killed one starts its own: this one writes back what that left, and
// would end under the new one.
Status BackendCommands::end() {
  if (ending_.input() != Ending::Input::kEnded)
    return make_error(EBUSY, "end: who has started it is there, or ends it by a signal");
  ending_.end();
  return {};
}

Result<std::string> BackendCommands::run(std::string_view line) {
  if (line == "info") return info_;
  if (line == "status") return status();
  if (line == "offer") return offer();
  if (line == "end") {
    const auto ended = end();
    return ended ? Result<std::string>(std::string()) : ended.error();
  }
  if (line == "help") return std::string(kHelp);
  const bool is_empty = line.find_first_not_of(" \t") == std::string_view::npos;
  return make_error(
      EOPNOTSUPP, "a backend takes no such command: %s; expected info, status, offer, end or help",
      is_empty ? "an empty line" : std::string(line).c_str());
}

}  // namespace pcache
