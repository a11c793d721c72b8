// SPDX-License-Identifier: GPL-2.0-or-later
// The table of options (pcache_options.def) as data: values by name and from text, and the values
// allowed. options.h checks whether options fit together.
//
// Any thread; the table is constant. Nothing here reads or writes a pcache_options behind its
// `size`.
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

  // Its name in this subcommand of pcachectl; empty: the subcommand does not take it.
  std::string_view in_ctl(std::string_view subcommand) const;
};

inline constexpr uint32_t kOptionFieldBytes = 8;
// Up to the two paths, without which no cache can be opened.
inline constexpr uint32_t kLeastOptionsBytes =
    offsetof(pcache_options, backing_path) + kOptionFieldBytes;

std::span<const OptionEntry> option_table();
// nullptr: no option of this name.
const OptionEntry* find_option(std::string_view name);

// Bytes: digits, then k, m, g, t or p (powers of 1024), also as kb, KiB. Nothing: this is no size,
// or more than INT64_MAX.
std::optional<int64_t> size_from_text(std::string_view text);
// "a number from 0 to 90, or media".
std::string expected_text(const OptionEntry& entry);
// EINVAL: names the option, the text, and what is expected.
Status check_option_text(const OptionEntry& entry, const char* text);

// Stores the defaults in the first `size` bytes; zeros if less than kLeastOptionsBytes.
void init_options(pcache_options* options, uint32_t size);
// ENOENT: no such option, or it is behind the end of *options. EINVAL: as check_option_text().
Status set_option(pcache_options* options, const char* name, const char* text);
// In a form that set_option() takes.
Result<std::string> option_text(const pcache_options& options, const char* name);

// A caller's options as this library knows them: fields that an older caller's struct lacks keep
// their default. EINVAL: too small, or bytes are set behind what this library knows.
Result<pcache_options> adopt_options(const pcache_options& given);
// EINVAL: a number that its option does not allow.
Status check_option_values(const pcache_options& options);

}  // namespace pcache
