// SPDX-License-Identifier: GPL-2.0-or-later
// Messages are one line each, whatever the paths and the media's texts in them hold.
#pragma once

namespace pcache {

inline void make_one_line(char* text) {
  for (; *text; text++)
    if (static_cast<unsigned char>(*text) < ' ' || *text == 0x7f) *text = '?';
}

}  // namespace pcache
