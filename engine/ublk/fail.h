/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How pcache-ublk says that something has failed: a line on standard error, its name first. Any
 * thread.
 */
#ifndef PCACHE_ENGINE_UBLK_FAIL_H
#define PCACHE_ENGINE_UBLK_FAIL_H

#define NAME "pcache-ublk"
#define FAILED 3 /* the exit status */

/* Says it, and returns the exit status. */
__attribute__((format(printf, 1, 2))) int fail(const char* format, ...);

#endif
