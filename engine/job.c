/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "job.h"

#include <errno.h>
#include <stdlib.h>

#include "message.h"

int job_start(struct job* job, const struct thread_data* td) {
  job->depth = td->o.iodepth;
  job->write_flags = td->o.sync_io ? PCACHE_REQ_FUA : 0;
  job->requests = calloc(job->depth, sizeof(*job->requests));
  job->done = calloc(job->depth, sizeof(struct pcache_request*));
  if (!job->requests || !job->done) return ENOMEM;
  return shared_cache_open_queue(job->shared, job->depth, &job->queue);
}

void job_stop(struct job* job) {
  shared_cache_close_queue(job->shared, job->queue);
  free(job->requests);
  free(job->done);
  job->queue = NULL;
  job->requests = NULL;
  job->done = NULL;
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

/*
 * fio frees the buffers after its io_us: nothing may be in flight by then, whatever went wrong. Not
 * by reaping: a write may wait for space as long as the backing device fails.
 */
void job_io_u_free(struct thread_data* td, struct io_u* io_u) {
  struct job* job = td->io_ops_data;

  if (job && job->queue && job->outstanding) {
    shared_cache_close_queue(job->shared, job->queue);
    job->queue = NULL;
    job->outstanding = 0;
    job->done_count = 0;
  }
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
    default: /* fsync, fdatasync, sync_file_range; their offset and length are stale */
      request->op = PCACHE_OP_FLUSH;
  }
}

static void set_error(struct io_u* io_u, const struct pcache_request* request) {
  io_u->error = (unsigned int)-request->result;
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
static int submit(struct job* job, struct pcache_request* request) {
  int ret;

  while ((ret = pcache_submit(job->queue, request)) == -EAGAIN && job->outstanding) {
    int n = reap(job, 1, -1);

    if (n < 0) return n;
  }
  return ret;
}

enum fio_q_status job_queue(struct thread_data* td, struct io_u* io_u) {
  struct job* job = td->io_ops_data;
  struct pcache_request* request = io_u->engine_data;
  int ret;

  engine_stamp_issue_time(td, io_u);
  if (io_u->ddir == DDIR_TRIM) { /* from an iolog; trim workloads were refused in setup */
    io_u->error = EOPNOTSUPP;
    return FIO_Q_COMPLETED;
  }
  fill_request(job, io_u, request);
  ret = submit(job, request);
  if (ret == 0) {
    job->outstanding++;
    job->hits_in_row = 0;
    return FIO_Q_QUEUED;
  }
  if (ret < 0) request->result = ret;
  if (job->outstanding || job->done_count) {
    job->hits_in_row++;
    push_done(job, request);
    return FIO_Q_QUEUED;
  }
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
  int64_t timeout_ns = timeout ? (int64_t)timeout->tv_sec * 1000000000 + timeout->tv_nsec : -1;
  uint32_t count;
  int ret;

  td_io_commit(td); /* fio counts as in flight what it has committed, and waits for that count */
  /* Always, not only when `done` runs short: a miss goes in behind the hits that preceded it. */
  ret = job->outstanding ? reap(job, 0, 0) : 0;
  while (ret >= 0 && job->done_count < min && job->outstanding) {
    ret = reap(job, min - job->done_count, timeout_ns);
    if (ret == 0) break; /* timeout */
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
