// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/facts_command.h"

#include <cstdio>
#include <filesystem>

#include "sweep/build.h"
#include "sweep/host.h"
#include "sweep/shipped.h"

namespace pcache::sweep {

namespace {

// Beside the libraries: the program whose requests the gate counts.
constexpr const char* kMicrobench = "bin/pcache-microbench";

void add_stamp(nlohmann::ordered_json& stamps, const std::string& build, const char* file) {
  if (const auto stamp = stamp_of_file(build + "/" + file)) stamps[file] = facts_of(*stamp);
}

nlohmann::ordered_json stamps_of(const std::string& build) {
  nlohmann::ordered_json stamps = nlohmann::ordered_json::object();
  for (const char* library : kLibraries) add_stamp(stamps, build, library);
  add_stamp(stamps, build, kMicrobench);
  return stamps;
}

}  // namespace

void print_facts(const FactsOptions& options) {
  const std::string build = options.build.empty() ? own_build() : options.build;
  const std::string backing = options.backing.empty() ? "/var/tmp" : options.backing;
  for (const std::string& path : {build, backing})
    if (!std::filesystem::exists(path)) throw Wrong(path + ": is not there");
  const nlohmann::ordered_json facts = {{"host", host_facts(kEmulatedPmem, backing)},
                                        {"stamps", stamps_of(build)},
                                        {"source_tree", source_tree_of(build)}};
  puts(facts.dump(1).c_str());
}

}  // namespace pcache::sweep
