/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "shared_cache.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ending.h"
#include "job_names.h"
#include "message.h"
#include "stats_file.h"

/* Identity of a file or device under any of its names. */
struct file_id {
  dev_t dev; /* of the file's file system; of the device itself when ino is 0 */
  ino_t ino;
  bool known; /* false: there is no such file (yet) */
};

struct shared_cache {
  struct shared_cache* next;
  pcache_cache* cache;
  struct pcache_info info;
  struct cache_wishes wishes; /* of the job that opened it, as they are in use; texts are ours */
  char* stats_path;           /* or NULL */
  struct stats_file* stats;   /* or NULL */
  struct file_id cache_id;
  struct file_id backing_id;
  unsigned references;
  unsigned queues; /* of running jobs */
  bool closing;    /* its last job has ended */
  bool left;       /* seen at the process's end */
  pid_t owner;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct shared_cache* caches; /* under lock */

static struct file_id identify(const char* path) {
  struct stat st;

  if (stat(path, &st)) return (struct file_id){0};
  if (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode))
    return (struct file_id){.dev = st.st_rdev, .known = true};
  return (struct file_id){.dev = st.st_dev, .ino = st.st_ino, .known = true};
}

static bool same_file(struct file_id a, struct file_id b) {
  return a.known && b.known && a.dev == b.dev && a.ino == b.ino;
}

/* A device on a server, which no file stands for: the same if it is written the same. */
static bool same_server(const char* a, const char* b) { return strstr(a, "://") && !strcmp(a, b); }

static void log_line(void* ctx, enum pcache_log_level level, const char* line) {
  static const char* const prefix[] = {"error: ", "warning: ", ""};

  (void)ctx;
  message("%s%s", level <= PCACHE_LOG_NOTICE ? prefix[level] : "", line);
}

/* ---- Contradictions between the jobs of one cache ---- */

static bool agree(const struct shared_cache* shared, const struct cache_wishes* wishes,
                  const char* option, const char* first, const char* second) {
  if (!strcmp(first, second)) return true;
  message("%s=%s (job %s) contradicts %s=%s (job %s) for the same cache %s: give one value", option,
          second, wishes->job, option, first, shared->wishes.job,
          shared->wishes.options.cache_path);
  return false;
}

static bool is_auto(const char* persist) { return !persist || !strcmp(persist, "auto"); }

/*
 * Auto, and nothing, take what the cache uses. A method that is named is what auto has chosen, or a
 * contradiction: auto may take another one for each size, which is no value that one could give.
 */
static bool persist_agrees(const struct shared_cache* shared, const struct cache_wishes* wishes) {
  if (is_auto(wishes->options.persist) || !strcmp(wishes->options.persist, shared->info.persist))
    return true;
  if (!is_auto(shared->wishes.options.persist))
    return agree(shared, wishes, "persist", shared->info.persist, wishes->options.persist);
  message(
      "persist=%s (job %s) contradicts persist=auto (job %s), which has chosen %s for the same "
      "cache %s: give persist=%s to both jobs, or to none",
      wishes->options.persist, wishes->job, shared->wishes.job, shared->info.persist,
      shared->wishes.options.cache_path, wishes->options.persist);
  return false;
}

static bool option_agrees(const struct shared_cache* shared, const struct cache_wishes* wishes,
                          uint32_t index, const struct pcache_option_info* info) {
  char first[PATH_MAX], second[PATH_MAX];
  bool given = wishes->given >> index & 1;

  pcache_options_get(&shared->wishes.options, info->name, first, sizeof(first));
  pcache_options_get(&wishes->options, info->name, second, sizeof(second));
  /* All jobs have it, or none; fio's --readonly is not given as an option. */
  if (!strcmp(info->name, "readonly")) return agree(shared, wishes, info->fio, first, second);
  /* Devices are compared in find(). `force` has no meaning once the cache is open. */
  if (!given || !strcmp(info->name, "cache_path") || !strcmp(info->name, "force")) return true;
  if (!strcmp(info->name, "persist")) return persist_agrees(shared, wishes);
  /* Whatever it is. */
  if (!strcmp(second, info->type == PCACHE_OPTION_SWITCH ? "0" : "media")) return true;
  return agree(shared, wishes, info->fio, first, second);
}

/*
 * What the second job does not give it takes from the open cache. What it gives must be what the
 * cache uses.
 */
static bool options_agree(const struct shared_cache* shared, const struct cache_wishes* wishes) {
  struct pcache_option_info info;
  char first[16], second[16];

  for (uint32_t i = 0; describe_option(i, &info); i++)
    if (!option_agrees(shared, wishes, i, &info)) return false;
  if (shared->wishes.stats_file && wishes->stats_file &&
      !agree(shared, wishes, "stats_file", shared->wishes.stats_file, wishes->stats_file))
    return false;
  snprintf(first, sizeof(first), "%u", shared->wishes.stats_interval_s);
  snprintf(second, sizeof(second), "%u", wishes->stats_interval_s);
  return !wishes->stats_interval_s || agree(shared, wishes, "stats_interval", first, second);
}

/* ---- Finding, opening, closing; all under the lock ---- */

/* 0 with *out: found. 0 without: to be opened. Otherwise a positive errno, and said why. */
static int find(const struct cache_wishes* wishes, struct file_id cache_id,
                struct file_id backing_id, const char* stats_path, struct shared_cache** out) {
  *out = NULL;
  for (struct shared_cache* s = caches; s; s = s->next) {
    bool cache = same_file(s->cache_id, cache_id);
    bool backing = same_file(s->backing_id, backing_id) ||
                   same_server(s->wishes.options.backing_path, wishes->options.backing_path);

    if (cache && backing) {
      *out = s;
    } else if (cache) {
      message(
          "job %s: cache_dev=%s is already the cache of %s (job %s), not of %s: "
          "a cache has one backing device",
          wishes->job, wishes->options.cache_path, s->wishes.options.backing_path, s->wishes.job,
          wishes->options.backing_path);
      return EINVAL;
    } else if (backing) {
      message(
          "job %s: filename=%s is already cached by cache_dev=%s (job %s), not by %s: "
          "a backing device has one cache",
          wishes->job, wishes->options.backing_path, s->wishes.options.cache_path, s->wishes.job,
          wishes->options.cache_path);
      return EINVAL;
    } else if (stats_path && s->stats_path && !strcmp(stats_path, s->stats_path)) {
      message("job %s: stats_file=%s is already that of another cache, %s (job %s)", wishes->job,
              stats_path, s->wishes.options.cache_path, s->wishes.job);
      return EINVAL;
    }
  }
  return 0;
}

static char* copy(const char* text) { return text ? strdup(text) : NULL; }

bool describe_option(uint32_t index, struct pcache_option_info* info) {
  *info = (struct pcache_option_info){.size = sizeof(*info)};
  return index < ENGINE_MOST_OPTIONS && !pcache_option_describe(index, info) &&
         info->offset + sizeof(int64_t) <= sizeof(struct pcache_options);
}

/* Calls `change` with each option that is a text. */
static void each_text(struct pcache_options* options, void (*change)(char** text)) {
  struct pcache_option_info info;

  for (uint32_t i = 0; describe_option(i, &info); i++)
    if (info.type == PCACHE_OPTION_TEXT || info.type == PCACHE_OPTION_NAME)
      change((char**)((char*)options + info.offset));
}

static void copy_text(char** text) { *text = copy(*text); }

static void free_text(char** text) { free(*text); }

static void free_entry(struct shared_cache* shared) {
  each_text(&shared->wishes.options, free_text);
  free((char*)shared->wishes.job);
  free((char*)shared->wishes.stats_file);
  free(shared->stats_path);
  free(shared);
}

static struct shared_cache* new_entry(const struct cache_wishes* wishes) {
  struct shared_cache* shared = calloc(1, sizeof(*shared));

  if (!shared) return NULL;
  shared->wishes = *wishes;
  shared->wishes.job = copy(wishes->job);
  shared->wishes.stats_file = copy(wishes->stats_file);
  each_text(&shared->wishes.options, copy_text);
  shared->owner = getpid();
  return shared;
}

/* The library's calls that may wait for the backing device, each with its line. */
struct library_call {
  pcache_cache** cache;
  const struct pcache_options* options;
  struct pcache_error error;
};

static int call_open(void* arg) {
  struct library_call* call = arg;

  return pcache_open(call->options, call->cache, &call->error);
}

static int call_drain(void* arg) {
  struct library_call* call = arg;

  return pcache_drain(*call->cache, &call->error);
}

static int call_close(void* arg) {
  struct library_call* call = arg;

  return pcache_close(*call->cache, &call->error);
}

static enum long_call_progress progress_of(int (*function)(void*)) {
  if (function == call_open) return PROGRESS_UNKNOWN;
  return function == call_drain ? PROGRESS_STATUS : PROGRESS_IO; /* closing ends the status */
}

static int call_library(struct shared_cache* shared, struct thread_data* td, const char* what,
                        int (*function)(void*), struct library_call* call) {
  struct long_call watched = {
      .call = function,
      .arg = call,
      .what = what,
      .job = td ? td->o.name : shared->wishes.job,
      .cache_dev = shared->wishes.options.cache_path,
      .device = shared->wishes.options.backing_path,
      .progress = progress_of(function),
      .cache = shared->cache,
      .td = td,
  };

  call->cache = &shared->cache;
  return make_long_call(&watched);
}

/* Takes what the cache tells of itself for what the job that has opened it has wished. */
static void note_what_is_in_use(struct shared_cache* shared) {
  struct pcache_options* options = &shared->wishes.options;

  options->data_crc = shared->info.data_crc;
  options->gc_percent = shared->info.gc_percent;
  if (!options->cache_size) options->cache_size = (int64_t)shared->info.cache_bytes;
}

static int open_cache(struct shared_cache* shared, struct thread_data* td) {
  const struct cache_wishes* wishes = &shared->wishes;
  struct pcache_options options = wishes->options;
  struct library_call call = {.options = &options};
  int ret;

  options.log = log_line;
  options.drain = 0; /* close_cache() drains before it writes the status */
  ret = call_library(shared, td, "opening", call_open, &call);
  if (ret) {
    message("job %s: %s", wishes->job, call.error.text[0] ? call.error.text : strerror(-ret));
    return -ret;
  }
  shared->info.size = sizeof(shared->info);
  ret = pcache_get_info(shared->cache, &shared->info);
  if (ret) {
    message("job %s: pcache_get_info: %s: the library is not the one of this engine", wishes->job,
            strerror(-ret));
    pcache_close(shared->cache, NULL);
    return -ret;
  }
  note_what_is_in_use(shared);
  /* Only now: opening may have created the file. */
  shared->cache_id = identify(wishes->options.cache_path);
  shared->backing_id = identify(wishes->options.backing_path);
  return 0;
}

static int drain_cache(struct shared_cache* shared, struct thread_data* td) {
  struct library_call call = {0};
  int ret = call_library(shared, td, "draining", call_drain, &call);

  if (ret)
    message("draining %s failed, what was not written back stays in the cache: %s",
            shared->wishes.options.cache_path,
            call.error.text[0] ? call.error.text : strerror(-ret));
  return -ret;
}

/* Not under the lock. `closing` is set, so nobody else uses it. */
static int close_cache(struct shared_cache* shared, struct thread_data* td) {
  struct library_call call = {0};
  int drain_ret =
      shared->wishes.options.drain ? drain_cache(shared, td) : 0; /* before the status */
  int stats_ret = shared->stats ? stats_file_end(shared->stats) : 0;
  int ret = call_library(shared, td, "closing", call_close, &call);

  if (ret)
    message("closing %s failed, data may be lost: %s", shared->wishes.options.cache_path,
            call.error.text[0] ? call.error.text : strerror(-ret));
  pthread_mutex_lock(&lock);
  for (struct shared_cache** at = &caches; *at; at = &(*at)->next) {
    if (*at == shared) {
      *at = shared->next;
      break;
    }
  }
  pthread_mutex_unlock(&lock);
  free_entry(shared);
  if (ret) return -ret;
  return drain_ret ? drain_ret : stats_ret;
}

/* ---- Interface ---- */

/* For the job that opens it, or the first that names a file. */
static int begin_stats(struct shared_cache* shared, char** stats_path) {
  int ret;

  if (shared->stats || !*stats_path) return 0;
  ret =
      stats_file_begin(shared->cache, *stats_path, shared->wishes.stats_interval_s, &shared->stats);
  if (ret) return ret;
  shared->stats_path = *stats_path;
  *stats_path = NULL;
  return 0;
}

static int open_entry(const struct cache_wishes* wishes, struct thread_data* td, char** stats_path,
                      struct shared_cache** out) {
  struct shared_cache* shared = new_entry(wishes);
  int ret;

  if (!shared) return ENOMEM;
  ret = open_cache(shared, td);
  if (ret) {
    free_entry(shared);
    return ret;
  }
  ret = begin_stats(shared, stats_path);
  if (ret) {
    pcache_close(shared->cache, NULL);
    free_entry(shared);
    return ret;
  }
  shared->next = caches;
  caches = shared;
  *out = shared;
  return 0;
}

static int get_locked(const struct cache_wishes* wishes, struct thread_data* td, char** stats_path,
                      struct shared_cache** out) {
  struct file_id cache_id = identify(wishes->options.cache_path);
  struct file_id backing_id = identify(wishes->options.backing_path);
  struct shared_cache* shared;
  int ret;

  if (same_file(cache_id, backing_id)) {
    message("job %s: cache_dev=%s and filename=%s are the same file", wishes->job,
            wishes->options.cache_path, wishes->options.backing_path);
    return EINVAL;
  }
  ret = find(wishes, cache_id, backing_id, *stats_path, &shared);
  if (ret) return ret;
  if (shared) {
    if (!options_agree(shared, wishes)) return EINVAL;
    if (!shared->wishes.stats_file) {
      shared->wishes.stats_file = copy(wishes->stats_file);
      shared->wishes.stats_interval_s = wishes->stats_interval_s;
    }
    ret = begin_stats(shared, stats_path);
  } else {
    ret = open_entry(wishes, td, stats_path, &shared);
  }
  if (ret) return ret;
  shared->references++;
  *out = shared;
  return 0;
}

int shared_cache_get(const struct cache_wishes* wishes, struct thread_data* td,
                     struct shared_cache** out) {
  int ret;

  char* path =
      wishes->stats_file ? name_of_job(wishes->stats_file, wishes->job, wishes->job_number) : NULL;

  if (wishes->stats_file && !path) {
    message("job %s: stats_file=: no memory for the name", wishes->job);
    return ENOMEM;
  }
  pthread_mutex_lock(&lock);
  ret = get_locked(wishes, td, &path, out);
  pthread_mutex_unlock(&lock);
  free(path);
  return ret;
}

int shared_cache_put(struct shared_cache* shared, struct thread_data* td) {
  bool last;

  pthread_mutex_lock(&lock);
  last = --shared->references == 0;
  if (last) shared->closing = true;
  pthread_mutex_unlock(&lock);
  return last ? close_cache(shared, td) : 0;
}

int shared_cache_open_queue(struct shared_cache* shared, uint32_t depth, pcache_queue** out) {
  struct pcache_error error = {0};
  int ret;

  pthread_mutex_lock(&lock);
  ret = pcache_queue_create(shared->cache, depth, out, &error);
  if (!ret) shared->queues++;
  pthread_mutex_unlock(&lock);
  if (ret)
    message("%s: no queue of depth %" PRIu32 ": %s", shared->wishes.options.cache_path, depth,
            error.text[0] ? error.text : strerror(-ret));
  return -ret;
}

void shared_cache_close_queue(struct shared_cache* shared, pcache_queue* queue) {
  if (!queue) return;
  pcache_queue_destroy(queue); /* waits for what is in flight: not under the lock */
  pthread_mutex_lock(&lock);
  shared->queues--;
  pthread_mutex_unlock(&lock);
}

const struct pcache_info* shared_cache_info(const struct shared_cache* shared) {
  return &shared->info;
}

const char* shared_cache_dev(const struct shared_cache* shared) {
  return shared->wishes.options.cache_path;
}

const char* shared_cache_backing(const struct shared_cache* shared) {
  return shared->wishes.options.backing_path;
}

/*
 * The next cache that this process has left open, or NULL. Says so of one that is in use, and sets
 * *busy. Under the lock.
 */
static struct shared_cache* next_left(bool* busy) {
  for (struct shared_cache* s = caches; s; s = s->next) {
    if (s->owner != getpid() || s->left) continue;
    s->left = true;
    if (!s->queues && !s->closing) return s;
    message("%s: fio ended while %u jobs were running: left as after a crash",
            s->wishes.options.cache_path, s->queues ? s->queues : 1);
    *busy = true;
  }
  return NULL;
}

/*
 * Runs before libpcache's own destructors, since this library depends on it. A forked child (fio
 * forks the jobs of other engines) must not touch its parent's cache.
 */
__attribute__((destructor)) static void close_what_is_left(void) {
  struct shared_cache* left;
  bool failed = false;

  do {
    pthread_mutex_lock(&lock);
    left = next_left(&failed);
    pthread_mutex_unlock(&lock);
    if (left && close_cache(left, NULL)) failed = true;
  } while (left);
  if (failed) {
    /* fio has chosen its exit status already, and it may be 0: lost data must not look so. */
    fflush(NULL);
    _exit(1);
  }
}
