/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's options as fio parses them, and the checks that fio's parser does not make.
 *
 * fio gets the library's table of options, as the library tells it when the engine is loaded, and
 * keeps each value as text: an option that pcache.h has one day needs nothing here. The library
 * parses the texts; fio's own integer options accept 4294967296 as 0, and -5 as 5 after a
 * complaint. Sizes alone are read as fio reads them.
 */
#ifndef PCACHE_ENGINE_OPTIONS_H
#define PCACHE_ENGINE_OPTIONS_H

#include "fio_api.h"
#include "shared_cache.h"

struct engine_options {
  void* pad; /* fio's: it reads a magic number here */
  char* stats_file;
  char* stats_interval;
  char* given[ENGINE_MOST_OPTIONS]; /* in the order of the library's table; NULL: not given */
};

/* Ends with an entry without a name. Empty until make_engine_options() has run. */
extern struct fio_option engine_option_table[];
void make_engine_options(void);

/* Fills in what the job asks for; pointers stay valid as long as td. 0 or EINVAL, and said why. */
int options_to_wishes(const struct thread_data* td, struct cache_wishes* wishes);

/* That the job names one backing device. 0 or EINVAL, and said why. */
int check_filename(const struct thread_data* td);

/* Refuses what the cache cannot do, before the cache is touched. 0 or EINVAL, and said why. */
int check_workload(const struct thread_data* td, const struct cache_wishes* wishes);

/*
 * Block sizes, offsets and the range of the job, against a backing device of this block size and
 * size, which become the file's. 0 or EINVAL, and said why.
 */
int check_geometry(struct thread_data* td, uint32_t block_size, uint64_t bytes);

#endif
