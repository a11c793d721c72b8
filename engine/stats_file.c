/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "stats_file.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "message.h"

struct stats_file {
  pcache_cache* cache;
  const char* path;
  unsigned interval_s;
  pthread_t thread; /* if interval_s is not 0 */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ending; /* under lock */
};

static int write_file(const struct stats_file* stats) {
  char* status = pcache_get_status(stats->cache, PCACHE_STATUS_JSON);
  char* temporary = NULL;
  FILE* file = NULL;
  int ret = 0;

  if (!status || asprintf(&temporary, "%s.%d.tmp", stats->path, (int)getpid()) < 0) {
    temporary = NULL;
    ret = ENOMEM;
    goto out;
  }
  file = fopen(temporary, "we");
  if (!file || fprintf(file, "%s\n", status) < 0) ret = errno;
  if (file && fclose(file) && !ret) ret = errno;
  if (!ret && rename(temporary, stats->path)) ret = errno;
  if (ret) unlink(temporary);
out:
  free(temporary);
  free(status);
  return ret;
}

/* What fails is tried again at the next interval; at the end it is said. */
static void* write_at_intervals(void* arg) {
  struct stats_file* stats = arg;
  struct timespec next;

  clock_gettime(CLOCK_MONOTONIC, &next);
  pthread_mutex_lock(&stats->lock);
  for (;;) {
    next.tv_sec += stats->interval_s;
    while (!stats->ending &&
           pthread_cond_timedwait(&stats->changed, &stats->lock, &next) != ETIMEDOUT) {
    }
    if (stats->ending) break;
    pthread_mutex_unlock(&stats->lock);
    write_file(stats);
    pthread_mutex_lock(&stats->lock);
  }
  pthread_mutex_unlock(&stats->lock);
  return NULL;
}

/* Its thread takes no signal but that of a bad page: they are fio's. */
static int start_thread(struct stats_file* stats) {
  sigset_t all;
  sigset_t before;
  int ret;

  sigfillset(&all);
  sigdelset(&all, SIGBUS);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  ret = pthread_create(&stats->thread, NULL, write_at_intervals, stats);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return ret;
}

static void free_stats(struct stats_file* stats) {
  pthread_cond_destroy(&stats->changed);
  pthread_mutex_destroy(&stats->lock);
  free(stats);
}

int stats_file_begin(pcache_cache* cache, const char* path, unsigned interval_s,
                     struct stats_file** out) {
  struct stats_file* stats = calloc(1, sizeof(*stats));
  pthread_condattr_t monotonic;
  int ret;

  if (!stats) {
    message("stats_file=%s: %s", path, strerror(ENOMEM));
    return ENOMEM;
  }
  *stats = (struct stats_file){.cache = cache, .path = path, .interval_s = interval_s};
  pthread_mutex_init(&stats->lock, NULL);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&stats->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  ret = interval_s ? start_thread(stats) : 0;
  if (ret) {
    message("stats_file=%s: no thread for stats_interval=%u can be started: %s", path, interval_s,
            strerror(ret));
    free_stats(stats);
    return ret;
  }
  *out = stats;
  return 0;
}

int stats_file_end(struct stats_file* stats) {
  int ret;

  if (stats->interval_s) {
    pthread_mutex_lock(&stats->lock);
    stats->ending = true;
    pthread_cond_signal(&stats->changed);
    pthread_mutex_unlock(&stats->lock);
    pthread_join(stats->thread, NULL);
  }
  ret = write_file(stats);
  if (ret) message("stats_file=%s: not written: %s", stats->path, strerror(ret));
  free_stats(stats);
  return ret;
}
