/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "job_names.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOB_NAME "$jobname"
#define JOB_NUMBER "$jobnum"

static bool takes(const char** at, const char* word) {
  if (strncmp(*at, word, strlen(word))) return false;
  *at += strlen(word);
  return true;
}

char* name_of_job(const char* given, const char* job, unsigned number) {
  char* name = NULL;
  size_t size;
  FILE* out = open_memstream(&name, &size);

  if (!out) return NULL;
  while (*given) {
    if (takes(&given, JOB_NAME))
      fputs(job, out);
    else if (takes(&given, JOB_NUMBER))
      fprintf(out, "%u", number);
    else
      fputc(*given++, out);
  }
  if (!fclose(out)) return name;
  free(name);
  return NULL;
}
