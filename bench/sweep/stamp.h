// SPDX-License-Identifier: GPL-2.0-or-later
// Stamp: which sources a build is of. Each build writes it into its own files (core/stamp), so it
// is true of what is measured, wherever that lies and whatever its source tree has become.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace pcache::sweep {

struct Stamp {
  std::string commit;  // 40 digits, or "unknown": the sources were in no repository
  bool dirty = false;  // and something was changed
  std::string version, build_type;

  bool operator==(const Stamp&) const = default;
  std::string text() const;  // "0123456789ab-dirty"
};

// Of a library or program, by its content. Nothing: it is of before there were stamps, or not ours.
std::optional<Stamp> stamp_in(const std::string& content);
const Stamp& own_stamp();  // of this program
nlohmann::ordered_json facts_of(const Stamp& stamp);

// What the source tree of a build directory is at, as text(); empty: there is no such tree, as of
// an installed build.
std::string source_tree_of(const std::string& build);
// The same where it is not what the build is of; else empty.
std::string other_source_tree(const std::string& build, const Stamp& stamp);

}  // namespace pcache::sweep
