/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The caches of this process, shared by fio's jobs.
 *
 * Invariants:
 * - One cache per pair of cache device and backing device, identified by device or inode number and
 *   not by name. A cache device has one backing device and the other way round.
 * - A cache is open while a job holds a reference. A job takes it in fio's setup, which runs for
 *   all jobs before the first one starts, so that jobs that follow each other share one cache.
 * - What is still open when the process ends (jobs that never started get no cleanup) is closed by
 *   a destructor of this library, unless a job still runs on it.
 *
 * Any thread may call these; one mutex covers all, also while a cache is opened. It is closed
 * without: that may wait for its backing device, and other jobs are to go on.
 */
#ifndef PCACHE_ENGINE_SHARED_CACHE_H
#define PCACHE_ENGINE_SHARED_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "fio_api.h"
#include "pcache.h"

#define ENGINE_MOST_OPTIONS 63 /* a bit each in cache_wishes::given */

/* What one job asks for. */
struct cache_wishes {
  const char* job;
  unsigned job_number;           /* of the numjobs= of its section, from 0 on */
  const char* stats_file;        /* as given, or NULL */
  unsigned stats_interval_s;     /* 0: at the end alone */
  struct pcache_options options; /* what is not given has the engine's default */
  uint64_t given;                /* a bit for each option of the library's table */
};

struct shared_cache;

/*
 * Option `index` of the loaded library's table. False: it is none of the struct pcache_options that
 * this engine was built with, which the library may have grown since.
 */
bool describe_option(uint32_t index, struct pcache_option_info* info);

/*
 * Finds or opens the cache and takes a reference, for the job `td`, whose end also ends a wait for
 * the backing device (see ending.h). On failure says why and returns a positive errno.
 * Contradictions between jobs name both jobs and their values.
 */
int shared_cache_get(const struct cache_wishes* wishes, struct thread_data* td,
                     struct shared_cache** out);

/*
 * Drops a reference. The last one drains, if that was asked for, writes stats_file and closes the
 * cache. Returns 0 or a positive errno, then something was lost or not written, and it has been
 * said.
 */
int shared_cache_put(struct shared_cache* shared, struct thread_data* td);

/* pcache_queue_create() and pcache_queue_destroy(), counted. The first returns a positive errno. */
int shared_cache_open_queue(struct shared_cache* shared, uint32_t depth, pcache_queue** out);
void shared_cache_close_queue(struct shared_cache* shared, pcache_queue* queue);

/* Constant while a reference is held. The names are those that the job which opened it gave. */
const char* shared_cache_dev(const struct shared_cache* shared);
const char* shared_cache_backing(const struct shared_cache* shared);
const struct pcache_info* shared_cache_info(const struct shared_cache* shared);

#endif
