/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fio's external engine "pcache": jobs run through libpcache, in fio's own process.
 *
 *     fio --ioengine=external:build/lib/libpcache_fio.so job.fio
 *     LD_PRELOAD=build/lib/libpcache_fio.so fio --ioengine=pcache job.fio
 *
 * Where fio calls the hooks: setup in the main thread, for every job before the first one starts;
 * all others in the job's thread. setup takes the job's reference to the cache and cleanup drops
 * it. What is refused is refused in setup, without td->error: fio then exits with an error, and its
 * JSON can still be parsed.
 */
#include <errno.h>
#include <stdlib.h>

#include "fio_layout.h"
#include "job.h"
#include "message.h"
#include "options.h"
#include "replay.h"

static struct ioengine_ops engine;
static bool fits; /* the fio that has loaded this library */

static int engine_setup(struct thread_data* td) {
  struct cache_wishes wishes;
  const struct pcache_info* info;
  struct job* job;
  uint64_t bytes;

  if (!job_layout_fits(td, &engine)) return EINVAL;
  td->o.use_thread = 1; /* a forked child would work on a private copy of the cache's state */
  if (td->io_ops_data) return 0;
  if (check_filename(td) || options_to_wishes(td, &wishes) || check_workload(td, &wishes) ||
      check_replay(td))
    return EINVAL;

  /* What can be refused before the cache is opened is: opening formats a blank one. */
  bytes = engine_device_bytes(wishes.options.backing_path);
  if (bytes && check_geometry(td, 512, bytes)) return EINVAL;

  job = calloc(1, sizeof(*job));
  if (!job) return ENOMEM;
  if (shared_cache_get(&wishes, td, &job->shared)) {
    free(job);
    return EINVAL;
  }
  info = shared_cache_info(job->shared);
  if (check_geometry(td, info->block_size, info->logical_bytes)) {
    shared_cache_put(job->shared, td);
    free(job);
    return EINVAL;
  }
  job->pid = getpid();
  td->io_ops_data = job;
  return 0;
}

static int engine_init(struct thread_data* td) {
  struct job* job = td->io_ops_data;

  if (!job) { /* create_serialize=0 gets here before setup */
    message("job %s: was not set up: create_serialize=0 is not supported", td->o.name);
    return EINVAL;
  }
  if (!td->o.use_thread || job->pid != getpid()) {
    message("job %s: runs as a process: the cache needs thread=1", td->o.name);
    return EINVAL;
  }
  if (check_replayed_files(td, shared_cache_backing(job->shared))) return EINVAL;
  return job_start(job, td);
}

static void engine_cleanup(struct thread_data* td) {
  struct job* job = td->io_ops_data;
  int ret;

  if (!job) return;
  job_stop(td, job);
  ret = shared_cache_put(job->shared, td);
  if (ret) td_verror(td, ret, "closing the cache");
  free(job);
  td->io_ops_data = NULL;
}

/* The library opens the devices; fio only keeps count. invalidate has nothing to drop. */
static int no_op(struct thread_data* td, struct fio_file* file) { return 0; }

/* unlink=1 is not followed: the backing device holds the data that the cache does not. */
static struct ioengine_ops engine = {
    .name = "pcache",
    .version = FIO_IOOPS_VERSION,
    .flags = FIO_DISKLESSIO | FIO_NODISKUTIL | FIO_NOEXTEND | FIO_RAWIO | FIO_MEMALIGN |
             FIO_BARRIER | FIO_ASYNCIO_SETS_ISSUE_TIME | FIO_NO_OFFLOAD,
    .setup = engine_setup,
    .init = engine_init,
    .cleanup = engine_cleanup,
    .io_u_init = job_io_u_init,
    .io_u_free = job_io_u_free,
    .queue = job_queue,
    .getevents = job_getevents,
    .event = job_event,
    .open_file = no_op,
    .close_file = no_op,
    .invalidate = no_op,
    .unlink_file = no_op,
    .options = engine_option_table,
    .option_struct_size = sizeof(struct engine_options),
};

/*
 * A function and not an object called `ioengine`: preloaded, that would take the place of the one
 * in fio's own loadable engines.
 */
ENGINE_EXPORT void get_ioengine(struct ioengine_ops** ops);
void get_ioengine(struct ioengine_ops** ops) {
  if (fits) *ops = &engine;
}

/* Registers it for LD_PRELOAD. A fio that it does not fit does not get it in any way. */
__attribute__((constructor)) static void register_engine(void) {
  fits = fio_layout_fits();
  if (!fits) return;
  make_engine_options();
  if (register_ioengine) register_ioengine(&engine);
}

__attribute__((destructor)) static void unregister_engine(void) {
  if (fits && unregister_ioengine) unregister_ioengine(&engine);
}
