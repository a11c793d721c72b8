// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/stamp.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "sweep/host.h"

extern "C" const char pcache_build_stamp[];

namespace pcache::sweep {

namespace {

constexpr std::string_view kStart = "pcache build: commit=";
constexpr size_t kShown = 12;  // digits of a commit

std::string shown(const std::string& commit, bool dirty) {
  return commit.substr(0, kShown) + (dirty ? "-dirty" : "");
}

// For a shell.
std::string quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) c == '\'' ? quoted += "'\\''" : quoted += c;
  return quoted + "'";
}

// Of the build directory; empty: it is none, such as where something is installed.
std::string source_of(const std::string& build) {
  constexpr std::string_view kKey = "CMAKE_HOME_DIRECTORY:INTERNAL=";
  std::ifstream in(build + "/CMakeCache.txt");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(kKey)) return line.substr(kKey.size());
  return {};
}

}  // namespace

std::string Stamp::text() const { return shown(commit, dirty); }

std::optional<Stamp> stamp_in(const std::string& content) {
  const size_t at = content.find(kStart);
  const size_t end = at == content.npos ? at : content.find('\n', at);
  if (end == content.npos) return std::nullopt;
  Stamp stamp;
  std::istringstream words(content.substr(at, end - at));
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    if (equals == word.npos) continue;
    const std::string key = word.substr(0, equals), value = word.substr(equals + 1);
    if (key == "commit") stamp.commit = value;
    if (key == "dirty") stamp.dirty = value == "1";
    if (key == "version") stamp.version = value;
    if (key == "build_type") stamp.build_type = value;
  }
  return stamp;
}

const Stamp& own_stamp() {
  static const Stamp own = stamp_in(pcache_build_stamp).value();
  return own;
}

nlohmann::ordered_json facts_of(const Stamp& stamp) {
  return {{"commit", stamp.commit},
          {"dirty", stamp.dirty},
          {"version", stamp.version},
          {"build_type", stamp.build_type}};
}

std::string source_tree_of(const std::string& build) {
  const std::string source = source_of(build);
  if (source.empty()) return {};
  const std::string above = std::filesystem::path(source).parent_path();
  std::string now =
      first_line("GIT_CEILING_DIRECTORIES=" + quoted(above) + " git -C " + quoted(source) +
                 " describe --always --dirty --abbrev=40 '--exclude=*'");
  if (now.empty()) return {};
  const bool dirty = now.ends_with("-dirty");
  const std::string commit = now.substr(0, now.find('-'));
  return shown(commit, dirty);
}

std::string other_source_tree(const std::string& build, const Stamp& stamp) {
  const std::string now = source_tree_of(build);
  return now == stamp.text() ? "" : now;
}

}  // namespace pcache::sweep
