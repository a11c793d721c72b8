// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/commands.h"

#include <errno.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <sstream>

#include "cache/json.h"
#include "cache/status.h"

namespace pcache {

namespace {

constexpr const char* kHelp =
    "info               the process, the paths of the cache and of its backing device\n"
    "status             as pcachectl status --json\n"
    "line               the kernel target's status line\n"
    "set NAME VALUE     an option that can be changed while the cache is open\n"
    "flush              makes all that is complete durable in pmem\n"
    "drain              writes back all that is complete; answers when that is done\n"
    "reset              what is counted begins at 0\n"
    "resize [BYTES]     makes the cache larger; answers with its segments\n"
    "resize-backing     uses all of a backing device that has grown; answers with its size\n"
    "help               this\n";

std::string absolute(const std::string& path) {
  std::error_code none;
  const auto whole = std::filesystem::absolute(path, none);
  return none ? path : whole.string();
}

std::string info_of(const std::string& cache_path, const std::string& backing_path, bool readonly) {
  Json info;
  info["program"] = program_invocation_short_name;
  info["pid"] = getpid();
  info["cache"] = absolute(cache_path);
  info["backing"] = absolute(backing_path);
  info["readonly"] = readonly;
  return info.dump();
}

}  // namespace

CacheCommands::CacheCommands(Cache& cache, const std::string& cache_path,
                             const std::string& backing_path)
    : cache_(cache), info_(info_of(cache_path, backing_path, cache.readonly())) {}

Result<std::string> CacheCommands::run(std::string_view line) {
  std::vector<std::string> words;
  std::istringstream in{std::string(line)};
  for (std::string word; in >> word;) words.push_back(word);
  const auto is = [&](const char* name) { return words.size() == 1 && words[0] == name; };
  const auto done = [](const Status& status) {
    return status ? Result<std::string>(std::string()) : status.error();
  };
  if (is("info")) return info_;
  if (is("status")) return status_json(cache_);
  if (is("line")) return status_line(cache_);
  if (is("flush")) return done(cache_.commit());
  if (is("help")) return std::string(kHelp);
  if (is("reset")) {
    cache_.reset_counters();
    return std::string();
  }
  if (is("resize-backing")) {
    const auto resized = cache_.resize_backing();
    if (!resized) return resized.error();
    return Json({{"bytes", resized.value().now}, {"before", resized.value().before}}).dump();
  }
  if (!words.empty() && words[0] == "resize" && words.size() <= 2) {
    const std::string_view text = words.size() == 2 ? words[1] : std::string_view("0");
    uint64_t bytes = 0;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), bytes);
    if (bad != std::errc() || end != text.data() + text.size())
      return make_error(EINVAL, "resize %s: expected a number of bytes", words[1].c_str());
    const auto grown = cache_.resize(bytes);
    if (!grown) return grown.error();
    return Json({{"segments", grown.value().now}, {"before", grown.value().before}}).dump();
  }
  if (words.size() == 3 && words[0] == "set")
    return done(cache_.set(words[1].c_str(), words[2].c_str()));
  return make_error(EINVAL,
                    "no such command: %s; expected info, status, line, set NAME VALUE, "
                    "flush, drain, reset, resize [BYTES], resize-backing or help",
                    words.empty() ? "an empty line" : words[0].c_str());
}

}  // namespace pcache
