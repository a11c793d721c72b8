/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fio ends although what it waits for does not come: space in a full cache whose backing device
 * fails, or a backing device that answers nothing.
 *
 * A job is to end when fio says so (Ctrl-C, SIGTERM, another job's end) or its runtime is over.
 * From then on nothing is waited for without bounds:
 * - what waits for space is given up after ENDING_SPACE_MS in which nothing of the job completed;
 * - a device that has answered nothing for ENDING_DEVICE_MS ends the process. It may still write
 *   into the buffers of its requests, so nothing can be freed and closed in order. The caches are
 *   left as after a crash.
 * While a cache is opened no runtime has begun, and nothing tells how far it is: that ends the
 * process only when fio says so, and after ENDING_DEVICE_MS.
 */
#ifndef PCACHE_ENGINE_ENDING_H
#define PCACHE_ENGINE_ENDING_H

#include <stdbool.h>
#include <stdint.h>

#include "fio_api.h"
#include "pcache.h"

#define ENDING_SLICE_MS 100 /* how long is waited before it is looked at these again */
#define ENDING_SPACE_MS 2000
#define ENDING_DEVICE_MS 10000

/* Any thread. */
bool job_is_to_end(struct thread_data* td);

/*
 * Ends the process, with status 1 and without what else is done at exit: `device` has not answered.
 * Says so.
 */
void end_without_device(const char* job, const char* cache_dev, const char* device)
    __attribute__((noreturn));

/* How it is told that a call gets on. */
enum long_call_progress {
  PROGRESS_UNKNOWN,
  PROGRESS_STATUS, /* the status of `cache` changes */
  PROGRESS_IO,     /* this process reads from devices or writes to them, or the call computes */
};

/* A call that may wait for the backing device. */
struct long_call {
  int (*call)(void* arg);
  void* arg;
  const char* what; /* "closing", ... */
  const char* job;
  const char* cache_dev;
  const char* device;
  enum long_call_progress progress;
  pcache_cache* cache;
  struct thread_data* td; /* whether to end; NULL: yes */
};

/*
 * Makes the call in a thread of its own and waits for it, with a line when it stands still, or
 * takes long and is of unknown progress. Returns what it returns; does not return when it stands
 * still and the job is to end.
 */
int make_long_call(const struct long_call* call);

#endif
