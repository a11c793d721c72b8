// SPDX-License-Identifier: GPL-2.0-or-later
// The table of options (pcache_options.def) as data: values by name and from text, and which values
// there are. Whether options fit together is checked in options.h.
//
// Any thread; the table is constant. Everything here that takes a pcache_options leaves alone what
// is behind its `size`.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "pcache.h"

namespace pcache {

struct OptionEntry {
  const char* name;
  pcache_option_type type;
  int64_t least, most, initial;
  const char *unit, *fio, *fio_initial, *ctl, *title, *text;
  std::span<const pcache_option_choice> choices;
  uint32_t offset;  // of its field in pcache_options, which has kOptionFieldBytes

  // Its name in this subcommand of pcachectl; empty: not taken there.
  std::string_view in_ctl(std::string_view subcommand) const;
};

inline constexpr uint32_t kOptionFieldBytes = 8;
// Up to the two paths, without which nothing is opened.
inline constexpr uint32_t kLeastOptionsBytes =
    offsetof(pcache_options, backing_path) + kOptionFieldBytes;

std::span<const OptionEntry> option_table();
// nullptr: there is none of this name.
const OptionEntry* find_option(std::string_view name);

// Bytes: digits, then k, m, g, t or p (powers of 1024), also as kb, KiB. Nothing: it is no such
// text, or more than INT64_MAX.
std::optional<int64_t> size_from_text(std::string_view text);
// "a number from 0 to 90, or media".
std::string expected_text(const OptionEntry& entry);
// EINVAL: option, what was given, what is expected.
Status check_option_text(const OptionEntry& entry, const char* text);

// The defaults, into `size` bytes of them; zeros if that is less than kLeastOptionsBytes.
void init_options(pcache_options* options, uint32_t size);
// ENOENT: no such option, or it is behind the end of *options. EINVAL as check_option_text().
Status set_option(pcache_options* options, const char* name, const char* text);
// As set_option() takes it.
Result<std::string> option_text(const pcache_options& options, const char* name);

// A caller's options as this library knows them: what an older caller's struct has not keeps its
// default. EINVAL: too small, or something is set behind what this library knows.
Result<pcache_options> adopt_options(const pcache_options& given);
// EINVAL: a number that is none of its option's.
Status check_option_values(const pcache_options& options);

}  // namespace pcache
