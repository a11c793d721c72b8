// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/shipped.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "sweep/parameter.h"

namespace pcache::sweep {

namespace fs = std::filesystem;

namespace {

constexpr const char* kEnding = ".yaml";

std::string shipped(const char* name, const char* in_tree) {
  const std::string installed = own_build() + "/share/pcache/" + name;
  return fs::exists(installed) ? installed : std::string(PCACHE_SOURCE_DIR "/") + in_tree;
}

std::string presets(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == kEnding) names.push_back(at->path().stem());
  std::ranges::sort(names);
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

}  // namespace

std::string own_folder() { return fs::canonical("/proc/self/exe").parent_path(); }
std::string own_build() { return fs::path(own_folder()).parent_path(); }
std::string measure_folder() { return shipped("bench", "bench"); }

std::string spec_file(const std::string& asked) {
  std::error_code ignored;
  const bool plain = asked.find('/') == asked.npos && !asked.ends_with(kEnding);
  if (!plain || fs::is_regular_file(asked, ignored)) return asked;
  const std::string folder = shipped("configs", "configs");
  const std::string preset = folder + "/" + asked + kEnding;
  if (fs::is_regular_file(preset, ignored)) return preset;
  if (fs::exists(asked, ignored)) return asked;
  throw Wrong(asked + ": is neither a file nor a preset; presets (" + folder +
              "): " + presets(folder));
}

}  // namespace pcache::sweep
