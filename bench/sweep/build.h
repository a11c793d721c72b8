// SPDX-License-Identifier: GPL-2.0-or-later
// Build: a build directory whose libraries a sweep measures, and what these libraries say of
// themselves.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sweep/stamp.h"

namespace pcache::sweep {

// What fio loads, below a build directory.
inline constexpr const char* kLibraries[] = {"lib/libpcache.so", "lib/libpcache_fio.so",
                                             "lib/libpcache_raw.so"};

struct Build {
  std::string label;                // "a", "b"; one build: empty
  std::string dir;                  // has lib/libpcache_fio.so
  std::string hash;                 // of its libraries, to see that they are still the same
  std::optional<Stamp> stamp = {};  // of its libraries; nothing: they have none
  std::string source_tree = {};     // what that is at, if at something else
};

// Looks at the build directories; none given: at this program's own. Throws Wrong: one is not
// built, is built in part, or has a path that fio cuts.
std::vector<Build> find_builds(std::vector<std::string> dirs);
// The same paths on other hosts, of which nothing is known here. Throws Wrong: a path does not
// begin with /, or fio cuts it.
std::vector<Build> builds_on_hosts(std::vector<std::string> dirs);
// Throws Wrong: a build is not what it was when the run in `folder` began.
void need_same_builds(const std::vector<Build>& builds, const std::string& folder);
// Says on stderr which source trees have changed since their builds were made.
void say_other_source_trees(const std::vector<Build>& builds);
// What the file says of itself; nothing: it is not there, or has no stamp.
std::optional<Stamp> stamp_of_file(const std::string& path);

}  // namespace pcache::sweep
