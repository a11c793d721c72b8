/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fio's own headers, in the order in which they work. They come from a configured source tree of
 * exactly the fio that loads the engine (see CMakeLists.txt).
 *
 * fio is loaded with RTLD_LAZY and exports its functions; nothing of it is linked.
 */
#ifndef PCACHE_ENGINE_FIO_API_H
#define PCACHE_ENGINE_FIO_API_H

/* clang-format off: config-host.h first, optgroup.h needs fio.h's types. */
#include "config-host.h"
#include "fio.h"
#include "optgroup.h"
/* clang-format on */

#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>

/*
 * Absent when this library is preloaded into something that is not fio, for example the shell that
 * starts fio: then there is nobody to register with.
 */
#pragma weak register_ioengine
#pragma weak unregister_ioengine

#define ENGINE_EXPORT __attribute__((visibility("default")))

/* --readonly. A variable of fio's, absent like its functions; it is set before any job is. */
#pragma weak read_only
static inline bool engine_fio_is_readonly(void) { return &read_only && read_only; }

/*
 * Whether the job is in its ramp, which no runtime counts. The function has the first name up to
 * fio 3.41, and the second from 3.42 on; the headers do not tell which of them they are.
 */
extern bool in_ramp_time(struct thread_data*);
extern bool in_ramp_period(struct thread_data*);
#pragma weak in_ramp_time
#pragma weak in_ramp_period
static inline bool engine_job_is_in_ramp(struct thread_data* td) {
  if (in_ramp_period) return in_ramp_period(td);
  return in_ramp_time && in_ramp_time(td);
}

/* Bytes of a file or block device; 0: there is none, or it cannot be read. Does not wait. */
static inline uint64_t engine_device_bytes(const char* path) {
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* to open a FIFO may wait for ever */
  off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);

  if (fd >= 0) close(fd);
  return end < 0 ? 0 : (uint64_t)end;
}

/* What fio does for engines without FIO_ASYNCIO_SETS_ISSUE_TIME, but after queue(): too late. */
static inline void engine_stamp_issue_time(struct thread_data* td, struct io_u* io_u) {
  if (!fio_fill_issue_time(td)) return;
  fio_gettime(&io_u->issue_time, NULL);
  if (td->o.read_iolog_file) td->last_issue = io_u->issue_time;
}

#endif
