/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opens a cache, reads and writes, as a program does that was built with the older pcache.h beside
 * it. Each struct that the library writes into lies before bytes that must stay what they are.
 */
#include <pcache.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 0x5a
#define GUARDED(type) \
  struct {            \
    struct type is;   \
    char guard[256];  \
  }

static void check(int good, const char* what) {
  if (good) return;
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static int untouched(const char (*guard)[256]) {
  for (size_t i = 0; i < sizeof(*guard); i++)
    if ((*guard)[i] != GUARD) return 0;
  return 1;
}

static void run_one(pcache_queue* queue, uint32_t op, char* buf) {
  GUARDED(pcache_request) request;
  struct pcache_request* done[2] = {NULL, NULL};
  int ret;

  memset(&request, GUARD, sizeof(request));
  request.is = (struct pcache_request){.op = op, .len = 4096, .buf = buf, .user = &request};
  ret = pcache_submit(queue, &request.is);
  check(ret >= 0, "submit");
  if (ret == 0) {
    check(pcache_reap(queue, done, 1, 1, -1) == 1, "reap");
    check(done[0] == &request.is && !done[1], "what was reaped");
  }
  check(request.is.result == 0 && request.is.user == &request, "the request");
  check(untouched(&request.guard), "written behind the request");
}

int main(int argc, char** argv) {
  GUARDED(pcache_options) options;
  GUARDED(pcache_error) error;
  GUARDED(pcache_info) info;
  GUARDED(pcache_option_info) option;
  GUARDED(pcache_status_field) field;
  char text[16], buf[4096] __attribute__((aligned(4096)));
  pcache_cache* cache;
  pcache_queue* queue;

  check(argc == 3, "usage: older CACHE BACKING");
  memset(&options, GUARD, sizeof(options));
  memset(&error, GUARD, sizeof(error));
  memset(&info, GUARD, sizeof(info));
  memset(&option, GUARD, sizeof(option));
  memset(&field, GUARD, sizeof(field));

  pcache_options_init_sized(&options.is, sizeof(options.is));
  check(options.is.size == sizeof(options.is) && options.is.gc_percent == -1, "the defaults");
  options.is.cache_path = argv[1];
  options.is.backing_path = argv[2];
  check(!pcache_options_set(&options.is, "emulate_pmem", "1", &error.is), "emulate_pmem");
  check(!pcache_options_set(&options.is, "gc_percent", "33", &error.is), "gc_percent");
  check(pcache_options_set(&options.is, "readonly", "1", &error.is) < 0, "readonly is not there");
  check(strstr(error.is.text, "readonly") != NULL, "the error names it");
  check(pcache_options_get(&options.is, "gc_percent", text, sizeof(text)) == 2, "get");
  check(pcache_options_get(&options.is, "readonly", text, sizeof(text)) < 0, "get readonly");
  check(untouched(&options.guard), "written behind the options");

  option.is.size = sizeof(option.is);
  check(!pcache_option_describe(1, &option.is), "describe");
  check(option.is.offset == offsetof(struct pcache_options, backing_path), "its offset");
  check(untouched(&option.guard), "written behind the option");
  field.is.size = sizeof(field.is);
  check(!pcache_status_field_describe(1, &field.is) && field.is.object, "status field");
  check(untouched(&field.guard), "written behind the status field");

  /* What is behind the options is no option: 0x5a... would be refused. */
  if (pcache_open(&options.is, &cache, &error.is)) check(0, error.is.text);
  info.is.size = sizeof(info.is);
  check(!pcache_get_info(cache, &info.is), "info");
  check(info.is.size == sizeof(info.is) && info.is.logical_bytes == 16 << 20, "what it tells");
  check(untouched(&info.guard), "written behind the info");

  check(!pcache_queue_create(cache, 4, &queue, &error.is), "queue");
  run_one(queue, 0, buf);
  run_one(queue, 1, buf);
  run_one(queue, 0, buf);
  pcache_queue_destroy(queue);
  check(!pcache_close(cache, &error.is), "close");
  check(untouched(&error.guard), "written behind the error");
  puts("all is well");
  return 0;
}
