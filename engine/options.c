/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "message.h"

#define ENGINE_OPTION .category = FIO_OPT_C_ENGINE, .group = FIO_OPT_G_INVALID

struct fio_option engine_option_table[] = {
    {
        .name = "cache_dev",
        .lname = "Cache device",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, cache_dev),
        .help = "The pmem that caches filename: a devdax device, a file on a DAX file system, or "
                "with emulate_pmem=1 any file. Required. Formatted when blank",
        ENGINE_OPTION,
    },
    {
        .name = "cache_size",
        .lname = "Cache size",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, cache_size),
        .help =
            "With emulate_pmem=1: create the file, or extend it, to this many bytes (k, m, g, t "
            "suffixes; at least 512m). Default: the file as it is",
        ENGINE_OPTION,
    },
    {
        .name = "emulate_pmem",
        .lname = "Emulate pmem",
        .type = FIO_OPT_BOOL,
        .off1 = offsetof(struct engine_options, emulate_pmem),
        .def = "0",
        .help = "1: take any file as pmem. Page cache does NOT survive a power loss",
        ENGINE_OPTION,
    },
    {
        .name = "data_crc",
        .lname = "CRC of data",
        .type = FIO_OPT_STR,
        .off1 = offsetof(struct engine_options, data_crc),
        .def = "media",
        .help =
            "Whether keys carry a CRC of their data. Fixed when the cache is formatted; a value "
            "that contradicts the media is an error",
        .posval =
            {
                {.ival = "media",
                 .oval = (unsigned long long)PCACHE_NOT_GIVEN,
                 .help = "What the cache device says; 0 when it is blank"},
                {.ival = "0", .oval = 0, .help = "Without"},
                {.ival = "1", .oval = 1, .help = "With"},
            },
        ENGINE_OPTION,
    },
    {
        .name = "gc_percent",
        .lname = "GC threshold",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, gc_percent),
        .help =
            "Garbage collection starts when this percentage of the segments is in use: 0 to 90. "
            "A change is kept on the media. Default: what the media says, 70 when it is blank",
        ENGINE_OPTION,
    },
    {
        .name = "persist",
        .lname = "Persist method",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, persist),
        .help =
            "How stores reach the pmem: auto (the fastest, as measured), flushcache (non-temporal "
            "stores), clflushopt, clwb or movdir64b. An error when the CPU lacks it. Default: auto",
        ENGINE_OPTION,
    },
    {
        .name = "prefault",
        .lname = "Prefault",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, prefault),
        .help =
            "When the pages of a cache_dev in memory (tmpfs) are mapped: attach (before the first "
            "job starts) or beside (by a thread, while jobs run). Default: attach",
        ENGINE_OPTION,
    },
    {
        .name = "stats_file",
        .lname = "Status file",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, stats_file),
        .help = "Where the cache's status is written as JSON when its last job has ended",
        ENGINE_OPTION,
    },
    {
        .name = "io_mode",
        .lname = "Backing I/O mode",
        .type = FIO_OPT_STR,
        .off1 = offsetof(struct engine_options, io_mode),
        .def = "auto",
        .help = "How the backing device is driven",
        .posval =
            {
                {.ival = "auto",
                 .oval = PCACHE_IO_AUTO,
                 .help = "io_uring; threads, with a warning, where it is not permitted"},
                {.ival = "io_uring", .oval = PCACHE_IO_URING, .help = "io_uring or an error"},
                {.ival = "threads", .oval = PCACHE_IO_THREADS, .help = "A pool of threads"},
            },
        ENGINE_OPTION,
    },
    {
        .name = "force",
        .lname = "Force attach",
        .type = FIO_OPT_BOOL,
        .off1 = offsetof(struct engine_options, force),
        .def = "0",
        .help = "1: attach although the cache device belongs to another backing device. Its dirty "
                "data then goes to this one: only when you know that it is the same data",
        ENGINE_OPTION,
    },
    {
        .name = "flush_delay_ms",
        .lname = "Flush delay",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, flush_delay_ms),
        .help = "An open kset is closed at most this many milliseconds after its first key. "
                "Default: 1000",
        ENGINE_OPTION,
    },
    {
        .name = "writeback_interval_ms",
        .lname = "Writeback interval",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, writeback_interval_ms),
        .help = "Idle time between two runs of writeback, in milliseconds; when space is short it "
                "runs at once. Default: 5000",
        ENGINE_OPTION,
    },
    {
        .name = "drain",
        .lname = "Drain at the end",
        .type = FIO_OPT_BOOL,
        .off1 = offsetof(struct engine_options, drain),
        .def = "0",
        .help = "1: all dirty data is written back when the last job has ended. 0: it stays in the "
                "cache, where it is safe",
        ENGINE_OPTION,
    },
    {
        .name = "readonly",
        .lname = "Read-only attach",
        .type = FIO_OPT_BOOL,
        .off1 = offsetof(struct engine_options, readonly),
        .def = "0",
        .help = "1: nothing is written to either device, and writing jobs are refused. So it is "
                "with fio's --readonly, too",
        ENGINE_OPTION,
    },
    {.name = NULL},
};

/* ---- Values ---- */

/* Digits, and with `sizes` one of fio's suffixes: k, kb, ki, kib, ... */
static bool well_formed(const char* text, bool sizes) {
  size_t digits = strspn(text, "0123456789");
  const char* suffix = text + digits;

  if (!digits || digits > 18) return false;
  if (sizes && *suffix && strchr("kmgtp", tolower((unsigned char)*suffix))) {
    suffix++;
    if (tolower((unsigned char)*suffix) == 'i') suffix++;
  }
  if (sizes && tolower((unsigned char)*suffix) == 'b') suffix++;
  return !*suffix;
}

/* Leaves *value alone when the option is not given. */
static int parse(const struct thread_data* td, const char* name, const char* text, long long min,
                 long long max, bool sizes, long long* value) {
  if (!text) return 0;
  if (!well_formed(text, sizes) || check_str_bytes(text, value, (void*)&td->o) || *value < min ||
      *value > max) {
    if (sizes)
      message("job %s: %s=%s: expected a size, such as 2g", td->o.name, name, text);
    else
      message("job %s: %s=%s: expected a number from %lld to %lld", td->o.name, name, text, min,
              max);
    return EINVAL;
  }
  return 0;
}

static bool wants_readonly(const struct thread_data* td) {
  const struct engine_options* eo = td->eo;

  return eo->readonly || engine_fio_is_readonly();
}

/*
 * Says how fio has read a size in MiB: with kb_base=1024, its default, MiB is 1000000 bytes
 * and M, or MB, is 1048576.
 */
static int check_cache_size(const struct thread_data* td, const char* text, long long bytes) {
  const long long kLeast = 512LL << 20;
  bool inverted = text && td->o.kb_base == 1024 && strcasestr(text, "ib");

  if (text && bytes < kLeast) {
    message("job %s: cache_size=%s: %lld bytes, a cache needs at least %lld%s", td->o.name, text,
            bytes, kLeast,
            inverted ? "; fio's kb_base=1024 reads MiB as 1000000 and M as 1048576 bytes: write M, "
                       "or give kb_base=1000"
                     : "");
    return EINVAL;
  }
  if (inverted)
    message(
        "job %s: cache_size=%s is %lld bytes: fio's kb_base=1024 reads MiB as 1000000 and M as "
        "1048576 bytes",
        td->o.name, text, bytes);
  return 0;
}

/* filename= takes several names, so a colon in one is "\:" there; here it is just a colon. */
static int check_path(const struct thread_data* td, const char* name, const char* path) {
  if (!path || !strstr(path, "\\:")) return 0;
  message("job %s: %s=%s: a colon is written as it is here, without a backslash before it",
          td->o.name, name, path);
  return EINVAL;
}

int options_to_wishes(const struct thread_data* td, struct cache_wishes* wishes) {
  const struct engine_options* eo = td->eo;
  long long cache_size = 0, gc_percent = PCACHE_NOT_GIVEN, flush_delay_ms = PCACHE_NOT_GIVEN;
  long long writeback_interval_ms = PCACHE_NOT_GIVEN;

  if (!eo->cache_dev) {
    message("job %s: cache_dev= is missing: name the pmem device or file", td->o.name);
    return EINVAL;
  }
  if (parse(td, "cache_size", eo->cache_size, 0, 1LL << 60, true, &cache_size) ||
      parse(td, "gc_percent", eo->gc_percent, 0, 90, false, &gc_percent) ||
      parse(td, "flush_delay_ms", eo->flush_delay_ms, 1, 60000, false, &flush_delay_ms) ||
      parse(td, "writeback_interval_ms", eo->writeback_interval_ms, 1, 3600000, false,
            &writeback_interval_ms))
    return EINVAL;
  if (check_cache_size(td, eo->cache_size, cache_size) ||
      check_path(td, "cache_dev", eo->cache_dev) || check_path(td, "stats_file", eo->stats_file))
    return EINVAL;
  if (eo->prefault && strcmp(eo->prefault, "attach") != 0 && strcmp(eo->prefault, "beside") != 0) {
    message("job %s: prefault=%s: expected attach or beside", td->o.name, eo->prefault);
    return EINVAL;
  }
  *wishes = (struct cache_wishes){
      .job = td->o.name,
      .cache_dev = eo->cache_dev,
      .backing = td->files[0]->file_name,
      .persist = eo->persist,
      .prefault = eo->prefault,
      .stats_file = eo->stats_file,
      .cache_size = (uint64_t)cache_size,
      .flush_delay_ms = flush_delay_ms,
      .writeback_interval_ms = writeback_interval_ms,
      .drain = (int)eo->drain,
      .data_crc = eo->data_crc,
      .gc_percent = (int)gc_percent,
      .io_mode = eo->io_mode,
      .emulate_pmem = (int)eo->emulate_pmem,
      .force = (int)eo->force,
      .readonly = wants_readonly(td),
  };
  return 0;
}

/* ---- Workload ---- */

int check_workload(const struct thread_data* td) {
  const struct thread_options* o = &td->o;
  const struct engine_options* eo = td->eo;
  const char* why = NULL;

  if (!o->filename && !o->read_iolog_file)
    why = "filename= is missing: name the backing device";
  else if (td->files_index != 1)
    why =
        "filename= must name exactly one backing device for a job (one in [global] adds up "
        "with the job's own)";
  else if (td_trim(td) || o->trim_percentage)
    why = "trim is not supported: the cache's format has no discard";
  else if (td_write(td) && wants_readonly(td))
    why = "it writes, and with readonly=1 nothing is written";
  else if (eo->drain && wants_readonly(td))
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
      (td_write(td) && !direction_aligned(td, DDIR_WRITE, block_size)))
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
