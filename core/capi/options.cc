// SPDX-License-Identifier: GPL-2.0-or-later
// The options by name, and their table, through the C ABI.
#include <cstdio>
#include <string>
#include <vector>

#include "base/sized.h"
#include "cache/option_table.h"
#include "capi/error.h"
#include "pcache.h"

using pcache::fail;
using pcache::guarded;
using pcache::OptionEntry;

namespace {

// Texts made from the table, once. They are handed out, so they are never freed.
struct MadeTexts {
  std::string initial, expected;
};

std::vector<MadeTexts> make_texts() {
  pcache_options initial;
  pcache::init_options(&initial, sizeof initial);
  std::vector<MadeTexts> texts;
  for (const OptionEntry& entry : pcache::option_table())
    texts.push_back({pcache::option_text(initial, entry.name).take(), expected_text(entry)});
  return texts;
}

const std::vector<MadeTexts>& made_texts() {
  static const auto& all = *new std::vector<MadeTexts>(make_texts());
  return all;
}

}  // namespace

PCACHE_EXPORT void pcache_options_init_sized(pcache_options* options, uint32_t size) {
  pcache::init_options(options, size);
}

PCACHE_EXPORT int pcache_options_set(pcache_options* options, const char* name, const char* text,
                                     pcache_error* err) {
  return guarded(err, [&]() -> int {
    const auto set = pcache::set_option(options, name, text);
    return set ? 0 : fail(set.error(), err);
  });
}

PCACHE_EXPORT int pcache_options_get(const pcache_options* options, const char* name, char* text,
                                     size_t text_size) {
  return guarded(nullptr, [&]() -> int {
    const auto got = pcache::option_text(*options, name);
    if (!got) return fail(got.error(), nullptr);
    return snprintf(text, text_size, "%s", got.value().c_str());
  });
}

PCACHE_EXPORT uint32_t pcache_option_count(void) {
  return static_cast<uint32_t>(pcache::option_table().size());
}

PCACHE_EXPORT int pcache_option_describe(uint32_t index, pcache_option_info* info) {
  return guarded(nullptr, [&]() -> int {
    if (!pcache::is_sized(info->size, sizeof info->size)) return -EINVAL;
    if (index >= pcache_option_count()) return -ENOENT;
    const OptionEntry& entry = pcache::option_table()[index];
    PCACHE_CHECK(index < made_texts().size());
    const MadeTexts& made = made_texts()[index];
    pcache_option_info all = {};
    all.type = entry.type;
    all.offset = entry.offset;
    all.choice_count = static_cast<uint32_t>(entry.choices.size());
    all.choices = entry.choices.data();
    all.least = entry.least;
    all.most = entry.most;
    all.name = entry.name;
    all.title = entry.title;
    all.text = entry.text;
    all.unit = entry.unit;
    all.initial = made.initial.c_str();
    all.expected = made.expected.c_str();
    all.fio = entry.fio;
    all.fio_initial = entry.fio_initial;
    all.ctl = entry.ctl;
    pcache::give_sized(all, info);
    return 0;
  });
}
