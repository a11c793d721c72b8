/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a pcache.h of ABI 2 with fewer fields would look like: structs that have grown since end
 * earlier here. For test_abi.py; nothing is ever added to it.
 */
#ifndef OLDER_PCACHE_H
#define OLDER_PCACHE_H

#include <stddef.h>
#include <stdint.h>

typedef struct pcache_cache pcache_cache;
typedef struct pcache_queue pcache_queue;

struct pcache_error {
  int32_t code;
  char text[508];
};

struct pcache_options {
  uint32_t size;
  uint32_t reserved;
  void (*log)(void* ctx, int level, const char* line);
  void* log_ctx;
  const char* cache_path;
  const char* backing_path;
  int64_t cache_size;
  int64_t emulate_pmem;
  int64_t data_crc;
  int64_t gc_percent;
};

void pcache_options_init_sized(struct pcache_options* options, uint32_t size);
int pcache_options_set(struct pcache_options* options, const char* name, const char* text,
                       struct pcache_error* err);
int pcache_options_get(const struct pcache_options* options, const char* name, char* text,
                       size_t text_size);

struct pcache_option_info {
  uint32_t size;
  uint32_t type;
  uint32_t offset;
};
int pcache_option_describe(uint32_t index, struct pcache_option_info* info);

struct pcache_status_field {
  uint32_t size;
  uint32_t reserved;
  const char* object;
};
int pcache_status_field_describe(uint32_t index, struct pcache_status_field* field);

int pcache_open(const struct pcache_options* options, pcache_cache** out, struct pcache_error* err);
int pcache_close(pcache_cache* cache, struct pcache_error* err);

struct pcache_info {
  uint32_t size;
  uint32_t block_size;
  uint64_t logical_bytes;
};
int pcache_get_info(const pcache_cache* cache, struct pcache_info* info);

struct pcache_request {
  uint32_t op;
  uint32_t flags;
  uint64_t off;
  uint64_t len;
  void* buf;
  int32_t result;
  uint32_t reserved;
  void* user;
};
int pcache_queue_create(pcache_cache* cache, uint32_t depth, pcache_queue** out,
                        struct pcache_error* err);
void pcache_queue_destroy(pcache_queue* queue);
int pcache_submit(pcache_queue* queue, struct pcache_request* request);
int pcache_reap(pcache_queue* queue, struct pcache_request** done, uint32_t min, uint32_t max,
                int64_t timeout_ns);

#endif
