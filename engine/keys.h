/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The library's options as KEY=VALUE, for a front end that is no engine of fio: by the names that
 * they have in fio's engine, and `backing` for the backing device. No state; any thread.
 */
#ifndef PCACHE_ENGINE_KEYS_H
#define PCACHE_ENGINE_KEYS_H

#include <pcache.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* What an option is called here; "": it is not taken. */
const char* key_of(const struct pcache_option_info* option);

/* Fills in the option of that key. False: there is none. */
bool key_find(const char* key, struct pcache_option_info* option);

/* `value` names a file: it has no meaning of its own for this option, and is no server's address.
 */
bool key_takes_path(const struct pcache_option_info* option, const char* value);

/* All keys: a line `KEY=<VALUE>`, and an indented one that says what it is. */
void keys_print_help(FILE* out);

#endif
