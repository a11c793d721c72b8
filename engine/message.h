/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages to the user: one line each on stderr, "pcache: " first.
 *
 * Not through fio's log_info() or log_err(): with --output=FILE both write into that file, and its
 * JSON could no longer be parsed. Any thread.
 */
#ifndef PCACHE_ENGINE_MESSAGE_H
#define PCACHE_ENGINE_MESSAGE_H

void message(const char* format, ...) __attribute__((format(printf, 1, 2)));

#endif
