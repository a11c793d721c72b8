/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of any length and offset, from any thread, to one open cache; each waits for its end.
 *
 * A request takes a lane, which is a queue of the cache that nobody else uses meanwhile, and gives
 * it back: there are as many as there were requests at once, and none before the first.
 *
 * What is not whole blocks of the cache's is read, changed and written. Writes of whole blocks run
 * side by side; one that is not runs alone, so that none is lost in its read-modify-write.
 */
#ifndef PCACHE_ENGINE_NBDKIT_LANES_H
#define PCACHE_ENGINE_NBDKIT_LANES_H

#include <pcache.h>
#include <stdbool.h>
#include <stdint.h>

/* One cache at a time. The main thread, before the first request and after the last. */
void lanes_begin(pcache_cache* cache, uint32_t block_bytes);
void lanes_end(void);

/* `off` and `bytes` lie inside the device, `bytes` > 0. 0 or a negative errno. */
int lanes_read(void* buf, uint64_t bytes, uint64_t off);
int lanes_write(const void* buf, uint64_t bytes, uint64_t off, bool fua);
/* Zeros; `hole`: the backing device need keep no room for them. */
int lanes_zero(uint64_t bytes, uint64_t off, bool hole, bool fua);
/* Of everything that had completed, in whichever lane. 0 or a negative errno. */
int lanes_flush(void);

#endif
