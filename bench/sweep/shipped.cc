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

// In a build directory it is a link to the source tree's own.
std::string shipped(const char* name) {
  const std::string path = own_build() + "/" PCACHE_SHIPPED "/" + name;
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error)
    throw Wrong(path + ": " + error.message() +
                "; pcache-sweep finds what belongs to it beside itself: install it, or run it in "
                "its build directory");
  return real;
}

std::vector<std::string> presets_of(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == kEnding) files.push_back(at->path());
  std::ranges::sort(files);
  return files;
}

std::string presets(const std::string& folder) {
  std::string text;
  for (const std::string& file : presets_of(folder))
    text += (text.empty() ? "" : ", ") + fs::path(file).stem().string();
  return text.empty() ? "none" : text;
}

}  // namespace

std::string own_folder() { return fs::canonical("/proc/self/exe").parent_path(); }
std::string own_build() { return fs::path(own_folder()).parent_path(); }
std::string measure_folder() { return shipped("bench"); }

std::vector<std::string> preset_files() { return presets_of(shipped("configs")); }

std::string spec_file(const std::string& asked) {
  std::error_code ignored;
  const bool plain = asked.find('/') == asked.npos && !asked.ends_with(kEnding);
  if (!plain || fs::is_regular_file(asked, ignored)) return asked;
  const std::string folder = shipped("configs");
  const std::string preset = folder + "/" + asked + kEnding;
  if (fs::is_regular_file(preset, ignored)) return preset;
  if (fs::exists(asked, ignored)) return asked;
  throw Wrong(asked + ": is neither a file nor a preset; presets (" + folder +
              "): " + presets(folder));
}

}  // namespace pcache::sweep
