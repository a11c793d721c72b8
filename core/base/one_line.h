// SPDX-License-Identifier: GPL-2.0-or-later
// Each message is one line, even if the paths and media texts in it hold line breaks.
#pragma once

namespace pcache {

inline void make_one_line(char* text) {
  for (; *text; text++)
    if (static_cast<unsigned char>(*text) < ' ' || *text == 0x7f) *text = '?';
}

}  // namespace pcache
