/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "keys.h"

#include <string.h>

static bool describe(uint32_t index, struct pcache_option_info* option) {
  option->size = sizeof(*option);
  return !pcache_option_describe(index, option);
}

const char* key_of(const struct pcache_option_info* option) {
  return strcmp(option->name, "backing_path") ? option->fio : "backing";
}

bool key_find(const char* key, struct pcache_option_info* option) {
  for (uint32_t i = 0; describe(i, option); i++)
    if (*key_of(option) && !strcmp(key_of(option), key)) return true;
  return false;
}

bool key_takes_path(const struct pcache_option_info* option, const char* value) {
  if (option->type != PCACHE_OPTION_TEXT || strstr(value, "://")) return false;
  for (uint32_t i = 0; i < option->choice_count; i++)
    if (!strcmp(option->choices[i].name, value)) return false;
  return true;
}

void keys_print_help(FILE* out) {
  struct pcache_option_info option;

  for (uint32_t i = 0; describe(i, &option); i++) {
    if (!*key_of(&option)) continue;
    fprintf(out, "%s=%s\n    %s.", key_of(&option),
            option.type == PCACHE_OPTION_TEXT ? "<PATH>" : "<VALUE>", option.text);
    if (option.type != PCACHE_OPTION_TEXT)
      fprintf(out, " %s; default %s.", option.expected, option.initial);
    for (uint32_t c = 0; option.type == PCACHE_OPTION_TEXT && c < option.choice_count; c++)
      fprintf(out, " %s: %s.", option.choices[c].name, option.choices[c].text);
    fputc('\n', out);
  }
}
