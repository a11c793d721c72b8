/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lanes.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct lane {
  pcache_queue* queue;
  struct lane* next; /* that is free */
};

static pcache_cache* cache;
static uint64_t block;
static struct lane* free_lanes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of free_lanes */
/* Shared: writes of whole blocks. Alone: a read-modify-write. Reads do not take it. */
static pthread_rwlock_t writing = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

void lanes_begin(pcache_cache* of, uint32_t block_bytes) {
  cache = of;
  block = block_bytes;
}

void lanes_end(void) {
  while (free_lanes) {
    struct lane* lane = free_lanes;

    free_lanes = lane->next;
    pcache_queue_destroy(lane->queue);
    free(lane);
  }
}

static int make_lane(struct lane** out) {
  struct lane* lane = calloc(1, sizeof(*lane));
  struct pcache_error error = {0};
  int status;

  if (!lane) return -ENOMEM;
  status = pcache_queue_create(cache, 1, &lane->queue, &error);
  if (status) {
    free(lane);
    return status;
  }
  *out = lane;
  return 0;
}

static int take_lane(struct lane** out) {
  pthread_mutex_lock(&lock);
  *out = free_lanes;
  if (*out) free_lanes = (*out)->next;
  pthread_mutex_unlock(&lock);
  return *out ? 0 : make_lane(out);
}

/* The one that was used last is the next: its memory is in the CPU's caches. */
static void give_back(struct lane* lane) {
  pthread_mutex_lock(&lock);
  lane->next = free_lanes;
  free_lanes = lane;
  pthread_mutex_unlock(&lock);
}

static int run(struct pcache_request request) {
  struct pcache_request* done;
  struct lane* lane;
  int status = take_lane(&lane);

  if (status) return status;
  status = pcache_submit(lane->queue, &request);
  if (status == 0) status = pcache_reap(lane->queue, &done, 1, 1, -1);
  give_back(lane);
  return status < 0 ? status : request.result;
}

static int read_blocks(void* buf, uint64_t bytes, uint64_t off) {
  return run((struct pcache_request){.op = PCACHE_OP_READ, .off = off, .len = bytes, .buf = buf});
}

static int write_blocks(const void* buf, uint64_t bytes, uint64_t off, bool fua) {
  return run((struct pcache_request){.op = PCACHE_OP_WRITE,
                                     .flags = fua ? PCACHE_REQ_FUA : 0,
                                     .off = off,
                                     .len = bytes,
                                     .buf = (void*)buf});
}

static int zero_blocks(uint64_t bytes, uint64_t off, bool hole) {
  return run((struct pcache_request){
      .op = hole ? PCACHE_OP_DISCARD : PCACHE_OP_WRITE_ZEROES, .off = off, .len = bytes});
}

static bool whole_blocks(uint64_t bytes, uint64_t off) { return (bytes | off) % block == 0; }

/* ---- Of what is not whole blocks: the blocks that have it, in a buffer ---- */

struct cover {
  uint64_t off, bytes; /* of the blocks */
  char* blocks;
  char* inside; /* where the bytes of the request are */
};

/* The device ends with a whole block, so its blocks do, too. */
static int read_cover(struct cover* cover, uint64_t bytes, uint64_t off) {
  int status;

  cover->off = off - off % block;
  cover->bytes = (off + bytes + block - 1) / block * block - cover->off;
  cover->blocks = aligned_alloc(4096, (cover->bytes + 4095) / 4096 * 4096);
  if (!cover->blocks) return -ENOMEM;
  cover->inside = cover->blocks + (off - cover->off);
  status = read_blocks(cover->blocks, cover->bytes, cover->off);
  if (status) free(cover->blocks);
  return status;
}

static int read_part(void* buf, uint64_t bytes, uint64_t off) {
  struct cover cover;
  int status = read_cover(&cover, bytes, off);

  if (status) return status;
  memcpy(buf, cover.inside, bytes);
  free(cover.blocks);
  return 0;
}

static int write_part(const void* buf, uint64_t bytes, uint64_t off, bool fua) {
  struct cover cover;
  int status = read_cover(&cover, bytes, off);

  if (status) return status;
  memcpy(cover.inside, buf, bytes);
  status = write_blocks(cover.blocks, cover.bytes, cover.off, fua);
  free(cover.blocks);
  return status;
}

/* ---- Requests ---- */

int lanes_read(void* buf, uint64_t bytes, uint64_t off) {
  return whole_blocks(bytes, off) ? read_blocks(buf, bytes, off) : read_part(buf, bytes, off);
}

int lanes_write(const void* buf, uint64_t bytes, uint64_t off, bool fua) {
  bool whole = whole_blocks(bytes, off);
  int status;

  if (whole)
    pthread_rwlock_rdlock(&writing);
  else
    pthread_rwlock_wrlock(&writing);
  status = whole ? write_blocks(buf, bytes, off, fua) : write_part(buf, bytes, off, fua);
  pthread_rwlock_unlock(&writing);
  return status;
}

/* A part of one block, as zeros of data. */
static int zero_part(uint64_t bytes, uint64_t off) {
  char* nothing = calloc(1, bytes);
  int status;

  if (!nothing) return -ENOMEM;
  status = lanes_write(nothing, bytes, off, false);
  free(nothing);
  return status;
}

/* So much at a time: who writes a part of a block waits for no more. */
#define ZERO_BYTES (64u << 20)

static int zero_middle(uint64_t bytes, uint64_t off, bool hole) {
  int status = 0;

  while (!status && bytes) {
    uint64_t some = bytes < ZERO_BYTES ? bytes : ZERO_BYTES;

    pthread_rwlock_rdlock(&writing);
    status = zero_blocks(some, off, hole);
    pthread_rwlock_unlock(&writing);
    off += some;
    bytes -= some;
  }
  return status;
}

/* The parts of blocks at its ends run alone, one after the other, and what is between beside
 * writes. */
int lanes_zero(uint64_t bytes, uint64_t off, bool hole, bool fua) {
  uint64_t head = (block - off % block) % block, tail;
  int status = 0;

  if (head > bytes) head = bytes;
  tail = (bytes - head) % block;
  if (head) status = zero_part(head, off);
  if (!status) status = zero_middle(bytes - head - tail, off + head, hole);
  if (!status && tail) status = zero_part(tail, off + bytes - tail);
  return status || !fua ? status : lanes_flush();
}

int lanes_flush(void) { return run((struct pcache_request){.op = PCACHE_OP_FLUSH}); }
