/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job_names.h"
#include "message.h"

/* Of engines that a job may have been written for; fio's own word for one is "Bad option". */
static const char* const kOthersOptions[] = {
    "hipri",         "hipri_percentage",  "fixedbufs",          "registerfiles",
    "sqthread_poll", "sqthread_poll_cpu", "nonvectored",        "uncached",
    "nowait",        "force_async",       "cmdprio_percentage", "cmdprio_class",
    "cmdprio",       "cmdprio_bssplit",   "userspace_reap",     "libaio_vectored",
};
#define OTHERS_OPTIONS (sizeof(kOthersOptions) / sizeof(*kOthersOptions))

/* The library's, stats_file, stats_interval, those above, and the end. */
struct fio_option engine_option_table[ENGINE_MOST_OPTIONS + 3 + OTHERS_OPTIONS];

/* ---- fio's table ---- */

/*
 * "What it is about (what is expected; default what). CHOICE: what it means. ..." Never freed, like
 * fio's own texts. The choices are not fio's `posval`: it would cut what is given at a colon.
 */
static const char* make_help(const struct pcache_option_info* info) {
  const char* initial = *info->fio_initial ? info->fio_initial : info->initial;
  char* help = NULL;
  size_t size;
  FILE* out;

  out = open_memstream(&help, &size);
  if (!out) return info->text;
  if (info->type == PCACHE_OPTION_TEXT)
    fprintf(out, "%s.", info->text);
  else
    fprintf(out, "%s (%s; default %s).", info->text, info->expected, initial);
  for (uint32_t i = 0; i < info->choice_count; i++)
    fprintf(out, " %s: %s.", info->choices[i].name, info->choices[i].text);
  return fclose(out) ? info->text : help;
}

/* Without `def`, which would look like a value that the job has given. */
static struct fio_option own_option(const char* name, const char* title, size_t off,
                                    const char* help) {
  return (struct fio_option){
      .name = name,
      .lname = title,
      .type = FIO_OPT_STR_STORE,
      .off1 = (unsigned int)off,
      .help = help,
      .category = FIO_OPT_C_ENGINE,
      .group = FIO_OPT_G_INVALID,
  };
}

static struct fio_option make_fio_option(const struct pcache_option_info* info, uint32_t index) {
  return own_option(info->fio, info->title,
                    offsetof(struct engine_options, given) + index * sizeof(char*),
                    make_help(info));
}

void make_engine_options(void) {
  struct fio_option* next = engine_option_table;
  struct pcache_option_info info;

  for (uint32_t i = 0; describe_option(i, &info); i++)
    if (*info.fio) *next++ = make_fio_option(&info, i);
  *next++ = own_option("stats_file", "Status file", offsetof(struct engine_options, stats_file),
                       "Where the cache's status is written as JSON when its last job has ended; "
                       "$jobname and $jobnum stand for the first job of the cache that names it");
  *next++ = own_option("stats_interval", "Status interval",
                       offsetof(struct engine_options, stats_interval),
                       "Seconds after which stats_file is written again and again (1 to 86400; "
                       "default: at the end alone)");
  for (size_t i = 0; i < OTHERS_OPTIONS; i++) {
    *next = own_option(kOthersOptions[i], kOthersOptions[i], 0,
                       "of io_uring and libaio; the cache's engine has no use for it: delete it");
    next++->type = FIO_OPT_UNSUPPORTED;
  }
  *next = (struct fio_option){.name = NULL};
}

/* ---- Values ---- */

/* Digits, and one of fio's suffixes: k, kb, ki, kib, ... */
static bool is_size(const char* text) {
  size_t digits = strspn(text, "0123456789");
  const char* suffix = text + digits;

  if (!digits || digits > 18) return false;
  if (*suffix && strchr("kmgtp", tolower((unsigned char)*suffix))) {
    suffix++;
    if (tolower((unsigned char)*suffix) == 'i') suffix++;
  }
  if (tolower((unsigned char)*suffix) == 'b') suffix++;
  return !*suffix;
}

/*
 * Reads a size as fio does, and says so of one in MiB: with kb_base=1024, its default, MiB is
 * 1000000 bytes and M, or MB, is 1048576.
 */
static int parse_size(const struct thread_data* td, const struct pcache_option_info* info,
                      const char* text, long long* bytes) {
  bool inverted = td->o.kb_base == 1024 && strcasestr(text, "ib");

  if (!is_size(text) || check_str_bytes(text, bytes, (void*)&td->o)) {
    message("job %s: %s=%s: expected %s", td->o.name, info->fio, text, info->expected);
    return EINVAL;
  }
  if (*bytes < info->least) {
    message("job %s: %s=%s: %lld bytes, a cache needs at least %lld%s", td->o.name, info->fio, text,
            *bytes, (long long)info->least,
            inverted ? "; fio's kb_base=1024 reads MiB as 1000000 and M as 1048576 bytes: write M, "
                       "or give kb_base=1000"
                     : "");
    return EINVAL;
  }
  if (inverted)
    message(
        "job %s: %s=%s is %lld bytes: fio's kb_base=1024 reads MiB as 1000000 and M as 1048576 "
        "bytes",
        td->o.name, info->fio, text, *bytes);
  return 0;
}

/* filename= takes several names, so a colon in one is "\:" there; here it is just a colon. */
static int check_path(const struct thread_data* td, const char* name, const char* path) {
  if (!path || !strstr(path, "\\:")) return 0;
  message("job %s: %s=%s: a colon is written as it is here, without a backslash before it",
          td->o.name, name, path);
  return EINVAL;
}

/* Gives the job's options the name that is meant, for as long as they live. */
static const char* meant_name(const struct thread_data* td, char** given) {
  char* name = name_of_job(*given, td->o.name, td->subjob_number);

  if (!name) return NULL;
  free(*given); /* fio's, as it frees the new one */
  return *given = name;
}

/* What the job gives for option `index` of the library's table, or else the engine's default. */
static int take_option(const struct thread_data* td, uint32_t index,
                       const struct pcache_option_info* info, struct cache_wishes* wishes) {
  struct engine_options* eo = td->eo;
  struct pcache_error error = {0};
  const char* text = eo->given[index];
  char number[24];
  long long bytes;

  if (text)
    wishes->given |= UINT64_C(1) << index;
  else
    text = info->fio_initial;
  if (!*text) return 0;
  if (!strcmp(info->name, "cache_path") && !(text = meant_name(td, &eo->given[index]))) {
    message("job %s: %s=: no memory for the name", td->o.name, info->fio);
    return ENOMEM;
  }
  if (info->type == PCACHE_OPTION_TEXT && check_path(td, info->fio, text)) return EINVAL;
  /* 0 is a choice, "the file as it is", and no size. */
  if (info->type == PCACHE_OPTION_SIZE && strcmp(text, "0")) {
    if (parse_size(td, info, text, &bytes)) return EINVAL;
    snprintf(number, sizeof(number), "%lld", bytes);
    text = number;
  }
  if (!pcache_options_set(&wishes->options, info->name, text, &error)) return 0;
  message("job %s: %s", td->o.name, error.text);
  return EINVAL;
}

static int take_interval(const struct thread_data* td, const struct engine_options* eo,
                         struct cache_wishes* wishes) {
  const char* text = eo->stats_interval;
  size_t digits = text ? strspn(text, "0123456789") : 0;

  if (!text) return 0;
  if (digits && digits <= 5 && !text[digits])
    wishes->stats_interval_s = (unsigned)strtoul(text, NULL, 10);
  if (!wishes->stats_interval_s || wishes->stats_interval_s > 86400)
    message("job %s: stats_interval=%s: expected 1 to 86400 seconds", td->o.name, text);
  else if (!eo->stats_file)
    message("job %s: stats_interval=%s: stats_file= is missing: name the file", td->o.name, text);
  else
    return 0;
  return EINVAL;
}

int options_to_wishes(const struct thread_data* td, struct cache_wishes* wishes) {
  const struct engine_options* eo = td->eo;
  struct pcache_option_info info;

  *wishes = (struct cache_wishes){
      .job = td->o.name, .job_number = td->subjob_number, .stats_file = eo->stats_file};
  pcache_options_init(&wishes->options);
  for (uint32_t i = 0; describe_option(i, &info); i++)
    if (take_option(td, i, &info, wishes)) return EINVAL;
  if (!wishes->options.cache_path) {
    message("job %s: cache_dev= is missing: name the pmem device or file", td->o.name);
    return EINVAL;
  }
  if (check_path(td, "stats_file", eo->stats_file) || take_interval(td, eo, wishes)) return EINVAL;
  wishes->options.backing_path = td->files[0]->file_name;
  if (engine_fio_is_readonly()) wishes->options.readonly = 1;
  return 0;
}

/* ---- Workload ---- */

/* filename_format= does it, but for fio's default, which means files of fio's own. */
static bool names_files(const struct thread_options* o) {
  return o->filename_format && strcmp(o->filename_format, "$jobname.$jobnum.$filenum");
}

int check_filename(const struct thread_data* td) {
  const struct thread_options* o = &td->o;
  const char* why = NULL;

  if (!o->filename && !o->read_iolog_file && !names_files(o))
    why = "filename= is missing: name the backing device";
  else if (td->files_index != 1 && o->filename && strstr(o->filename, "://"))
    why =
        "filename= takes several names with colons between them: write each colon of a server's "
        "address as \\:, such as filename=nbd\\://host/disk";
  else if (td->files_index != 1)
    why =
        "filename= must name exactly one backing device for a job (one in [global] adds up "
        "with the job's own); for two devices give each a section, with a filename= and a "
        "cache_dev= of its own, or name both by job: filename_format=DIR/$jobname.disk and "
        "cache_dev=DIR/$jobname.cache";
  if (!why) return 0;
  message("job %s: %s", o->name, why);
  return EINVAL;
}

int check_workload(const struct thread_data* td, const struct cache_wishes* wishes) {
  const struct thread_options* o = &td->o;
  bool readonly = wishes->options.readonly;
  const char* why = NULL;

  if ((td_write(td) || td_trim(td)) && readonly)
    why = "it writes, and with readonly=1 nothing is written";
  else if (o->trim_percentage && !td_trim(td))
    why =
        "trim_percentage= in a job that does not trim: fio ends with a failed assertion at its "
        "first trim; give it rw=trimwrite, or trim in a job of its own";
  else if (wishes->options.drain && readonly)
    why = "drain=1 writes back, and with readonly=1 (or fio's --readonly) nothing is written";
  else if (!o->create_serialize)
    why = "create_serialize=0 is not supported: the cache is opened before the jobs start";
  else if (o->io_submit_mode == IO_MODE_OFFLOAD)
    why = "io_submit_mode=offload is not supported: a queue belongs to its job's thread";
  else if (o->zone_mode == ZONE_MODE_ZBD)
    why = "zonemode=zbd is not supported";
  if (!why) return 0;
  message("job %s: %s", o->name, why);
  return EINVAL;
}

static bool aligned(const struct thread_data* td, const char* name, unsigned long long value,
                    uint32_t block_size) {
  if (value % block_size == 0) return true;
  message("job %s: %s=%llu is not a multiple of the block size, %u", td->o.name, name, value,
          block_size);
  return false;
}

static bool direction_aligned(const struct thread_data* td, enum fio_ddir ddir, uint32_t block) {
  const struct thread_options* o = &td->o;

  if (!aligned(td, "bs", o->min_bs[ddir], block) || !aligned(td, "bs", o->max_bs[ddir], block) ||
      !aligned(td, "blockalign", o->ba[ddir], block))
    return false;
  for (unsigned int i = 0; i < o->bssplit_nr[ddir]; i++)
    if (!aligned(td, "bssplit", o->bssplit[ddir][i].bs, block)) return false;
  return true;
}

int check_geometry(struct thread_data* td, uint32_t block_size, uint64_t bytes) {
  const struct thread_options* o = &td->o;
  struct fio_file* file = td->files[0];
  unsigned long long offset;

  if ((td_read(td) && !direction_aligned(td, DDIR_READ, block_size)) ||
      (td_write(td) && !direction_aligned(td, DDIR_WRITE, block_size)) ||
      (td_trim(td) && !direction_aligned(td, DDIR_TRIM, block_size)))
    return EINVAL;
  if (o->bs_unaligned) {
    message("job %s: bs_unaligned is not supported: requests are multiples of %u bytes", o->name,
            block_size);
    return EINVAL;
  }
  file->real_file_size = bytes; /* an offset in percent is of this */
  offset = get_start_offset(td, file);
  if (!aligned(td, "offset", offset, block_size)) return EINVAL;
  /* fio would quietly do less than was asked, or nothing at all. */
  if (offset >= bytes || (o->size && !o->fill_device && o->size > bytes - offset)) {
    message("job %s: offset=%llu size=%llu reaches past the end of %s, which has %llu bytes",
            o->name, offset, (unsigned long long)o->size, file->file_name,
            (unsigned long long)bytes);
    return EINVAL;
  }
  return 0;
}
