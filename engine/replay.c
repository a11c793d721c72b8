/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "replay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "message.h"

#define NAME_BYTES 257 /* fio reads no more of a name, nor of a word */
#define LINE_BYTES 4096
#define LEAVES_TRIMS_OUT (FIO_IOOPS_VERSION < 32) /* up to fio 3.33, which says "bad ddir" */

struct contents {
  char first[NAME_BYTES];  /* the device that is named */
  char second[NAME_BYTES]; /* another one */
  unsigned long trims;
  unsigned long first_trim; /* line number */
};

static void note_device(struct contents* contents, const char* name) {
  if (!contents->first[0])
    strcpy(contents->first, name);
  else if (strcmp(contents->first, name) != 0 && !contents->second[0])
    strcpy(contents->second, name);
}

/* A line of version 2 is "FILE ACTION [OFFSET LENGTH]", one of version 3 has a time before it. */
static void note_line(struct contents* contents, bool timed, const char* line,
                      unsigned long number) {
  char name[NAME_BYTES], action[NAME_BYTES];
  unsigned long long ignored;
  int words = timed ? sscanf(line, "%llu %256s %256s", &ignored, name, action) - 1
                    : sscanf(line, "%256s %256s", name, action);

  if (words != 2 || !strcmp(action, "wait")) return;
  note_device(contents, name);
  if (strcmp(action, "trim") != 0) return;
  if (!contents->trims++) contents->first_trim = number;
}

/* False: it is not a log of fio's. */
static bool read_log(FILE* file, struct contents* contents) {
  static const char* const kVersions[] = {"fio version 2 iolog", "fio version 3 iolog"};
  char line[LINE_BYTES];
  bool timed;

  if (!fgets(line, sizeof(line), file)) return false;
  timed = !strncmp(line, kVersions[1], strlen(kVersions[1]));
  if (!timed && strncmp(line, kVersions[0], strlen(kVersions[0])) != 0) return false;
  for (unsigned long number = 2; fgets(line, sizeof(line), file); number++)
    note_line(contents, timed, line, number);
  return true;
}

static bool same_file(const char* a, const char* b) {
  struct stat sa, sb;

  if (!strcmp(a, b)) return true;
  if (stat(a, &sa) || stat(b, &sb)) return false;
  if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode)) return sa.st_rdev == sb.st_rdev;
  return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static int check_contents(const struct thread_data* td, const char* log,
                          const struct contents* contents) {
  const struct thread_options* o = &td->o;
  const char* backing = td->files[0]->file_name;

  if (LEAVES_TRIMS_OUT && contents->trims && !(o->replay_skip & (1u << DDIR_TRIM))) {
    message(
        "job %s: read_iolog=%s: has %lu trims, the first in line %lu: this fio replays none of its "
        "own logs' (3.34 does); replay_skip=trim leaves them out",
        o->name, log, contents->trims, contents->first_trim);
    return EINVAL;
  }
  if (contents->second[0] && !o->replay_redirect) {
    message(
        "job %s: read_iolog=%s: names more than one device, %s and %s: a job has one; give each "
        "its "
        "own log, or replay_redirect=%s to merge them",
        o->name, log, contents->first, contents->second, backing);
    return EINVAL;
  }
  if (contents->first[0] && (contents->second[0] || !same_file(contents->first, backing)))
    message("job %s: read_iolog=%s: was made of %s%s%s; it is replayed onto %s", o->name, log,
            contents->first, contents->second[0] ? " and " : "", contents->second, backing);
  return 0;
}

int check_replay(struct thread_data* td) {
  const struct thread_options* o = &td->o;
  struct contents contents = {0};
  struct stat st;
  FILE* file = NULL;
  char* log;
  int ret = 0;

  if (!o->read_iolog_file) return 0;
  if (o->replay_redirect && !same_file(o->replay_redirect, td->files[0]->file_name)) {
    message("job %s: replay_redirect=%s and filename=%s are two devices: give one", o->name,
            o->replay_redirect, td->files[0]->file_name);
    return EINVAL;
  }
  log = get_name_by_idx(o->read_iolog_file, td->subjob_number);
  if (!log) return ENOMEM;
  /* What cannot be opened fio says itself. */
  if (!stat(log, &st) && S_ISREG(st.st_mode)) file = fopen(log, "re");
  if (file && read_log(file, &contents)) ret = check_contents(td, log, &contents);
  if (file) fclose(file);
  free(log);
  return ret;
}

int check_replayed_files(const struct thread_data* td, const char* backing) {
  const char* first = td->files_index ? td->files[0]->file_name : backing;

  if (!td->o.read_iolog_file || td->o.replay_redirect) return 0;
  for (unsigned int i = 1; i < td->files_index; i++) {
    if (same_file(first, td->files[i]->file_name)) continue;
    message(
        "job %s: the replayed log names more than one device, %s and %s: a job has one; give each "
        "its own log, or replay_redirect=%s to merge them",
        td->o.name, first, td->files[i]->file_name, backing);
    return EINVAL;
  }
  return 0;
}
