/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ending.h"
#include "message.h"

int job_start(struct job* job, const struct thread_data* td) {
  job->depth = td->o.iodepth;
  job->write_flags = td->o.sync_io ? PCACHE_REQ_FUA : 0;
  job->requests = calloc(job->depth, sizeof(*job->requests));
  job->done = calloc(job->depth, sizeof(struct pcache_request*));
  job->held = calloc(job->depth, sizeof(struct pcache_request*));
  job->hits = calloc(job->depth, sizeof(struct pcache_request*));
  job->batch = td->o.iodepth_batch;
  if (!job->requests || !job->done || !job->held || !job->hits) return ENOMEM;
  return shared_cache_open_queue(job->shared, job->depth, &job->queue);
}

void job_stop(struct thread_data* td, struct job* job) {
  if (job->misaligned + job->past_end > 1)
    message(
        "job %s: refused %lu requests that were no multiple of the block size, %lu past the end",
        td->o.name, job->misaligned, job->past_end);
  shared_cache_close_queue(job->shared, job->queue);
  free(job->requests);
  free(job->done);
  free(job->held);
  free(job->hits);
  job->queue = NULL;
  job->requests = NULL;
  job->done = job->held = job->hits = NULL;
}

int job_io_u_init(struct thread_data* td, struct io_u* io_u) {
  struct job* job = td->io_ops_data;
  struct pcache_request* request;

  if (job->requests_used == job->depth) return ENOSPC;
  request = &job->requests[job->requests_used++];
  request->user = io_u;
  io_u->engine_data = request;
  return 0;
}

/*
 * Takes completions into `done`, as many as fit before its end. Their number or a negative errno.
 */
static int reap(struct job* job, uint32_t min, int64_t timeout_ns) {
  uint32_t tail = (job->done_head + job->done_count) % job->depth;
  uint32_t room = job->depth - tail;
  int n = pcache_reap(job->queue, job->done + tail, min < room ? min : room, room, timeout_ns);

  if (n > 0) {
    job->outstanding -= (uint32_t)n;
    job->done_count += (uint32_t)n;
  }
  return n;
}

/* Gives up what waits for space. */
static void cancel(struct thread_data* td, struct job* job) {
  int n = pcache_queue_cancel(job->queue);

  job->cancelled = true;
  if (n > 0)
    message(
        "job %s: ends while %d of its requests wait for space in %s: they are given up, and fail "
        "(ECANCELED); what is dirty stays there, and safe",
        td->o.name, n, shared_cache_dev(job->shared));
}

/* Nothing has completed for a slice of time. */
static void note_quiet_slice(struct thread_data* td, struct job* job) {
  const char* device = shared_cache_backing(job->shared);

  if (!td->error && !job_is_to_end(td)) return;
  job->ending_ms += ENDING_SLICE_MS;
  job->quiet_ms += ENDING_SLICE_MS;
  if (job->quiet_ms == ENDING_SPACE_MS || job->ending_ms == ENDING_DEVICE_MS) cancel(td, job);
  if (!job_is_to_end(td) || !job->cancelled) return;
  if (job->quiet_ms >= ENDING_DEVICE_MS)
    end_without_device(td->o.name, shared_cache_dev(job->shared), device);
  if (job->quiet_ms >= 2 * ENDING_SPACE_MS && !job->said_waiting) {
    job->said_waiting = true;
    message(
        "job %s: ends, and waits for %u requests at %s, which does not answer: for %d s at most",
        td->o.name, job->outstanding, device, (ENDING_DEVICE_MS - (int)job->quiet_ms) / 1000);
  }
}

/* Waits for completions, as reap(); but not for ever when the job is to end. */
static int wait_for(struct thread_data* td, struct job* job, uint32_t min) {
  int n = reap(job, min, ENDING_SLICE_MS * 1000000LL);

  if (n)
    job->quiet_ms = 0;
  else
    note_quiet_slice(td, job);
  return n;
}

/* fio has no more requests than `depth`, so there is room. */
static void push_done(struct job* job, struct pcache_request* request) {
  job->done[(job->done_head + job->done_count++) % job->depth] = request;
}

/*
 * Never FIO_Q_BUSY: fio 3.33 has entered a write in its iolog and drawn its verify seed by then,
 * and does both again when it retries. The library's queue takes as many requests as fio has;
 * should it refuse one all the same, what is in it has to come out first.
 */
static int submit(struct thread_data* td, struct job* job, struct pcache_request* request) {
  int ret;

  while ((ret = pcache_submit(job->queue, request)) == -EAGAIN && job->outstanding) {
    int n = wait_for(td, job, 1);

    if (n < 0) return n;
  }
  return ret;
}

/* Says it of the first of its kind: fio's own line may have neither offset nor length. */
static void note_refused(const struct thread_data* td, struct job* job, const struct io_u* io_u,
                         int error) {
  const struct pcache_info* info = shared_cache_info(job->shared);
  unsigned long* count = &job->misaligned;
  char why[128];

  if (error == EINVAL) {
    snprintf(why, sizeof(why),
             "offset and length must be multiples of the block size, %u, and not 0",
             info->block_size);
  } else if (error == ENXIO) {
    count = &job->past_end;
    snprintf(why, sizeof(why), "the device ends at %llu", (unsigned long long)info->logical_bytes);
  } else {
    return;
  }
  if ((*count)++ == 0)
    message("job %s: %s of %llu bytes at offset %llu of %s is refused: %s", td->o.name,
            io_ddir_name(io_u->ddir), (unsigned long long)io_u->xfer_buflen,
            (unsigned long long)io_u->offset, shared_cache_backing(job->shared), why);
}

/* What has completed without being queued in the library goes to `done`. */
static void push_hit(const struct thread_data* td, struct job* job,
                     struct pcache_request* request) {
  if (request->result) note_refused(td, job, request->user, -request->result);
  job->hits_in_row++;
  push_done(job, request);
}

/* As submit(), of all that is held, in order. Without a queue that goes on the rest fails. */
static void submit_held(struct thread_data* td, struct job* job) {
  struct pcache_request** next = job->held;
  struct pcache_request** end = next + job->held_count;
  int error = 0;

  job->held_count = 0;
  while (next < end) {
    uint32_t hits = 0;
    int taken =
        error ? error
              : pcache_submit_batch(job->queue, next, (uint32_t)(end - next), job->hits, &hits);

    for (uint32_t i = 0; i < hits; i++) push_hit(td, job, job->hits[i]);
    if (taken > 0) {
      uint32_t misses = (uint32_t)taken - hits;

      if (misses) job->hits_in_row = 0;
      job->outstanding += misses;
      next += taken;
    } else if (taken == -EAGAIN && job->outstanding) {
      int n = wait_for(td, job, 1);

      if (n < 0) error = n;
    } else {
      (*next)->result = taken;
      push_hit(td, job, *next++);
    }
  }
}

/* As fio's io_completed(): the error is the job's, unless the user wants to go on after it. */
static void note_missed_error(struct thread_data* td, const struct pcache_request* request) {
  const struct io_u* io_u = request->user;
  int error = -request->result;

  if (td_non_fatal_error(td, td_error_type(io_u->ddir, error), error))
    update_error_count(td, error);
  else
    td_verror(td, error, "a request that fio did not wait for");
}

/*
 * Waits for all that fio has not taken, and looks at the results. With td->done (a log has been
 * replayed to its end, latency_target has been found) fio 3.33 asks for no more completions and
 * ends with up to `depth` requests in flight.
 */
static void finish(struct thread_data* td, struct job* job) {
  int ret = 0, first = 0;
  uint32_t all, failed = 0;

  submit_held(td, job);
  all = job->outstanding + job->done_count;

  while ((job->outstanding || job->done_count) && ret >= 0) {
    for (; job->done_count; job->done_count--) {
      const struct pcache_request* request = job->done[job->done_head];

      job->done_head = (job->done_head + 1) % job->depth;
      if (!request->result) continue;
      if (failed++ == 0) first = -request->result;
      note_missed_error(td, request);
    }
    if (job->outstanding) ret = wait_for(td, job, 1);
  }
  if (ret < 0) td_verror(td, -ret, "pcache_reap");
  if (failed)
    message("job %s: %u of its last %u requests failed: %s", td->o.name, failed, all,
            strerror(first));
  job->outstanding = job->done_head = job->done_count = 0;
}

/* fio frees the buffers after its io_us: nothing may be in flight by then, whatever went wrong. */
void job_io_u_free(struct thread_data* td, struct io_u* io_u) {
  struct job* job = td->io_ops_data;

  if (job && job->queue && (job->held_count || job->outstanding || job->done_count))
    finish(td, job);
  io_u->engine_data = NULL;
}

static void fill_request(const struct job* job, const struct io_u* io_u,
                         struct pcache_request* request) {
  request->off = io_u->offset;
  request->len = io_u->xfer_buflen;
  request->buf = io_u->xfer_buf;
  request->flags = 0;
  switch (io_u->ddir) {
    case DDIR_READ:
      request->op = PCACHE_OP_READ;
      break;
    case DDIR_WRITE:
      request->op = PCACHE_OP_WRITE;
      request->flags = job->write_flags;
      if (io_u->flags & IO_U_F_BARRIER) request->flags |= PCACHE_REQ_PREFLUSH;
      break;
    case DDIR_TRIM:
      request->op = PCACHE_OP_DISCARD;
      request->flags = job->write_flags;
      break;
    default: /* fsync, fdatasync, sync_file_range; their offset and length are stale */
      request->op = PCACHE_OP_FLUSH;
  }
}

static void set_error(struct io_u* io_u, const struct pcache_request* request) {
  io_u->error = (unsigned int)-request->result;
}

enum fio_q_status job_queue(struct thread_data* td, struct io_u* io_u) {
  struct job* job = td->io_ops_data;
  struct pcache_request* request = io_u->engine_data;
  int ret;

  engine_stamp_issue_time(td, io_u);
  fill_request(job, io_u, request);
  if (job->batch > 1) {
    job->held[job->held_count++] = request;
    if (job->held_count == job->batch) submit_held(td, job);
    return FIO_Q_QUEUED;
  }
  ret = submit(td, job, request);
  if (ret == 0) {
    job->outstanding++;
    job->hits_in_row = 0;
    return FIO_Q_QUEUED;
  }
  if (ret < 0) request->result = ret;
  if (job->outstanding || job->done_count) {
    push_hit(td, job, request);
    return FIO_Q_QUEUED;
  }
  if (request->result) note_refused(td, job, io_u, -request->result);
  set_error(io_u, request);
  return FIO_Q_COMPLETED;
}

/*
 * How many of `done` fio gets: as many as it asks for. But all at once after `depth` hits in a row
 * with no miss outstanding: fio takes one for one that it queues, so hits would queue behind hits
 * for ever. fio goes by the count it is given, also when it has asked for fewer.
 */
static uint32_t to_deliver(const struct job* job, uint32_t max) {
  if (!job->outstanding && job->hits_in_row >= job->depth) return job->done_count;
  return job->done_count < max ? job->done_count : max;
}

int job_getevents(struct thread_data* td, unsigned int min, unsigned int max,
                  const struct timespec* timeout) {
  struct job* job = td->io_ops_data;
  int64_t timeout_ns = timeout ? (int64_t)timeout->tv_sec * 1000000000 + timeout->tv_nsec : 0;
  uint32_t count;
  int ret;

  td_io_commit(td); /* fio counts as in flight what it has committed, and waits for that count */
  submit_held(td, job);
  /* Always, not only when `done` runs short: a miss goes in behind the hits that preceded it. */
  ret = job->outstanding ? reap(job, 0, 0) : 0;
  while (ret >= 0 && job->done_count < min && job->outstanding) {
    if (!timeout) {
      ret = wait_for(td, job, min - job->done_count);
    } else {
      ret = reap(job, min - job->done_count, timeout_ns);
      if (ret == 0) break;
    }
  }
  if (ret < 0) return ret;

  count = to_deliver(job, max);
  job->delivered = job->done_head;
  job->done_head = (job->done_head + count) % job->depth;
  job->done_count -= count;
  return (int)count;
}

struct io_u* job_event(struct thread_data* td, int event) {
  struct job* job = td->io_ops_data;
  struct pcache_request* request = job->done[(job->delivered + (uint32_t)event) % job->depth];
  struct io_u* io_u = request->user;

  set_error(io_u, request);
  return io_u;
}
