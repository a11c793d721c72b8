/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a log that a job is to replay (read_iolog=) asks for that cannot be done: trims, which fio
 * 3.33 drops with "bad ddir", and more than one device, which would all be mapped onto one.
 *
 * The log is read here as fio will read it later, in the job's thread. What cannot be read twice (a
 * FIFO, a socket, stdin) and blktrace's binary form are looked at only then: check_replayed_files()
 * refuses a second device.
 */
#ifndef PCACHE_ENGINE_REPLAY_H
#define PCACHE_ENGINE_REPLAY_H

#include "fio_api.h"

/* In setup. 0 or EINVAL, and said why; says which device the log is of when it is another. */
int check_replay(struct thread_data* td);

/* When the job starts: fio has read the log. `backing` is its cache's device. 0 or EINVAL. */
int check_replayed_files(const struct thread_data* td, const char* backing);

#endif
