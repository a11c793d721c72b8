// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/build.h"

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "sweep/fio_value.h"
#include "sweep/run_folder.h"
#include "sweep/shipped.h"

namespace pcache::sweep {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPlugin = "/lib/libpcache_fio.so";
constexpr size_t kMostBuilds = 26;  // each has a letter

std::string content_of(const std::string& path) { return fs::exists(path) ? read_file(path) : ""; }

// Of the libraries that fio loads (FNV-1a): to see whether a build is what it was.
std::string hash_of(const std::string& build) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char* name : kLibraries)
    for (const unsigned char byte : content_of(build + "/" + name))
      hash = (hash ^ byte) * 0x100000001b3;
  char text[17];
  snprintf(text, sizeof text, "%016lx", static_cast<unsigned long>(hash));
  return text;
}

// Which sources it is of, as its libraries say; one that has no stamp says nothing.
std::optional<Stamp> stamp_of(const std::string& build) {
  std::optional<Stamp> first;
  std::string first_name;
  for (const char* library : kLibraries) {
    const auto stamp = stamp_of_file(build + "/" + library);
    const std::string name = fs::path(library).filename();
    if (stamp && first && *stamp != *first)
      throw Wrong(build + ": " + first_name + " is of " + first->text() + ", " + name + " of " +
                  stamp->text() + "; build it whole");
    if (stamp && !first) first = stamp, first_name = name;
  }
  return first;
}

Build build_of(const std::string& label, const std::string& dir) {
  Build build = {label, fs::canonical(dir), hash_of(dir), stamp_of(dir)};
  if (build.stamp) build.source_tree = other_source_tree(build.dir, *build.stamp);
  return build;
}

std::string label_of(size_t index, size_t builds) {
  return builds > 1 ? std::string(1, static_cast<char>('a' + index)) : "";
}

void need_whole_paths(const std::vector<Build>& builds) {
  for (const Build& build : builds) need_whole("build", build.dir, kPlugin);
}

}  // namespace

std::optional<Stamp> stamp_of_file(const std::string& path) { return stamp_in(content_of(path)); }

std::vector<Build> find_builds(std::vector<std::string> dirs) {
  if (dirs.empty()) dirs.push_back(own_build());
  std::vector<Build> builds;
  for (const std::string& dir : dirs) {
    const std::string label = label_of(builds.size(), dirs.size());
    if (!fs::exists(dir + kPlugin))
      throw Wrong(dir + kPlugin + ": is not there; --build names a build directory that was built");
    builds.push_back(build_of(label, dir));
  }
  if (builds.size() > kMostBuilds) throw Wrong("more than 26 builds");
  need_whole_paths(builds);
  return builds;
}

std::vector<Build> builds_on_hosts(std::vector<std::string> dirs) {
  if (dirs.empty()) dirs.push_back(own_build());
  std::vector<Build> builds;
  for (const std::string& dir : dirs) {
    if (!dir.starts_with('/'))
      throw Wrong("--build " + dir + ": is a path on the hosts; expected one that begins with /");
    builds.push_back({label_of(builds.size(), dirs.size()), dir, ""});
  }
  if (builds.size() > kMostBuilds) throw Wrong("more than 26 builds");
  need_whole_paths(builds);
  return builds;
}

void need_same_builds(const std::vector<Build>& builds, const std::string& folder) {
  for (const Build& build : builds)
    if (!build.hash.empty() && build.hash != hash_of(build.dir))
      throw Wrong(build.dir + ": was built anew, or is gone, since " + folder +
                  " was begun; begin a new run");
  need_whole_paths(builds);
}

void say_other_source_trees(const std::vector<Build>& builds) {
  for (const Build& build : builds)
    if (!build.source_tree.empty())
      fprintf(stderr,
              "pcache-sweep: %s: measured is %s, of which it was built; its source tree is %s\n",
              build.dir.c_str(), build.stamp->text().c_str(), build.source_tree.c_str());
}

}  // namespace pcache::sweep
