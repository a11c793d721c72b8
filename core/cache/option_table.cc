// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/option_table.h"

#include <algorithm>
#include <cctype>
#include <cinttypes>
#include <cstddef>
#include <cstring>
#include <optional>
#include <vector>

#include "base/sized.h"
#include "format/media.h"

namespace pcache {

namespace {

// The choices of each option, {} at the end; then the options.
#define PCACHE_OPTION(name, kind, least, most, initial, unit, fio, fio_initial, ctl, title, text, \
                      ...)                                                                        \
  constexpr pcache_option_choice kChoicesOf_##name[] = {__VA_ARGS__, {}};
#include "pcache_options.def"
#undef PCACHE_OPTION

constexpr std::span<const pcache_option_choice> choices_of(const pcache_option_choice* choices) {
  size_t n = 0;
  while (choices[n].name) n++;
  return {choices, n};
}

constexpr OptionEntry kTable[] = {
#define PCACHE_OPTION(name, kind, least, most, initial, unit, fio, fio_initial, ctl, title, text, \
                      ...)                                                                        \
  {#name,                                                                                         \
   PCACHE_OPTION_##kind,                                                                          \
   least,                                                                                         \
   most,                                                                                          \
   initial,                                                                                       \
   unit,                                                                                          \
   fio,                                                                                           \
   fio_initial,                                                                                   \
   ctl,                                                                                           \
   title,                                                                                         \
   text,                                                                                          \
   choices_of(kChoicesOf_##name),                                                                 \
   offsetof(pcache_options, name)},
#include "pcache_options.def"
#undef PCACHE_OPTION
};

// No field is hidden in padding: a struct with one more field is larger.
static_assert(sizeof(pcache_options) ==
              offsetof(pcache_options, cache_path) + std::size(kTable) * kOptionFieldBytes);

constexpr const OptionEntry& entry_of(std::string_view name) {
  return *std::find_if(std::begin(kTable), std::end(kTable),
                       [=](const OptionEntry& entry) { return entry.name == name; });
}
static_assert(entry_of("gc_percent").most == media::kGcPercentMax);
static_assert(entry_of("cache_size").least == media::kMinDeviceBytes);
// A name's initial value is the number of its choice.
static_assert(std::all_of(std::begin(kTable), std::end(kTable), [](const OptionEntry& entry) {
  return entry.offset % kOptionFieldBytes == 0 && entry.least <= entry.most &&
         (entry.type != PCACHE_OPTION_NAME ||
          static_cast<uint64_t>(entry.initial) < entry.choices.size());
}));

bool is_text(const OptionEntry& entry) {
  return entry.type == PCACHE_OPTION_TEXT || entry.type == PCACHE_OPTION_NAME;
}

bool is_inside(const OptionEntry& entry, uint32_t size) {
  return entry.offset + kOptionFieldBytes <= size;
}

template <typename Field>
Field load_field(const pcache_options& options, const OptionEntry& entry) {
  static_assert(sizeof(Field) == kOptionFieldBytes);
  PCACHE_CHECK(is_inside(entry, options.size));
  Field field;
  memcpy(&field, reinterpret_cast<const char*>(&options) + entry.offset, sizeof field);
  return field;
}

template <typename Field>
void store_field(pcache_options* options, const OptionEntry& entry, Field field) {
  static_assert(sizeof(Field) == kOptionFieldBytes);
  PCACHE_CHECK(is_inside(entry, options->size));
  memcpy(reinterpret_cast<char*>(options) + entry.offset, &field, sizeof field);
}

const pcache_option_choice* choice_named(const OptionEntry& entry, std::string_view name) {
  for (const auto& choice : entry.choices)
    if (choice.name == name) return &choice;
  return nullptr;
}

const pcache_option_choice* choice_of(const OptionEntry& entry, int64_t value) {
  for (const auto& choice : entry.choices)
    if (choice.value == value) return &choice;
  return nullptr;
}

// "a", "a or b", "a, b or c".
std::string list_of(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); i++)
    text += (i == 0 ? "" : i + 1 < words.size() ? ", " : " or ") + words[i];
  return text;
}

// Its choices: by name, or as numbers.
std::string choices_text(const OptionEntry& entry, bool as_numbers) {
  std::vector<std::string> words;
  for (const auto& choice : entry.choices) {
    const std::string number = std::to_string(choice.value);
    if (!as_numbers || number == choice.name)
      words.emplace_back(choice.name);
    else
      words.push_back(number + " (" + choice.name + ")");
  }
  return list_of(words);
}

// In the largest unit that gives a whole number: "64 KiB".
std::string size_text(int64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  for (; bytes != 0 && bytes % 1024 == 0 && unit + 1 < std::size(kUnits); unit++) bytes /= 1024;
  return std::to_string(bytes) + " " + kUnits[unit];
}

// A number of digits alone.
std::optional<int64_t> digits_of(std::string_view text) {
  if (text.empty()) return {};
  int64_t value = 0;
  for (const char c : text)
    if (c < '0' || c > '9' || __builtin_mul_overflow(value, 10, &value) ||
        __builtin_add_overflow(value, c - '0', &value))
      return {};
  return value;
}

bool is_a_value(const OptionEntry& entry, int64_t value) {
  if (choice_of(entry, value)) return true;
  return entry.type != PCACHE_OPTION_CHOICE && value >= entry.least && value <= entry.most;
}

// Nothing: `text` is no value of this option.
std::optional<int64_t> number_of(const OptionEntry& entry, std::string_view text) {
  if (const auto* choice = choice_named(entry, text)) return choice->value;
  if (entry.type == PCACHE_OPTION_CHOICE) return {};
  const auto value = entry.type == PCACHE_OPTION_SIZE ? size_from_text(text) : digits_of(text);
  return value && is_a_value(entry, *value) ? value : std::nullopt;
}

Error no_option(const char* name) {
  std::vector<std::string> names;
  for (const OptionEntry& entry : kTable) names.emplace_back(entry.name);
  return make_error(ENOENT, "option %s: there is none of this name; expected %s", name,
                    list_of(names).c_str());
}

Result<const OptionEntry*> find_inside(const pcache_options& options, const char* name) {
  if (!name) return make_error(EINVAL, "option: its name is NULL");
  const OptionEntry* entry = find_option(name);
  if (!entry) return no_option(name);
  if (!is_inside(*entry, options.size))
    return make_error(ENOENT,
                      "option %s: is not in the pcache_options of %u bytes of this program: build "
                      "it against this library's pcache.h",
                      name, options.size);
  return entry;
}

}  // namespace

std::string_view OptionEntry::in_ctl(std::string_view subcommand) const {
  std::string_view left = ctl;
  while (!left.empty()) {
    const std::string_view word = left.substr(0, left.find(' '));
    if (word.starts_with(subcommand) && word.substr(subcommand.size()).starts_with(':'))
      return word.substr(subcommand.size() + 1);
    left.remove_prefix(std::min(word.size() + 1, left.size()));
  }
  return {};
}

std::optional<int64_t> size_from_text(std::string_view text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto value = digits_of(text.substr(0, digits));
  std::string unit(text.substr(digits));
  for (char& c : unit) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
  constexpr std::string_view kUnits = "kmgtp";
  unsigned shift = 0;
  if (const size_t at = unit.empty() ? kUnits.npos : kUnits.find(unit[0]); at != kUnits.npos) {
    shift = 10 * (static_cast<unsigned>(at) + 1);
    unit.erase(0, unit.size() > 1 && unit[1] == 'i' ? 2 : 1);
  }
  if (!value || !(unit.empty() || unit == "b") || *value > INT64_MAX >> shift) return {};
  return *value << shift;
}

std::span<const OptionEntry> option_table() { return kTable; }

const OptionEntry* find_option(std::string_view name) {
  for (const OptionEntry& entry : kTable)
    if (entry.name == name) return &entry;
  return nullptr;
}

std::string expected_text(const OptionEntry& entry) {
  std::string text;
  switch (entry.type) {
    case PCACHE_OPTION_TEXT:
      return "a text";
    case PCACHE_OPTION_NAME:
    case PCACHE_OPTION_CHOICE:
      return choices_text(entry, false);
    case PCACHE_OPTION_SWITCH:
      return "0 or 1";
    case PCACHE_OPTION_NUMBER:
      text = "a number from " + std::to_string(entry.least) + " to " + std::to_string(entry.most);
      break;
    case PCACHE_OPTION_SIZE:
      text = std::string("a size in ") + entry.unit + ", such as 2g, from " +
             size_text(entry.least) + " to " + size_text(entry.most);
      break;
  }
  return entry.choices.empty() ? text : text + ", or " + choices_text(entry, false);
}

Status check_option_text(const OptionEntry& entry, const char* text) {
  const bool good = entry.type == PCACHE_OPTION_TEXT   ? true
                    : entry.type == PCACHE_OPTION_NAME ? choice_named(entry, text) != nullptr
                                                       : number_of(entry, text).has_value();
  if (good) return {};
  return make_error(EINVAL, "option %s=%s: expected %s", entry.name, text,
                    expected_text(entry).c_str());
}

void init_options(pcache_options* options, uint32_t size) {
  memset(static_cast<void*>(options), 0, size);
  if (size < kLeastOptionsBytes) return;  // its size stays 0, so it is refused
  options->size = size;
  for (const OptionEntry& entry : kTable) {
    if (!is_inside(entry, size) || entry.type == PCACHE_OPTION_TEXT) continue;
    if (entry.type == PCACHE_OPTION_NAME)
      store_field(options, entry, entry.choices[static_cast<size_t>(entry.initial)].name);
    else
      store_field(options, entry, entry.initial);
  }
}

Status set_option(pcache_options* options, const char* name, const char* text) {
  const auto found = find_inside(*options, name);
  if (!found) return found.error();
  const OptionEntry& entry = *found.value();
  if (!text && entry.type != PCACHE_OPTION_TEXT)
    return make_error(EINVAL, "option %s: its value is NULL; expected %s", entry.name,
                      expected_text(entry).c_str());
  if (auto good = check_option_text(entry, text); !good) return good;
  if (entry.type == PCACHE_OPTION_TEXT)
    store_field(options, entry, text);
  else if (entry.type == PCACHE_OPTION_NAME)
    store_field(options, entry, choice_named(entry, text)->name);
  else
    store_field(options, entry, *number_of(entry, text));
  return {};
}

Result<std::string> option_text(const pcache_options& options, const char* name) {
  const auto found = find_inside(options, name);
  if (!found) return found.error();
  const OptionEntry& entry = *found.value();
  if (is_text(entry)) {
    const auto* text = load_field<const char*>(options, entry);
    if (text && *text) return std::string(text);
    const bool named = entry.type == PCACHE_OPTION_NAME;
    return std::string(named ? entry.choices[static_cast<size_t>(entry.initial)].name : "");
  }
  const auto value = load_field<int64_t>(options, entry);
  const auto* choice = choice_of(entry, value);
  return choice ? std::string(choice->name) : std::to_string(value);
}

Result<pcache_options> adopt_options(const pcache_options& given) {
  if (!is_sized(given.size, kLeastOptionsBytes) || given.size % kOptionFieldBytes != 0)
    return make_error(EINVAL,
                      "pcache_options: size is %u, expected a multiple of 8 from %u to %u: call "
                      "pcache_options_init() first",
                      given.size, kLeastOptionsBytes, kMostSizedBytes);
  if (given.reserved != 0)
    return make_error(EINVAL,
                      "pcache_options: reserved is %u, expected 0: call "
                      "pcache_options_init() first",
                      given.reserved);
  if (const auto at = set_behind(given))
    return make_error(EINVAL,
                      "pcache_options: byte %u of %u is set, and this library knows the first %zu: "
                      "the program needs a newer libpcache",
                      *at, given.size, sizeof given);
  pcache_options known;
  init_options(&known, sizeof known);
  known.log = given.log;
  known.log_ctx = given.log_ctx;
  for (const OptionEntry& entry : kTable)
    if (is_inside(entry, given.size)) store_field(&known, entry, load_field<int64_t>(given, entry));
  return known;
}

Status check_option_values(const pcache_options& options) {
  for (const OptionEntry& entry : kTable) {
    if (is_text(entry)) continue;
    const auto value = load_field<int64_t>(options, entry);
    if (is_a_value(entry, value)) continue;
    const std::string choices = choices_text(entry, true);
    if (entry.type == PCACHE_OPTION_CHOICE)
      return make_error(EINVAL, "option %s: %" PRId64 " is not %s", entry.name, value,
                        choices.c_str());
    if (entry.type == PCACHE_OPTION_SWITCH)
      return make_error(EINVAL, "option %s: %" PRId64 " is not 0 or 1", entry.name, value);
    if (entry.type == PCACHE_OPTION_SIZE)
      return make_error(EINVAL,
                        "option %s: %" PRId64 " %s: expected %" PRId64 " (%s) to %" PRId64
                        " (%s)%s%s: set it to one of these",
                        entry.name, value, entry.unit, entry.least, size_text(entry.least).c_str(),
                        entry.most, size_text(entry.most).c_str(), choices.empty() ? "" : ", or ",
                        choices.c_str());
    return make_error(EINVAL, "option %s: %" PRId64 " is not in %" PRId64 "..%" PRId64 "%s%s",
                      entry.name, value, entry.least, entry.most, choices.empty() ? "" : " or ",
                      choices.c_str());
  }
  return {};
}

}  // namespace pcache
