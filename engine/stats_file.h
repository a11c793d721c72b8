/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The status of a cache in a file: at its end, and with an interval also meanwhile, by a thread.
 * A reader of the file sees the old status or the new one, never half of it.
 */
#ifndef PCACHE_ENGINE_STATS_FILE_H
#define PCACHE_ENGINE_STATS_FILE_H

#include "pcache.h"

struct stats_file;

/*
 * `path` is kept until stats_file_end(). `interval_s` 0: it is written at the end alone. On failure
 * says why and returns a positive errno.
 */
int stats_file_begin(pcache_cache* cache, const char* path, unsigned interval_s,
                     struct stats_file** out);
/* Writes it for the last time, and frees it. 0, or a positive errno, and said why. */
int stats_file_end(struct stats_file* stats);

#endif
