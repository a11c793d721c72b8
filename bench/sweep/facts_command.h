// SPDX-License-Identifier: GPL-2.0-or-later
// pcache-sweep facts: what is known of this machine and of a build, as one JSON object on stdout.
// bench/measure/ reads it, so that nobody else looks into /proc or into the files of a build.
#pragma once

#include <string>

namespace pcache::sweep {

struct FactsOptions {
  std::string build;    // a build directory; empty: this program's own
  std::string backing;  // a path on the disk that is meant; empty: /var/tmp
};

// Throws Wrong: there is no such directory.
void print_facts(const FactsOptions& options);

}  // namespace pcache::sweep
