// SPDX-License-Identifier: GPL-2.0-or-later
// Shipped: what comes with this program and is found by where it lies: its build, bench/ for
// Python, the presets. Installed, beside it in its prefix; in a build directory there are links to
// the source tree's own.
#pragma once

#include <string>
#include <vector>

namespace pcache::sweep {

std::string own_folder();  // of this program
// The build tree that this program is part of; installed, its prefix.
std::string own_build();
std::string measure_folder();

// The files of the presets, by name. Throws Wrong: they are not there.
std::vector<std::string> preset_files();

// The file that `asked` is: as it stands, or for a plain name that is no file, the preset of that
// name. Throws Wrong, which lists the presets.
std::string spec_file(const std::string& asked);

}  // namespace pcache::sweep
