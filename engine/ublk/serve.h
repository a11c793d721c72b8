/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The requests of a ublk device, served by an open cache: a thread, a ring and a pcache_queue for
 * each queue of the device.
 *
 * A thread waits in its ring for both: requests of the driver, and the descriptor of its
 * pcache_queue. It ends when the driver has aborted all that it had fetched: the device is stopped.
 */
#ifndef PCACHE_ENGINE_UBLK_SERVE_H
#define PCACHE_ENGINE_UBLK_SERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "pcache.h"

struct serve;

struct serve_device {
  pcache_cache* cache;
  int fd; /* /dev/ublkcN */
  uint32_t queues, depth;
  uint32_t max_io_bytes; /* of a request that has data */
  bool makes_holes;      /* zeros that may be a hole become a DISCARD */
  bool durable;          /* a write is durable when it completes, whether FUA is asked for or not */
};

/*
 * Starts the threads, and returns when all have fetched: the device may be started, or recovered.
 * 0 or a negative errno with a line in `error`; in either case stop the device, then serve_end().
 * Each thread raises `signal` in the caller's thread, which blocks it, when it ends.
 */
int serve_begin(const struct serve_device* device, int signal, struct serve** out,
                struct pcache_error* error);

/* Whether a thread has ended before its device was stopped. It has told why on standard error. */
bool serve_failed(struct serve* serve);

/* Waits for all threads. 0, or the negative errno that has ended one before its device was stopped,
 * which it has told on standard error. NULL is allowed. */
int serve_end(struct serve* serve);

#endif
