/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ending.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

/* As fio's runtime_exceeded(), which it asks between two requests only. */
static bool runtime_is_over(struct thread_data* td) {
  uint64_t runtime_us = td->o.timeout;

  if (!runtime_us) return false;
  if (in_ramp_time(td)) runtime_us += td->o.ramp_time;
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

/* Whether the status has changed since the last time; keeps it in *last. */
static bool gets_on(pcache_cache* cache, char** last) {
  char* now = pcache_get_status(cache, PCACHE_STATUS_JSON);
  bool changed = now && (!*last || strcmp(now, *last) != 0);

  free(*last);
  *last = now;
  return changed;
}

int make_long_call(const struct long_call* call) {
  struct thread thread = {.call = call};
  pthread_t id;
  char* last = NULL;
  bool said = false;

  if (pthread_create(&id, NULL, run, &thread)) return call->call(call->arg);
  for (int quiet_ms = 0; !ended(id);) {
    quiet_ms += ENDING_SLICE_MS;
    if (quiet_ms % 1000 == 0 && call->progress && gets_on(call->progress, &last)) quiet_ms = 0;
    if (quiet_ms < ENDING_DEVICE_MS) continue;
    if (!call->td || job_is_to_end(call->td))
      end_without_device(call->job, call->cache_dev, call->device);
    if (!said)
      message("%s %s waits for %s, which has not answered for %d s; Ctrl-C ends fio", call->what,
              call->cache_dev, call->device, ENDING_DEVICE_MS / 1000);
    said = true;
  }
  free(last);
  return thread.result;
}
