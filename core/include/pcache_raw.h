/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The measuring bound: stores to and loads from the same pmem, through the same mapping and the
 * same persist primitives as the cache, and nothing else. What the cache does on top is its cost.
 *
 * Not a cache and not for data: stores go wherever the caller says, without any format. A device
 * that holds a cache is refused, so that a mistaken path does no harm.
 *
 * Threads: every function but open and close may be called from several threads at once. The caller
 * keeps concurrent stores apart if it cares for the bytes.
 *
 * Errors: as in pcache.h.
 */
#ifndef PCACHE_RAW_H
#define PCACHE_RAW_H

#include "pcache.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pcache_raw pcache_raw;

/* May grow at its end, as struct pcache_options. */
struct pcache_raw_options {
  uint32_t size;          /* of the caller's struct; set by pcache_raw_options_init() */
  int32_t emulate_pmem;   /* 1: take any file as pmem */
  const char* cache_path; /* devdax device, file on a DAX file system, or any file (emulated) */
  uint64_t cache_size;    /* emulated files only: create or extend to this many bytes; 0: as is */
  const char* persist;    /* auto, flushcache, clflushopt, clwb, movdir64b; NULL: auto */
  pcache_log_fn log;      /* NULL: silent */
  void* log_ctx;
  int32_t huge_pages; /* enum pcache_huge_pages, as of a cache with prefault=attach */
  int32_t reserved;
};

/* Fills in the defaults, `size` bytes of them at most, and keeps `size`, which is 48 or
 * more and a multiple of 8. `reserved` stays 0. */
void pcache_raw_options_init_sized(struct pcache_raw_options* options, uint32_t size);

/* Call it before setting any field. */
static inline void pcache_raw_options_init(struct pcache_raw_options* options) {
  pcache_raw_options_init_sized(options, (uint32_t)sizeof *options);
}

/*
 * -EEXIST: the device holds a cache. Otherwise as pcache_open(). Where persist=auto cannot measure
 * (the device is smaller than 4 MiB, or bad at its end), the method is flushcache, with a warning.
 */
int pcache_raw_open(const struct pcache_raw_options* options, pcache_raw** out,
                    struct pcache_error* err);

/* Nothing may be in use by then. NULL is allowed. */
void pcache_raw_close(pcache_raw* raw);

/* Bytes mapped. Stores and loads stay within them: off + len <= pcache_raw_bytes(). */
uint64_t pcache_raw_bytes(const pcache_raw* raw);

/* Stores with the persist method, without a fence: durable after a later pcache_raw_fence(). 0, or
 * -EIO on a bad page. */
int pcache_raw_store(pcache_raw* raw, uint64_t off, const void* buf, uint64_t len);

/* Orders and makes durable the stores of the calling thread. */
void pcache_raw_fence(pcache_raw* raw);

/* Loads with the checked copy. 0, or -EIO on a bad page. */
int pcache_raw_load(pcache_raw* raw, uint64_t off, void* buf, uint64_t len);

#ifdef __cplusplus
}
#endif

#endif
