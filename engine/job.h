/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One job's side of the cache: its queue, its requests, and the order in which completions go back
 * to fio. All of it belongs to the job's thread.
 *
 * Invariants:
 * - With nothing queued (neither in the library nor in `done`) a hit is COMPLETED at once.
 * - While a miss is outstanding a hit is QUEUED behind what is done already. Otherwise fio's queue
 *   would not fill, fio would not reap, and the miss would be seen long after it had completed.
 * - After `depth` hits in a row with no miss outstanding, fio gets all of `done` with its next
 *   getevents(): otherwise hits would queue behind hits for ever. Not before: misses that come back
 *   fast must not let the depth drop.
 * - No request is ever refused as BUSY.
 * - With iodepth_batch above 1 all are QUEUED, and so many submitted together. There is no
 * commit(): an engine that has one gets none of fio's own statistics of submission.
 */
#ifndef PCACHE_ENGINE_JOB_H
#define PCACHE_ENGINE_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "fio_api.h"
#include "shared_cache.h"

struct job {
  struct shared_cache* shared;
  pcache_queue* queue;
  struct pcache_request* requests; /* one for each io_u */
  struct pcache_request** done;    /* ring of `depth`: completed, not yet delivered to fio */
  struct pcache_request** held;    /* `depth`: queued by fio, not yet submitted */
  struct pcache_request** hits;    /* `depth`: of a batch, completed when it was submitted */
  uint32_t depth;
  uint32_t requests_used;
  uint32_t batch; /* so many are submitted together */
  uint32_t held_count;
  uint32_t outstanding; /* queued in the library */
  uint32_t hits_in_row;
  uint32_t done_head; /* oldest in `done` */
  uint32_t done_count;
  uint32_t delivered; /* index in `done` of the first event of the last getevents() */
  uint32_t write_flags;
  pid_t pid; /* of the process that has opened the cache */
  /* Requests that were refused: of a replayed log, since setup has seen all others. */
  unsigned long misaligned, past_end;
  /* While the job is to end: see ending.h. */
  uint32_t ending_ms; /* spent waiting in vain */
  uint32_t quiet_ms;  /* of that, since something completed */
  bool cancelled;
  bool said_waiting;
};

/* fio's hooks of the same names, see ioengines.h there. */
int job_io_u_init(struct thread_data* td, struct io_u* io_u);
void job_io_u_free(struct thread_data* td, struct io_u* io_u);
enum fio_q_status job_queue(struct thread_data* td, struct io_u* io_u);
int job_getevents(struct thread_data* td, unsigned int min, unsigned int max,
                  const struct timespec* timeout);
struct io_u* job_event(struct thread_data* td, int event);

/* Sets up what setup has not: queue and requests. 0 or a positive errno. */
int job_start(struct job* job, const struct thread_data* td);

/* Says how many requests were refused, waits for what is in flight, and frees it all but the
 * reference to the cache. */
void job_stop(struct thread_data* td, struct job* job);

#endif
