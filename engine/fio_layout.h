/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the fio that runs is the one whose headers this engine was built with.
 *
 * fio itself compares FIO_IOOPS_VERSION alone. Two fios can have the same version, and structs of
 * the same size, with other members: Debian's 3.39 and the upstream tag fio-3.39 are such a pair.
 * An engine that is built with the wrong headers sets the wrong member of a job. So the engine
 * compares where members are, before it touches any.
 */
#ifndef PCACHE_ENGINE_FIO_LAYOUT_H
#define PCACHE_ENGINE_FIO_LAYOUT_H

#include <stdbool.h>

#include "fio_api.h"

/*
 * When the library is loaded: compares our offsets of a job's options with those in fio's own table
 * of options. False: they differ, or fio has no such option, and one line has said so. True where
 * there is no fio to ask (preloaded into a shell). The main thread.
 */
bool fio_layout_fits(void);

/*
 * In setup, before anything of `td` is changed: whether the members behind the options are where
 * the headers say, by the one whose value is known: `engine`. False: they are not, and one line has
 * said so. The main thread.
 */
bool job_layout_fits(const struct thread_data* td, const struct ioengine_ops* engine);

#endif
