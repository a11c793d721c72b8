/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's options as fio parses them, and the checks that fio's parser does not make.
 *
 * Numbers are kept as text and parsed here: fio's integer options accept 4294967296 as 0, and -5
 * as 5 after a complaint.
 */
#ifndef PCACHE_ENGINE_OPTIONS_H
#define PCACHE_ENGINE_OPTIONS_H

#include "fio_api.h"
#include "shared_cache.h"

struct engine_options {
  void* pad; /* fio's: it reads a magic number here */
  char* cache_dev;
  char* cache_size;
  char* gc_percent;
  char* flush_delay_ms;
  char* writeback_interval_ms;
  char* persist;
  char* prefault;
  char* stats_file;
  int data_crc;
  int io_mode;
  unsigned int emulate_pmem;
  unsigned int force;
  unsigned int drain;
  unsigned int readonly;
};

extern struct fio_option engine_option_table[];

/* Fills in what the job asks for; pointers stay valid as long as td. 0 or EINVAL, and said why. */
int options_to_wishes(const struct thread_data* td, struct cache_wishes* wishes);

/* Refuses what the cache cannot do, before the cache is touched. 0 or EINVAL, and said why. */
int check_workload(const struct thread_data* td);

/*
 * Block sizes, offsets and the range of the job, against a backing device of this block size and
 * size, which become the file's. 0 or EINVAL, and said why.
 */
int check_geometry(struct thread_data* td, uint32_t block_size, uint64_t bytes);

#endif
