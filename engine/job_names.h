/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names of files that differ from job to job: one section, or [global], then speaks for several.
 * The words are those of fio's filename_format.
 */
#ifndef PCACHE_ENGINE_JOB_NAMES_H
#define PCACHE_ENGINE_JOB_NAMES_H

/*
 * `given` with each "$jobname" and "$jobnum" replaced: `job`, and `number`, from 0 on, of the
 * numjobs= of its section. To be freed; NULL: no memory.
 */
char* name_of_job(const char* given, const char* job, unsigned number);

#endif
