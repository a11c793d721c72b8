/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes the options of an open cache, as a C program does: good values hold at once, and bad ones
 * are refused in words and change nothing. See test_abi.py.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/include/pcache.h"

static const char* doing = "";

static void check(int good, const char* what) {
  if (good) return;
  fprintf(stderr, "%s: %s\n", doing, what);
  exit(1);
}

/* The number that a status in JSON has under this name. */
static long long number_in(const char* json, const char* name) {
  char quoted[64];
  const char* at;

  snprintf(quoted, sizeof(quoted), "\"%s\":", name);
  at = strstr(json, quoted);
  check(at != NULL, "is not in the status");
  return strtoll(at + strlen(quoted), NULL, 10);
}

struct settings {
  long long gc_percent, dirty_high_percent, dirty_low_percent, bytes_per_second, seq_cutoff;
};

static struct settings settings_of(pcache_cache* cache) {
  struct pcache_info info = {.size = sizeof(info)};
  struct settings now;
  char* json = pcache_get_status(cache, PCACHE_STATUS_JSON);

  check(json != NULL && !pcache_get_info(cache, &info), "the status");
  now.gc_percent = info.gc_percent;
  now.dirty_high_percent = number_in(json, "dirty_high_percent");
  now.dirty_low_percent = number_in(json, "dirty_low_percent");
  now.bytes_per_second = number_in(json, "bytes_per_second");
  now.seq_cutoff = number_in(json, "seq_cutoff");
  free(json);
  return now;
}

/* In order: each holds together with those before it. */
static const struct {
  const char *name, *text;
  struct settings then;
} good[] = {
    {"gc_percent", "33", {33, 100, 90, 0, 0}},
    {"gc_percent", "media", {33, 100, 90, 0, 0}},
    {"gc_percent", "0", {0, 100, 90, 0, 0}},
    {"gc_percent", "90", {90, 100, 90, 0, 0}},
    {"dirty_high_percent", "50", {90, 50, 40, 0, 0}},
    {"dirty_low_percent", "50", {90, 50, 50, 0, 0}},
    {"dirty_low_percent", "auto", {90, 50, 40, 0, 0}},
    {"dirty_high_percent", "0", {90, 0, 0, 0, 0}},
    {"dirty_high_percent", "60", {90, 60, 50, 0, 0}},
    {"writeback_rate", "64k", {90, 60, 50, 65536, 0}},
    {"writeback_rate", "1g", {90, 60, 50, 1 << 30, 0}},
    {"writeback_rate", "0", {90, 60, 50, 0, 0}},
    {"writeback_rate", "2m", {90, 60, 50, 2 << 20, 0}},
    {"seq_cutoff", "4k", {90, 60, 50, 2 << 20, 4096}},
    {"seq_cutoff", "1t", {90, 60, 50, 2 << 20, 1LL << 40}},
    {"seq_cutoff", "0", {90, 60, 50, 2 << 20, 0}},
    {"read_ahead", "4m", {90, 60, 50, 2 << 20, 0}},
    {"drain", "1", {90, 60, 50, 2 << 20, 0}},
    {"drain", "0", {90, 60, 50, 2 << 20, 0}},
};

static const struct {
  const char *name, *text;
  int error;
  const char* words;
} bad[] = {
    {"gc_percent", "91", EINVAL, "option gc_percent=91: expected a number from 0 to 90"},
    {"gc_percent", "-1", EINVAL, "option gc_percent=-1: expected"},
    {"gc_percent", "", EINVAL, "option gc_percent=: expected"},
    {"gc_percent", "4294967296", EINVAL, "option gc_percent=4294967296: expected"},
    {"dirty_high_percent", "101", EINVAL, "option dirty_high_percent=101: expected"},
    {"dirty_low_percent", "61", EINVAL, "61 is more than dirty_high_percent, which is 60"},
    {"dirty_low_percent", "low", EINVAL, "option dirty_low_percent=low: expected"},
    {"writeback_rate", "1", EINVAL, "option writeback_rate=1: expected a size in bytes/s"},
    {"writeback_rate", "2t", EINVAL, "option writeback_rate=2t: expected"},
    {"seq_cutoff", "4095", EINVAL, "option seq_cutoff=4095: expected a size in bytes"},
    {"policy", "third_chance", EINVAL, "option policy=third_chance: expected"},
    {"role", "front", EINVAL, "option role: an open cache keeps it"},
    {"data_crc_check", "read", EINVAL, "option data_crc_check: an open cache keeps it"},
    {"huge_pages", "never", EINVAL, "option huge_pages: an open cache keeps it"},
    {"read_ahead", "5m", EINVAL, "option read_ahead=5m: expected a size in bytes"},
    {"drain", "2", EINVAL, "option drain=2: expected"},
    {"prefault", "attach", EINVAL, "option prefault: an open cache keeps it"},
    {"backend", "auto", EINVAL, "option backend: an open cache keeps it"},
    {"cache_path", "elsewhere", EINVAL, "option cache_path: an open cache keeps it"},
    {"nonsense", "1", ENOENT, "option nonsense: there is none of this name"},
};

static pcache_cache* open_cache(char** argv, int readonly) {
  struct pcache_options options;
  struct pcache_error error;
  pcache_cache* cache;

  pcache_options_init(&options);
  options.cache_path = argv[1];
  options.backing_path = argv[2];
  options.emulate_pmem = 1;
  options.readonly = readonly;
  if (pcache_open(&options, &cache, &error)) check(0, error.text);
  return cache;
}

static void set_good(pcache_cache* cache) {
  for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
    struct pcache_error error;
    struct settings now;

    doing = good[i].name;
    if (pcache_set(cache, good[i].name, good[i].text, &error)) check(0, error.text);
    now = settings_of(cache);
    check(!memcmp(&now, &good[i].then, sizeof(now)), good[i].text);
  }
}

static void set_bad(pcache_cache* cache) {
  const struct settings before = settings_of(cache);

  for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
    struct pcache_error error = {0};
    struct settings now;

    doing = bad[i].words;
    check(pcache_set(cache, bad[i].name, bad[i].text, &error) == -bad[i].error, "what it returns");
    check(error.code == -bad[i].error, "the error's code");
    check(strstr(error.text, bad[i].words) != NULL, error.text);
    check(pcache_set(cache, bad[i].name, bad[i].text, NULL) == -bad[i].error, "without an error");
    now = settings_of(cache);
    check(!memcmp(&now, &before, sizeof(now)), "it has changed something");
  }
}

/* gc_percent alone is kept on the media. */
static void look_again(char** argv) {
  struct pcache_error error = {0};
  struct settings now;
  pcache_cache* cache = open_cache(argv, 1);

  doing = "the next open";
  now = settings_of(cache);
  check(now.gc_percent == 90 && now.dirty_high_percent == 100 && now.bytes_per_second == 0,
        "what is kept");
  check(pcache_set(cache, "gc_percent", "50", &error) == -EROFS, "with readonly");
  check(error.code == -EROFS && strstr(error.text, "readonly=1"), error.text);
  check(settings_of(cache).gc_percent == 90, "with readonly it has changed");
  check(!pcache_close(cache, &error), "close");
}

int main(int argc, char** argv) {
  pcache_cache* cache;

  check(argc == 3, "usage: settings CACHE BACKING");
  cache = open_cache(argv, 0);
  set_good(cache);
  set_bad(cache);
  check(!pcache_close(cache, NULL), "close");
  look_again(argv);
  puts("all is well");
  return 0;
}
