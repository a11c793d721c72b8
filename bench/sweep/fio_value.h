// SPDX-License-Identifier: GPL-2.0-or-later
// What a line `option=value` of fio's job file can hold. fio 3.33 (init.c, parse.c, options.c)
// knows no quotes there: it cuts a line at # and ;, drops blanks at its end, puts the environment's
// variables in place of ${...} and numbers in place of its keywords. A path that is cut is another
// file, which is then overwritten.
#pragma once

#include <string>

namespace pcache::sweep {

// Why fio would take `value` for another; empty: it takes it as it is.
std::string taken_for_another(const std::string& value);

// Throws Wrong when fio would, of the path `value` followed by `below`; `what` it is, for the
// message. Of `\:` too, which is a colon in a list of files, and which the engine refuses
// elsewhere.
void need_whole(const std::string& what, const std::string& value, const std::string& below = "");

// Of a list of files, in which a colon is between two (filename=).
std::string one_of_files(const std::string& path);

}  // namespace pcache::sweep
