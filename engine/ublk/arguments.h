/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pcache-ublk's command line: what is wished for, and the cache's options. The main thread, once.
 */
#ifndef PCACHE_ENGINE_UBLK_ARGUMENTS_H
#define PCACHE_ENGINE_UBLK_ARGUMENTS_H

#include <pcache.h>
#include <stdbool.h>
#include <stdint.h>

struct wish {
  uint32_t queues, depth;
  int64_t id;      /* -1: any */
  int64_t recover; /* -1: no */
  int64_t remove;  /* -1: no */
  bool recoverable;
};

/*
 * Fills in both, of which `options` has been initialised; its texts stay in argv. -1: go on; else
 * the exit status, and what is wrong has been said. Without --delete both devices are named.
 */
int parse(int argc, char** argv, struct wish* wish, struct pcache_options* options);

#endif
