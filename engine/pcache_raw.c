/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fio's external engine "pcache_raw": the bound to which the cache is compared. It stores and loads
 * the same bytes through the same mapping and persist primitives of libpcache, and does nothing
 * else. A request for offset X goes to X modulo the size of the map. Every request is accounted
 * exactly as a hit of the engine "pcache": it completes at once, or, with iodepth_batch above 1,
 * when so many are queued or fio looks for them.
 *
 * A flush stores a record of 64 bytes and fences, which is the least that one must do.
 *
 * It overwrites cache_dev. The library refuses a device that holds a cache.
 */
#include "pcache_raw.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fio_api.h"
#include "fio_layout.h"
#include "message.h"

enum { FENCE_EACH, FENCE_NONE };

struct raw_options {
  void* pad; /* fio's: it reads a magic number here */
  char* cache_dev;
  unsigned long long cache_size;
  char* persist;
  unsigned int emulate_pmem;
  int fence;
  int huge_pages;
};

#define ENGINE_OPTION .category = FIO_OPT_C_ENGINE, .group = FIO_OPT_G_INVALID

static struct fio_option option_table[] = {
    {
        .name = "cache_dev",
        .lname = "Cache device",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct raw_options, cache_dev),
        .help = "The pmem to store to and load from. Required. It is overwritten",
        ENGINE_OPTION,
    },
    {
        .name = "cache_size",
        .lname = "Cache size",
        .type = FIO_OPT_STR_VAL,
        .off1 = offsetof(struct raw_options, cache_size),
        .help = "With emulate_pmem=1: create the file, or extend it, to this many bytes",
        ENGINE_OPTION,
    },
    {
        .name = "emulate_pmem",
        .lname = "Emulate pmem",
        .type = FIO_OPT_BOOL,
        .off1 = offsetof(struct raw_options, emulate_pmem),
        .def = "0",
        .help = "1: take any file as pmem",
        ENGINE_OPTION,
    },
    {
        .name = "persist",
        .lname = "Persist method",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct raw_options, persist),
        .help = "auto, flushcache, clflushopt, clwb or movdir64b. Default: auto",
        ENGINE_OPTION,
    },
    {
        .name = "fence",
        .lname = "Fence",
        .type = FIO_OPT_STR,
        .off1 = offsetof(struct raw_options, fence),
        .def = "each",
        .help = "When stores are made durable",
        .posval =
            {
                {.ival = "each", .oval = FENCE_EACH, .help = "A fence after each write"},
                {.ival = "none", .oval = FENCE_NONE, .help = "Only for fsync and sync=1"},
            },
        ENGINE_OPTION,
    },
    {
        .name = "huge_pages",
        .lname = "Huge pages",
        .type = FIO_OPT_STR,
        .off1 = offsetof(struct raw_options, huge_pages),
        .def = "auto",
        .help = "Whether the pages of a cache_dev in memory are of 2 MiB, as the engine pcache's",
        .posval =
            {
                {.ival = "auto", .oval = PCACHE_HUGE_PAGES_AUTO, .help = "Where the kernel does"},
                {.ival = "never", .oval = PCACHE_HUGE_PAGES_NEVER, .help = "As the file has them"},
            },
        ENGINE_OPTION,
    },
    {.name = NULL},
};

/* One map for each cache_dev, as the library takes a device only once. Under the lock. */
struct map {
  struct map* next;
  pcache_raw* raw;
  char* cache_dev;
  unsigned references;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map* maps;

struct raw_job {
  struct map* map;
  uint64_t bytes;
  bool fence_each;
  unsigned batch;     /* so many are done together */
  struct io_u** held; /* `iodepth`: first those that are done, for getevents(), then those that are
                         to be */
  unsigned done_count;
  unsigned held_count; /* of both */
  uint64_t record_off;
  pid_t pid; /* of the process that has opened the map */
};

static void log_line(void* ctx, enum pcache_log_level level, const char* line) {
  (void)ctx;
  (void)level;
  message("%s", line);
}

static struct map* open_map(const struct thread_data* td) {
  const struct raw_options* eo = td->eo;
  struct pcache_raw_options options;
  struct pcache_error error = {0};
  struct map* map = calloc(1, sizeof(*map));
  int ret;

  if (!map) return NULL;
  pcache_raw_options_init(&options);
  options.cache_path = eo->cache_dev;
  options.cache_size = eo->cache_size;
  options.emulate_pmem = (int)eo->emulate_pmem;
  if (eo->persist) options.persist = eo->persist;
  options.huge_pages = eo->huge_pages;
  options.log = log_line;
  ret = pcache_raw_open(&options, &map->raw, &error);
  map->cache_dev = ret ? NULL : strdup(eo->cache_dev);
  if (!map->cache_dev) {
    message("job %s: %s", td->o.name, error.text[0] ? error.text : strerror(ret ? -ret : ENOMEM));
    if (!ret) pcache_raw_close(map->raw);
    free(map);
    return NULL;
  }
  map->next = maps;
  maps = map;
  return map;
}

static struct map* get_map(const struct thread_data* td) {
  const struct raw_options* eo = td->eo;
  struct map* map;

  pthread_mutex_lock(&lock);
  for (map = maps; map && strcmp(map->cache_dev, eo->cache_dev) != 0; map = map->next)
    ;
  if (!map) map = open_map(td);
  if (map) map->references++;
  pthread_mutex_unlock(&lock);
  return map;
}

static void put_map(struct map* map) {
  pthread_mutex_lock(&lock);
  if (--map->references == 0) {
    struct map** at = &maps;

    while (*at != map) at = &(*at)->next;
    *at = map->next;
    pcache_raw_close(map->raw);
    free(map->cache_dev);
    free(map);
  }
  pthread_mutex_unlock(&lock);
}

static struct ioengine_ops engine;
static bool fits; /* the fio that has loaded this library */

static int raw_setup(struct thread_data* td) {
  const struct raw_options* eo;
  struct raw_job* job;

  if (!job_layout_fits(td, &engine)) return EINVAL;
  eo = td->eo;
  td->o.use_thread = 1; /* a map is shared by all its jobs */
  if (td->io_ops_data) return 0;
  if (!eo->cache_dev || td->files_index != 1 || td_trim(td) || !td->o.create_serialize) {
    message("job %s: pcache_raw needs cache_dev=, one filename=, create_serialize=1 and no trim",
            td->o.name);
    return EINVAL;
  }
  job = calloc(1, sizeof(*job));
  if (!job) return ENOMEM;
  job->map = get_map(td);
  if (!job->map) {
    free(job);
    return EINVAL;
  }
  job->fence_each = eo->fence == FENCE_EACH || td->o.sync_io;
  job->bytes = pcache_raw_bytes(job->map->raw);
  job->pid = getpid();
  /* The size of filename, so that one job section serves both engines. */
  td->files[0]->real_file_size = td->o.filename ? engine_device_bytes(td->files[0]->file_name) : 0;
  if (!td->files[0]->real_file_size) td->files[0]->real_file_size = job->bytes;
  td->io_ops_data = job;
  return 0;
}

static int raw_init(struct thread_data* td) {
  struct raw_job* job = td->io_ops_data;

  if (!job || !td->o.use_thread || job->pid != getpid()) {
    message("job %s: was not set up as a thread", td->o.name);
    return EINVAL;
  }
  job->batch = td->o.iodepth_batch;
  job->held = calloc(td->o.iodepth, sizeof(struct io_u*));
  return job->held ? 0 : ENOMEM;
}

static void raw_cleanup(struct thread_data* td) {
  struct raw_job* job = td->io_ops_data;

  if (!job) return;
  put_map(job->map);
  free(job->held);
  free(job);
  td->io_ops_data = NULL;
}

/*
 * What a flush cannot do without is a record of what is durable now: 64 bytes, one behind the
 * other over the first MiB of the map.
 */
static int store_record(struct raw_job* job) {
  static const char record[64];
  int result = pcache_raw_store(job->map->raw, job->record_off, record, sizeof(record));

  job->record_off = (job->record_off + sizeof(record)) % (1 << 20);
  return result;
}

static void run(struct raw_job* job, struct io_u* io_u) {
  pcache_raw* raw = job->map->raw;
  uint64_t len = io_u->xfer_buflen;
  uint64_t off = io_u->offset % job->bytes;

  if (ddir_rw(io_u->ddir) && len > job->bytes) {
    io_u->error = EINVAL;
    return;
  }
  if (off + len > job->bytes) off = job->bytes - len;
  switch (io_u->ddir) {
    case DDIR_READ:
      io_u->error = (unsigned int)-pcache_raw_load(raw, off, io_u->xfer_buf, len);
      break;
    case DDIR_WRITE:
      io_u->error = (unsigned int)-pcache_raw_store(raw, off, io_u->xfer_buf, len);
      if (job->fence_each) pcache_raw_fence(raw);
      break;
    case DDIR_TRIM:
      io_u->error = EOPNOTSUPP;
      break;
    default:
      io_u->error = (unsigned int)-store_record(job);
      pcache_raw_fence(raw);
  }
}

static void run_held(struct raw_job* job) {
  while (job->done_count < job->held_count) run(job, job->held[job->done_count++]);
}

static enum fio_q_status raw_queue(struct thread_data* td, struct io_u* io_u) {
  struct raw_job* job = td->io_ops_data;

  engine_stamp_issue_time(td, io_u);
  if (job->batch > 1) {
    job->held[job->held_count++] = io_u;
    if (job->held_count - job->done_count == job->batch) run_held(job);
    return FIO_Q_QUEUED;
  }
  run(job, io_u);
  return FIO_Q_COMPLETED;
}

/*
 * All that is done, at once, as the engine "pcache" gives its hits. The engine is not FIO_SYNCIO,
 * although nothing waits: fio would cap iodepth with a note on stdout.
 */
static int raw_getevents(struct thread_data* td, unsigned int min, unsigned int max,
                         const struct timespec* timeout) {
  struct raw_job* job = td->io_ops_data;
  unsigned count;

  td_io_commit(td);
  run_held(job);
  count = job->done_count;
  job->held_count = job->done_count = 0;
  return (int)count;
}

static struct io_u* raw_event(struct thread_data* td, int event) {
  struct raw_job* job = td->io_ops_data;

  return job->held[event];
}

static int no_op(struct thread_data* td, struct fio_file* file) { return 0; }

static struct ioengine_ops engine = {
    .name = "pcache_raw",
    .version = FIO_IOOPS_VERSION,
    .flags = FIO_DISKLESSIO | FIO_NODISKUTIL | FIO_NOEXTEND | FIO_RAWIO | FIO_MEMALIGN |
             FIO_ASYNCIO_SETS_ISSUE_TIME | FIO_NO_OFFLOAD,
    .setup = raw_setup,
    .init = raw_init,
    .cleanup = raw_cleanup,
    .queue = raw_queue,
    .getevents = raw_getevents,
    .event = raw_event,
    .open_file = no_op,
    .close_file = no_op,
    .invalidate = no_op,
    .unlink_file = no_op,
    .options = option_table,
    .option_struct_size = sizeof(struct raw_options),
};

ENGINE_EXPORT void get_ioengine(struct ioengine_ops** ops);
void get_ioengine(struct ioengine_ops** ops) {
  if (fits) *ops = &engine;
}

__attribute__((constructor)) static void register_engine(void) {
  fits = fio_layout_fits();
  if (fits && register_ioengine) register_ioengine(&engine);
}

__attribute__((destructor)) static void unregister_engine(void) {
  if (fits && unregister_ioengine) unregister_ioengine(&engine);
}
