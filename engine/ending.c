/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ending.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

/* As fio's runtime_exceeded(), which it asks between two requests only. */
static bool runtime_is_over(struct thread_data* td) {
  uint64_t runtime_us = td->o.timeout;

  if (!runtime_us) return false;
  if (!td->epoch.tv_sec && !td->epoch.tv_nsec) return false; /* the job has not begun */
  if (engine_job_is_in_ramp(td)) {
    if (!td->o.ramp_time) return false; /* it ends after some bytes, with no time set for them */
    runtime_us += td->o.ramp_time;
  }
  return utime_since_now(&td->epoch) >= runtime_us;
}

bool job_is_to_end(struct thread_data* td) { return td->terminate || runtime_is_over(td); }

void end_without_device(const char* job, const char* cache_dev, const char* device) {
  message(
      "job %s: %s has not answered for %d s: fio ends here, and %s is left as after a crash: "
      "nothing that was flushed is lost",
      job, device, ENDING_DEVICE_MS / 1000, cache_dev);
  _exit(1);
}

/* ---- Calls that may wait for the device ---- */

struct thread {
  const struct long_call* call;
  int result;
};

static void* run(void* arg) {
  struct thread* thread = arg;

  thread->result = thread->call->call(thread->call->arg);
  return NULL;
}

/* Whether the thread has ended; waits for a slice. */
static bool ended(pthread_t thread) {
  struct timespec until;

  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += ENDING_SLICE_MS * 1000000L;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  return !pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until);
}

/* What a call's progress is seen by, as it was when it was last looked at. */
struct seen {
  char* status;
  unsigned long long io_bytes;
  long long cpu_ns;
};

static bool status_changes(pcache_cache* cache, struct seen* seen) {
  char* now = pcache_get_status(cache, PCACHE_STATUS_JSON);
  bool changed = now && (!seen->status || strcmp(now, seen->status) != 0);

  free(seen->status);
  seen->status = now;
  return changed;
}

/* What this process has read from devices and written to them; 0 where the kernel does not tell. */
static unsigned long long io_bytes(void) {
  FILE* file = fopen("/proc/self/io", "re");
  unsigned long long all = 0, value;
  char line[128];

  while (file && fgets(line, sizeof(line), file))
    if (sscanf(line, "read_bytes: %llu", &value) == 1 ||
        sscanf(line, "write_bytes: %llu", &value) == 1)
      all += value;
  if (file) fclose(file);
  return all;
}

static long long cpu_ns(pthread_t thread) {
  struct timespec used;
  clockid_t clock;

  if (pthread_getcpuclockid(thread, &clock) || clock_gettime(clock, &used)) return 0;
  return used.tv_sec * 1000000000LL + used.tv_nsec;
}

/* A thread that only looks whether there is something takes less of its second than this. */
#define BUSY_NS 50000000

static bool works(pthread_t thread, struct seen* seen) {
  unsigned long long io = io_bytes();
  long long cpu = cpu_ns(thread);
  bool changed = io != seen->io_bytes || cpu - seen->cpu_ns >= BUSY_NS;

  seen->io_bytes = io;
  seen->cpu_ns = cpu;
  return changed;
}

static bool gets_on(const struct long_call* call, pthread_t thread, struct seen* seen) {
  switch (call->progress) {
    case PROGRESS_STATUS:
      return status_changes(call->cache, seen);
    case PROGRESS_IO:
      return works(thread, seen);
    case PROGRESS_UNKNOWN:
      break;
  }
  return false;
}

/* Nothing has been seen of the call for ENDING_DEVICE_MS. */
static void end_or_say(const struct long_call* call, int quiet_ms, bool* said) {
  bool to_end = !call->td || job_is_to_end(call->td);

  if (call->progress == PROGRESS_UNKNOWN) {
    if (to_end) {
      message("job %s: %s %s has taken %d s: fio ends here, and it is left as after a crash",
              call->job, call->what, call->cache_dev, quiet_ms / 1000);
      _exit(1);
    }
    if (!*said)
      message("%s %s still goes on, %d s; Ctrl-C ends fio", call->what, call->cache_dev,
              quiet_ms / 1000);
  } else {
    if (to_end) end_without_device(call->job, call->cache_dev, call->device);
    if (!*said)
      message("%s %s waits for %s, which has not answered for %d s; Ctrl-C ends fio", call->what,
              call->cache_dev, call->device, ENDING_DEVICE_MS / 1000);
  }
  *said = true;
}

int make_long_call(const struct long_call* call) {
  struct thread thread = {.call = call};
  struct seen seen = {0};
  pthread_t id;
  bool said = false;

  if (pthread_create(&id, NULL, run, &thread)) return call->call(call->arg);
  for (int quiet_ms = 0; !ended(id);) {
    quiet_ms += ENDING_SLICE_MS;
    if (quiet_ms % 1000 == 0 && gets_on(call, id, &seen)) quiet_ms = 0;
    if (quiet_ms >= ENDING_DEVICE_MS) end_or_say(call, quiet_ms, &said);
  }
  free(seen.status);
  return thread.result;
}
