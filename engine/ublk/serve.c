/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "serve.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ublk_abi.h"

/* Of a completion in the ring that is of no tag: the queue's descriptor is readable. */
#define READABLE UINT64_MAX

struct queue {
  struct serve* serve;
  uint16_t id;
  pthread_t thread;
  pcache_queue* cached;
  struct io_uring ring;
  bool has_ring;
  const struct ublksrv_io_desc* asked; /* by tag; the driver writes it */
  char* buffers;                       /* by tag, max_io_bytes each */
  struct pcache_request* requests;     /* by tag */
  struct pcache_request** begun;       /* depth: to be submitted together */
  struct pcache_request** hits;        /* depth: of those, completed when they were */
  uint32_t begun_count;
  uint32_t live; /* tags that the driver has not aborted */
  bool polled;   /* the ring waits for the queue's descriptor */
};

struct serve {
  struct serve_device device;
  int signal;
  pthread_t caller;
  pthread_mutex_t lock; /* of what follows */
  pthread_cond_t told;
  uint32_t answered; /* queues that have fetched, or could not */
  int status;        /* of the first that could not */
  char what[64];
  int failed;       /* of serve_queue(), the first */
  uint32_t started; /* threads; the caller's alone */
  struct queue queues[];
};

static size_t page_up(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);

  return (bytes + page - 1) / page * page;
}

static char* buffer_of(const struct queue* queue, uint32_t tag) {
  return queue->buffers + (size_t)tag * queue->serve->device.max_io_bytes;
}

/* ---- The driver's side ---- */

/* The ring has an entry for each tag, and one to poll; of each there is one at most that the kernel
 * has not taken. */
static struct io_uring_sqe* entry(struct queue* queue) {
  struct io_uring_sqe* sqe = io_uring_get_sqe(&queue->ring);

  if (!sqe) abort();
  memset(sqe, 0, sizeof(*sqe));
  return sqe;
}

static void tell_driver(struct queue* queue, uint32_t op, uint32_t tag, int32_t result) {
  struct io_uring_sqe* sqe = entry(queue);
  struct ublksrv_io_cmd command = {.q_id = queue->id,
                                   .tag = (uint16_t)tag,
                                   .result = result,
                                   .addr = (uintptr_t)buffer_of(queue, tag)};

  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = queue->serve->device.fd;
  sqe->cmd_op = op;
  sqe->user_data = tag;
  memcpy(sqe->cmd, &command, sizeof(command));
}

/* Once for each readiness: it looks at the descriptor when it is armed, so nothing is missed. */
static void poll_cached(struct queue* queue) {
  struct io_uring_sqe* sqe = entry(queue);

  io_uring_prep_poll_add(sqe, pcache_queue_fd(queue->cached), POLLIN);
  sqe->user_data = READABLE;
  queue->polled = true;
}

/* What the driver takes as done: bytes of a READ or WRITE, and 0 of others. */
static void complete(struct queue* queue, const struct pcache_request* request) {
  bool has_data = request->op == PCACHE_OP_READ || request->op == PCACHE_OP_WRITE;
  int32_t result = request->result ? request->result : has_data ? (int32_t)request->len : 0;

  tell_driver(queue, UBLK_U_IO_COMMIT_AND_FETCH_REQ, (uint32_t)(request - queue->requests), result);
}

/* ---- Requests ---- */

/* The flags are in place in op_flags: ublksrv_get_flags() would shift them from where
 * UBLK_IO_F_* are. */
static int translate(const struct serve_device* device, const struct ublksrv_io_desc* asked,
                     struct pcache_request* request) {
  uint32_t flags = asked->op_flags;
  bool may_be_hole = device->makes_holes && !(flags & UBLK_IO_F_NOUNMAP);
  bool has_data = false;

  request->off = asked->start_sector << 9;
  request->len = (uint64_t)asked->nr_sectors << 9;
  request->flags = device->durable || (flags & UBLK_IO_F_FUA) ? PCACHE_REQ_FUA : 0;
  switch (ublksrv_get_op(asked)) {
    case UBLK_IO_OP_READ:
      request->op = PCACHE_OP_READ;
      request->flags = 0;
      has_data = true;
      break;
    case UBLK_IO_OP_WRITE:
      request->op = PCACHE_OP_WRITE;
      has_data = true;
      break;
    case UBLK_IO_OP_FLUSH:
      request->op = PCACHE_OP_FLUSH;
      request->flags = 0;
      break;
    case UBLK_IO_OP_DISCARD:
      request->op = PCACHE_OP_DISCARD;
      break;
    case UBLK_IO_OP_WRITE_ZEROES:
      request->op = may_be_hole ? PCACHE_OP_DISCARD : PCACHE_OP_WRITE_ZEROES;
      break;
    default:
      return -EOPNOTSUPP;
  }
  return has_data && request->len > device->max_io_bytes ? -EINVAL : 0;
}

static void begin_request(struct queue* queue, uint32_t tag) {
  struct pcache_request* request = &queue->requests[tag];
  int status = translate(&queue->serve->device, &queue->asked[tag], request);

  request->buf = buffer_of(queue, tag);
  request->result = status;
  if (status)
    complete(queue, request);
  else
    queue->begun[queue->begun_count++] = request;
}

/* Those that are not complete then come out of reap(). The cache's queue takes as many as there are
 * tags. */
static void submit_begun(struct queue* queue) {
  struct pcache_request** next = queue->begun;
  uint32_t left = queue->begun_count;

  queue->begun_count = 0;
  while (left) {
    uint32_t hits = 0;
    int taken = pcache_submit_batch(queue->cached, next, left, queue->hits, &hits);

    for (uint32_t i = 0; i < hits; i++) complete(queue, queue->hits[i]);
    if (taken < 0) {
      (*next)->result = taken;
      complete(queue, *next);
      taken = 1;
    }
    next += taken;
    left -= (uint32_t)taken;
  }
}

static int reap(struct queue* queue) {
  struct pcache_request* done[64];
  int n;

  do {
    n = pcache_reap(queue->cached, done, 0, 64, 0);
    for (int i = 0; i < n; i++) complete(queue, done[i]);
  } while (n == 64);
  return n < 0 ? n : 0;
}

/* ---- A queue ---- */

static int open_queue(struct queue* queue, const char** what) {
  const struct serve_device* device = &queue->serve->device;
  size_t asked_bytes = page_up(device->depth * sizeof(struct ublksrv_io_desc));
  size_t stride = page_up(UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublksrv_io_desc));
  struct pcache_error error = {0};
  int status;

  *what = "no memory";
  queue->requests = calloc(device->depth, sizeof(*queue->requests));
  queue->begun = calloc(device->depth, sizeof(*queue->begun));
  queue->hits = calloc(device->depth, sizeof(*queue->hits));
  queue->buffers = aligned_alloc(4096, (size_t)device->depth * device->max_io_bytes);
  if (!queue->requests || !queue->begun || !queue->hits || !queue->buffers) return -ENOMEM;
  *what = "the driver's descriptors cannot be mapped";
  queue->asked = mmap(NULL, asked_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, device->fd,
                      UBLKSRV_CMD_BUF_OFFSET + (off_t)(queue->id * stride));
  if (queue->asked == MAP_FAILED) {
    queue->asked = NULL;
    return -errno;
  }
  *what = "no queue of the cache";
  status = pcache_queue_create(device->cache, device->depth, &queue->cached, &error);
  if (status) return status;
  status = pcache_queue_fd(queue->cached);
  if (status < 0) return status;
  *what = "no io_uring";
  status = io_uring_queue_init(device->depth + 1, &queue->ring,
                               IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN);
  queue->has_ring = !status;
  return status;
}

/* What has come before the device is started is what the driver refuses. */
static int fetch_all(struct queue* queue) {
  struct io_uring_cqe* cqe;
  int status;

  for (uint32_t tag = 0; tag < queue->serve->device.depth; tag++)
    tell_driver(queue, UBLK_U_IO_FETCH_REQ, tag, 0);
  poll_cached(queue);
  status = io_uring_submit(&queue->ring);
  if (status < 0) return status;
  queue->live = queue->serve->device.depth;
  if (io_uring_peek_cqe(&queue->ring, &cqe) == 0 && cqe->user_data != READABLE && cqe->res < 0)
    return cqe->res;
  return 0;
}

static int take_completions(struct queue* queue) {
  struct io_uring_cqe* cqe;
  unsigned head, taken = 0;
  bool readable = false;

  io_uring_for_each_cqe(&queue->ring, head, cqe) {
    taken++;
    if (cqe->user_data == READABLE)
      readable = true;
    else if (cqe->res == UBLK_IO_RES_OK)
      begin_request(queue, (uint32_t)cqe->user_data);
    else
      queue->live--; /* aborted, and not fetched again */
  }
  io_uring_cq_advance(&queue->ring, taken);
  submit_begun(queue);
  if (!readable) return 0;
  queue->polled = false;
  return reap(queue);
}

static int serve_queue(struct queue* queue) {
  while (queue->live) {
    int status;

    if (!queue->polled) poll_cached(queue);
    status = io_uring_submit_and_wait(&queue->ring, 1);
    if (status < 0 && status != -EINTR && status != -EAGAIN && status != -EBUSY) return status;
    status = take_completions(queue);
    if (status) return status;
  }
  return 0;
}

/*
 * `idle`: the driver has given up each tag. Else it may copy to and from the buffers until the
 * kernel has ended the ring, for which nobody can wait: they stay until the process ends.
 */
static void close_queue(struct queue* queue, bool idle) {
  const struct serve_device* device = &queue->serve->device;

  if (queue->has_ring) io_uring_queue_exit(&queue->ring);
  pcache_queue_destroy(queue->cached);
  if (queue->asked)
    munmap((void*)queue->asked, page_up(device->depth * sizeof(struct ublksrv_io_desc)));
  if (idle) free(queue->buffers);
  free(queue->requests);
  free(queue->begun);
  free(queue->hits);
}

static void answer(struct serve* serve, int status, const char* what) {
  pthread_mutex_lock(&serve->lock);
  serve->answered++;
  if (status && !serve->status) {
    serve->status = status;
    snprintf(serve->what, sizeof(serve->what), "%s", what);
  }
  pthread_cond_signal(&serve->told);
  pthread_mutex_unlock(&serve->lock);
}

static void* run(void* argument) {
  struct queue* queue = argument;
  struct serve* serve = queue->serve;
  const char* what;
  int status = open_queue(queue, &what);

  if (!status) {
    what = "the driver takes no FETCH_REQ";
    status = fetch_all(queue);
  }
  answer(serve, status, what);
  if (!status) {
    status = serve_queue(queue);
    if (status) {
      fprintf(stderr, "pcache-ublk: queue %u: %s\n", queue->id, strerror(-status));
      pthread_mutex_lock(&serve->lock);
      if (!serve->failed) serve->failed = status;
      pthread_mutex_unlock(&serve->lock);
    }
  }
  close_queue(queue, !status);
  pthread_kill(serve->caller, serve->signal);
  return NULL;
}

/* ---- All of them ---- */

int serve_begin(const struct serve_device* device, int signal, struct serve** out,
                struct pcache_error* error) {
  struct serve* serve = calloc(1, sizeof(*serve) + device->queues * sizeof(serve->queues[0]));
  int status = 0;

  *out = serve;
  if (!serve) {
    snprintf(error->text, sizeof(error->text), "no memory for %u queues", device->queues);
    return error->code = -ENOMEM;
  }
  serve->device = *device;
  serve->signal = signal;
  serve->caller = pthread_self();
  pthread_mutex_init(&serve->lock, NULL);
  pthread_cond_init(&serve->told, NULL);
  while (!status && serve->started < device->queues) {
    struct queue* queue = &serve->queues[serve->started];

    queue->serve = serve;
    queue->id = (uint16_t)serve->started;
    status = -pthread_create(&queue->thread, NULL, run, queue);
    if (!status) serve->started++;
  }
  pthread_mutex_lock(&serve->lock);
  while (serve->answered < serve->started) pthread_cond_wait(&serve->told, &serve->lock);
  if (status)
    snprintf(error->text, sizeof(error->text), "thread %u of %u: %s", serve->started,
             device->queues, strerror(-status));
  else if (serve->status)
    snprintf(error->text, sizeof(error->text), "%s: %s", serve->what, strerror(-serve->status));
  status = status ? status : serve->status;
  pthread_mutex_unlock(&serve->lock);
  return error->code = status;
}

bool serve_failed(struct serve* serve) {
  bool failed;

  pthread_mutex_lock(&serve->lock);
  failed = serve->failed != 0;
  pthread_mutex_unlock(&serve->lock);
  return failed;
}

int serve_end(struct serve* serve) {
  int failed;

  if (!serve) return 0;
  for (uint32_t i = 0; i < serve->started; i++) pthread_join(serve->queues[i].thread, NULL);
  failed = serve->failed;
  pthread_cond_destroy(&serve->told);
  pthread_mutex_destroy(&serve->lock);
  free(serve);
  return failed;
}
