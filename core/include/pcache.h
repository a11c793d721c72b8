/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libpcache: a log-structured write-back cache for a block device in byte-addressable persistent
 * memory. The on-media format is the one of Linux's dm-pcache.
 *
 * Threads: a `pcache_cache` may be used from any thread. A `pcache_queue` belongs to one thread at
 * a time; different queues of one cache may be used in parallel. A queue may be handed to another
 * thread when the caller orders the two uses.
 *
 * A thread that calls the library must not block SIGBUS: a bad page of the cache device, or a cache
 * file that is cut, is told by it, and the kernel ends a process that blocks it then.
 *
 * Processes: a cache and its queues belong to the process that opened it. In a child that it forks,
 * every call with them fails with -EPERM (pcache_get_status() with NULL; pcache_queue_destroy()
 * does nothing) and touches nothing that is shared. The child's copies of the descriptors keep the
 * devices locked until it ends or calls exec().
 *
 * Units: every offset, length and size is in bytes. Requests are aligned to the block size that
 * pcache_get_info() tells (512, or the backing device's logical block when that is larger).
 *
 * The process must be allowed to call membarrier(2) and io_uring_enter(2) for as long as a cache is
 * open if it was when it was opened: a seccomp filter that forbids one afterwards ends the process.
 *
 * Errors: functions return 0 (or a count) on success and a negative errno on failure; a
 * `struct pcache_error`, where one is taken, gets one line that names the thing, what was
 * expected, what was found and what to do. Nothing throws and nothing is printed.
 */
#ifndef PCACHE_H
#define PCACHE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of libpcache.so: the number in its SONAME. When it changes: core/capi/ABI.md. */
#define PCACHE_ABI_VERSION 2

typedef struct pcache_cache pcache_cache;
typedef struct pcache_queue pcache_queue;

/* Never grows. */
struct pcache_error {
  int32_t code;   /* negative errno, 0 when no error */
  char text[508]; /* one line, no newline at its end */
};

enum pcache_log_level { PCACHE_LOG_ERROR = 0, PCACHE_LOG_WARNING = 1, PCACHE_LOG_NOTICE = 2 };

/*
 * Takes one line without newline. May be called from any thread, also after pcache_open(). It must
 * not call into the library: the caller may hold the cache's locks, and would wait for itself.
 */
typedef void (*pcache_log_fn)(void* ctx, enum pcache_log_level level, const char* line);

enum pcache_io_mode {
  PCACHE_IO_AUTO = 0,    /* io_uring; a thread pool (with a warning) where it is not permitted */
  PCACHE_IO_URING = 1,   /* io_uring or an error */
  PCACHE_IO_THREADS = 2, /* thread pool with pread/pwrite */
};

/* What the backing device alone holds while it is cached. The cache and it together are always
 * consistent. */
enum pcache_backing_order {
  PCACHE_ORDER_STRICT = 0,  /* at any moment a state that FLUSH, FUA and PREFLUSH allow */
  PCACHE_ORDER_RELAXED = 1, /* such a state after a drain alone; what a later write supersedes is
                               not written, also across a flush */
};

/* What of the clean data stays in the cache when space is short. */
enum pcache_policy {
  PCACHE_POLICY_FIFO = 0,          /* what came last */
  PCACHE_POLICY_SECOND_CHANCE = 1, /* and what was read since it came */
  PCACHE_POLICY_ADAPTIVE = 2,      /* by the rule that would have missed least of late; some misses
                                      are not cached */
};

/*
 * When a write is acknowledged, what becomes of its data, and whether misses are cached. Every
 * write goes through the log in pmem all the same: the modes differ in no crash. "On the backing
 * device" is: written there, and flushed.
 */
enum pcache_cache_mode {
  PCACHE_MODE_WRITEBACK = 0,    /* in pmem; it stays in the cache; misses are cached */
  PCACHE_MODE_WRITETHROUGH = 1, /* on the backing device; it stays; they are */
  PCACHE_MODE_WRITEAROUND = 2,  /* on the backing device; it leaves the cache; they are */
  PCACHE_MODE_WRITEONLY = 3,    /* in pmem; it stays; they are not */
  PCACHE_MODE_PASSTHROUGH = 4,  /* on the backing device; it leaves the cache; they are not */
};

/* Which of the two sides of a cache a process is: one that serves requests, one that has the disk.
 */
enum pcache_role {
  PCACHE_ROLE_BOTH = 0,
  PCACHE_ROLE_FRONT = 1, /* requests alone; pcached writes back, and an NBD server has the disk */
};

/* When the data that an attach finds in the cache is checked against data_crc. */
enum pcache_check {
  PCACHE_CHECK_ATTACH = 0, /* before the first request: damage is known then, and said */
  PCACHE_CHECK_READ = 1,   /* by each read and writeback, as of data that came later */
};

/* When the pages of a cache file in memory (tmpfs) are mapped: a first touch costs as much as a
 * write. */
enum pcache_prefault {
  PCACHE_PREFAULT_BESIDE = 0, /* by a thread, after the replay: requests run meanwhile */
  PCACHE_PREFAULT_ATTACH = 1, /* before pcache_open() returns, some 0.25 s a GiB: to measure then */
};

/* Whether the pages that are mapped so are of 2 MiB: the file's are copied into such, which takes
 * two or three times as long. */
enum pcache_huge_pages {
  PCACHE_HUGE_PAGES_AUTO = 0,  /* where the kernel makes them: Linux 6.1, while memory is free */
  PCACHE_HUGE_PAGES_NEVER = 1, /* as the file has them */
};

#define PCACHE_FROM_MEDIA \
  (-1) /* take what the cache device says, or the default when it is blank */

#define PCACHE_TEN_BELOW (-1) /* dirty_low_percent: dirty_high_percent less ten, 0 at least */

/*
 * Every struct here that has a `size` may grow at its end; its caller says how large its own is,
 * and the library neither reads nor writes behind that. What an older program does not know of
 * keeps its default. A newer one that sets what this library does not know of is refused.
 */
#define PCACHE_FIELD_TEXT(name) const char* name;
#define PCACHE_FIELD_NAME(name) const char* name;
#define PCACHE_FIELD_SWITCH(name) int64_t name;
#define PCACHE_FIELD_NUMBER(name) int64_t name;
#define PCACHE_FIELD_SIZE(name) int64_t name;
#define PCACHE_FIELD_CHOICE(name) int64_t name;
#define PCACHE_OPTION(name, kind, ...) PCACHE_FIELD_##kind(name)
struct pcache_options {
  uint32_t size; /* of the caller's struct; set by pcache_options_init() */
  uint32_t reserved;
  pcache_log_fn log; /* NULL: silent */
  void* log_ctx;
  /* The options, a field of 8 bytes for each: cache_path, backing_path, cache_size, ... */
#include "pcache_options.def"
};
#undef PCACHE_OPTION
#undef PCACHE_FIELD_TEXT
#undef PCACHE_FIELD_NAME
#undef PCACHE_FIELD_SWITCH
#undef PCACHE_FIELD_NUMBER
#undef PCACHE_FIELD_SIZE
#undef PCACHE_FIELD_CHOICE

/*
 * Fills in the defaults, `size` bytes of them at most, and keeps `size`, which is 40 or more and a
 * multiple of 8. `reserved` stays 0.
 */
void pcache_options_init_sized(struct pcache_options* options, uint32_t size);

/* Call it before setting any field. */
static inline void pcache_options_init(struct pcache_options* options) {
  pcache_options_init_sized(options, (uint32_t)sizeof *options);
}

/*
 * Sets one option from text, as it is written in pcache_options.def: "gc_percent" to "70" or
 * "media", "cache_size" to "2g", "io_mode" to "threads". 0; or -EINVAL, then nothing has changed,
 * and the error names the option, what was given and what is expected. -ENOENT: there is no such
 * option, or it is behind the end of the caller's struct. `name` is not NULL, and `text` not but
 * for a PCACHE_OPTION_TEXT, which is not given then. A PCACHE_OPTION_TEXT (cache_path,
 * backing_path, control) is not copied: it stays the caller's, and must last until pcache_open()
 * returns.
 */
int pcache_options_set(struct pcache_options* options, const char* name, const char* text,
                       struct pcache_error* err);

/*
 * The value of an option, as pcache_options_set() takes it; a PCACHE_OPTION_TEXT that is NULL is
 * "". Returns its length; when that is not less than `text_size`, what fits has been written.
 * -ENOENT and -EINVAL as above.
 */
int pcache_options_get(const struct pcache_options* options, const char* name, char* text,
                       size_t text_size);

enum pcache_option_type {
  PCACHE_OPTION_TEXT = 0,   /* any text; the field is a const char*, of all but NAME an int64_t */
  PCACHE_OPTION_NAME = 1,   /* one of the choices; the field is its name, a const char* */
  PCACHE_OPTION_SWITCH = 2, /* 0 or 1 */
  PCACHE_OPTION_NUMBER = 3, /* least..most, or one of the choices */
  PCACHE_OPTION_SIZE = 4,   /* the same, in bytes */
  PCACHE_OPTION_CHOICE = 5, /* one of the choices */
};

/* Never grows. */
struct pcache_option_choice {
  const char* name;
  int64_t value; /* of the field; of no meaning for PCACHE_OPTION_NAME */
  const char* text;
};

/* An option, as pcache_options.def has it. All texts are constant, none is NULL. */
struct pcache_option_info {
  uint32_t size;   /* sizeof(struct pcache_option_info), set by the caller */
  uint32_t type;   /* enum pcache_option_type */
  uint32_t offset; /* of its field in struct pcache_options, which has 8 bytes; a library newer than
                      the caller's pcache.h has fields behind the end of the caller's struct */
  uint32_t choice_count;
  const struct pcache_option_choice* choices;
  int64_t least;
  int64_t most;
  const char* name;
  const char* title;
  const char* text;
  const char* unit;
  const char* initial;     /* what pcache_options_init() sets, as text */
  const char* expected;    /* "a number from 0 to 90, or media" */
  const char* fio;         /* its name in the fio engine, or "" */
  const char* fio_initial; /* what the engine sets first, or "" */
  const char* ctl;         /* "SUBCOMMAND:NAME ...", of pcachectl */
};

/* The options, from 0 on. 0; -ENOENT: there are no more; -EINVAL: `size`. */
uint32_t pcache_option_count(void);
int pcache_option_describe(uint32_t index, struct pcache_option_info* info);

/*
 * Opens a cache: maps the cache device, checks it, replays its log; formats it when it is blank
 * (its first 20 KiB are zeros). On failure nothing on either device was changed: no byte, no block,
 * no length, no time; but for media errors behind a format that had begun.
 * `cache_size` for more segments than a cache was formatted with is refused (-EINVAL; pcachectl
 * resize makes it larger), for fewer it is ignored with a notice.
 * -EBUSY: the cache or its backing device is in use. -EUCLEAN: the image is damaged and was left as
 * it is. -EINVAL: an option is wrong or contradicts the media. -EXDEV: another backing device
 * belongs to it. -EROFS: a device cannot be written to, and `readonly` is 0.
 *
 * With `readonly` both devices are opened and mapped for reading only, and locked shared: the image
 * stays byte for byte what it is, and several may have it open so at once. Reads give what the
 * cache holds, dirty data too; a miss is not kept. A WRITE completes with -EROFS, a FLUSH with 0. A
 * blank device is refused (-EINVAL), and so are `drain`, `gc_percent` and a `cache_size` larger
 * than the file. With `force` nothing is written either.
 */
int pcache_open(const struct pcache_options* options, pcache_cache** out, struct pcache_error* err);

/*
 * The option `control`: from the open on a thread of the library's answers pcachectl, and calls for
 * it what is below: pcache_set(), pcache_drain() (in one more thread) and pcache_get_status(). A
 * path that is given and cannot be had refuses the open: -EADDRINUSE, somebody listens there;
 * -EEXIST, what is there is no socket; -ENAMETOOLONG; or what the file system says. See
 * core/control/CONTROL.md.
 */

/*
 * Closes every open kset and the cache, and gives up a drain that pcachectl waits for. All queues
 * must have been destroyed. Dirty data stays in pmem, or with the option `drain` is written back
 * first. Closes it in any case; returns the error that kept open ksets from the log or dirty data
 * from the backing device, 0 if none.
 */
int pcache_close(pcache_cache* cache, struct pcache_error* err);

/*
 * Writes back everything that had completed when it was called, and flushes the backing device. Any
 * thread; waits for the device. On failure the data stays dirty in pmem: the backing device's
 * errno, or -EIO when some of the dirty data is damaged (what is sound has been written back then).
 * -EROFS with the option `readonly`.
 */
int pcache_drain(pcache_cache* cache, struct pcache_error* err);

/* 0..90; persistent. Any thread. -EROFS with the option `readonly`. */
int pcache_set_gc_percent(pcache_cache* cache, int32_t percent, struct pcache_error* err);

/*
 * Changes an option of an open cache: gc_percent and cache_mode, which are kept on the media,
 * backing_order, policy, dirty_high_percent, dirty_low_percent, writeback_rate, seq_cutoff,
 * read_ahead, flush_delay_ms, writeback_interval_ms and drain, until it is closed. `text` as for
 * pcache_options_set(); it holds for every request that is submitted when this has returned. A
 * WRITE that was submitted before, in a mode that acknowledges on the backing device, is
 * acknowledged there still. Such a mode makes what is dirty go there, and the first WRITE in it
 * waits for all of that: call pcache_drain() before. backing_order=strict holds when what was dirty
 * then is on the device. Any thread. On failure nothing has changed: -EINVAL, -ENOENT as there, and
 * -EINVAL for all other options; -EROFS with the option `readonly`; -ENOMEM: there is no memory for
 * what a policy goes by.
 */
int pcache_set(pcache_cache* cache, const char* name, const char* text, struct pcache_error* err);

struct pcache_info {
  uint32_t size;          /* sizeof(struct pcache_info), set by the caller; then: what is filled */
  uint32_t block_size;    /* alignment of request offsets and lengths */
  uint64_t logical_bytes; /* of the cached device; pcachectl resize-backing lets it grow */
  uint64_t cache_bytes;   /* bytes of the cache device in use; pcachectl resize lets it grow */
  uint32_t segments;      /* 16 MiB segments on the cache device; likewise */
  int32_t data_crc;
  int32_t gc_percent;
  int32_t emulated;
  char persist[16]; /* the method in use */
  char pmem_kind[16];
  char io_mode[16];
  int32_t makes_holes; /* a DISCARD becomes a hole in the backing device; 0: it may have to be
                          written */
  int32_t cache_mode;  /* enum pcache_cache_mode */
};
int pcache_get_info(const pcache_cache* cache, struct pcache_info* info);

/* Of a part of the device; never grows. */
#define PCACHE_EXTENT_CACHED 1u
#define PCACHE_EXTENT_DIRTY 2u /* cached, and newer than on the backing device */
#define PCACHE_EXTENT_ZEROS 4u /* reads as zeros, which is known without a read */
#define PCACHE_EXTENT_HOLE 8u  /* not cached, zeros, and the backing device has no room for it */
struct pcache_extent {
  uint64_t off;
  uint64_t len;
  uint32_t flags; /* PCACHE_EXTENT_*; 0: data that the backing device alone has */
  uint32_t reserved;
};

/*
 * What the range is made of, from `off` on, in ascending order without gaps: at most `count`
 * extents, which is 1 or more, so it may end before the range does. How many, or a negative errno:
 * -EINVAL, `len` or `count` is 0; -ENXIO, the range is not in the device; -EPERM in a forked child.
 * Of a moment: what requests do meanwhile may be in it or not. Any thread; no request waits for it.
 */
int pcache_map(const pcache_cache* cache, uint64_t off, uint64_t len, struct pcache_extent* extents,
               uint32_t count);

/*
 * The status as a malloc'd string, to be freed with free(); NULL when memory is out, or in a forked
 * child.
 * PCACHE_STATUS_LINE: the kernel target's fields in its order. PCACHE_STATUS_JSON: one JSON object.
 */
enum pcache_status_format { PCACHE_STATUS_LINE = 0, PCACHE_STATUS_JSON = 1 };
char* pcache_get_status(pcache_cache* cache, enum pcache_status_format format);

/* A field of the JSON status, OBJECT.NAME in it; all texts are constant. */
struct pcache_status_field {
  uint32_t size; /* sizeof(struct pcache_status_field), set by the caller */
  uint32_t reserved;
  const char* object; /* "requests"; "" for what is in no object */
  const char* name;
  const char* text;
  const char* kind; /* "counter": only grows, until pcachectl stats reset; "state"; "latency" */
};

/* The fields that every status has, from 0 on. 0; -ENOENT: there are no more; -EINVAL: `size`. */
uint32_t pcache_status_field_count(void);
int pcache_status_field_describe(uint32_t index, struct pcache_status_field* field);

enum pcache_op {
  PCACHE_OP_READ = 0,
  PCACHE_OP_WRITE = 1,
  PCACHE_OP_FLUSH = 2,
  PCACHE_OP_DISCARD = 3,      /* a WRITE of zeros, for which the backing device need keep no room */
  PCACHE_OP_WRITE_ZEROES = 4, /* a WRITE of zeros, for which it keeps room where it can */
};

/* Other bits of `flags`: -EINVAL. */
#define PCACHE_REQ_FUA 1u      /* all but READ and FLUSH: durable when it completes */
#define PCACHE_REQ_PREFLUSH 2u /* the same: everything completed before it is durable first */

/*
 * One request. The caller owns it and its buffer, and leaves both alone from pcache_submit() until
 * it is completed; so no two READs may have one buffer at the same time (what it holds then may be
 * kept in the cache as the device's content). `result` is 0 or a negative errno; a failed write may
 * have changed any of its range. A completed WRITE is seen by every later READ of any queue. It is
 * durable after a later FLUSH (of any queue), or on completion with PCACHE_REQ_FUA: durable in
 * pmem, whether it is written back or not, so a failing backing device fails no FLUSH. A FLUSH
 * fails with -EIO, once, when data that an earlier one had made durable turned out to be damaged in
 * pmem. With a cache_mode that acknowledges on the backing device a WRITE is there, flushed, when
 * it completes. A device that fails fails it then, with its errno; its data is in the cache all the
 * same, is read, and is tried again.
 *
 * What holds for a WRITE holds for a DISCARD and a WRITE_ZEROES: its range reads as zeros from its
 * completion on, durably after a FLUSH. It may be as long as the device. It takes little room in
 * the cache: 1 MiB for each GiB, 64 KiB for one that is shorter than 64 MiB, and its keys. So what
 * is discarded and not on the backing device yet is bounded by what it names: as much as the
 * cache's size may be. What comes then waits, behind others of its kind alone; a WRITE waits behind
 * one that it overlaps. On the device a DISCARD becomes a hole, and a WRITE_ZEROES a range of
 * zeros; where it makes neither, zeros are written.
 *
 * A full cache is no error: a WRITE that finds no space waits, in order of arrival, until writeback
 * and reclaim have made some. While the backing device fails that may be long; see
 * pcache_queue_cancel().
 */
struct pcache_request {
  uint32_t op;    /* enum pcache_op */
  uint32_t flags; /* PCACHE_REQ_* */
  uint64_t off;   /* ignored for FLUSH */
  uint64_t len;   /* > 0; ignored for FLUSH */
  void* buf;      /* of READ and WRITE; no alignment asked; page alignment saves a copy on misses */
  int32_t result;
  uint32_t reserved;
  void* user; /* the caller's */
};

/* `depth`: how many requests may be queued at once, 1..65536. */
int pcache_queue_create(pcache_cache* cache, uint32_t depth, pcache_queue** out,
                        struct pcache_error* err);

/*
 * Waits for what is in flight, and for what is read ahead, and drops its completions; a WRITE that
 * waits for space, or to be acknowledged on the backing device, is given up (-ECANCELED, any part
 * of it may have been written), and so is a READ that has not begun all of its I/O. NULL is
 * allowed.
 */
void pcache_queue_destroy(pcache_queue* queue);

/*
 * Returns 1: completed, see request->result (hits, flushes and refused requests; it will not come
 * out of pcache_reap()). Returns 0: queued. -EAGAIN: `depth` requests are queued already, reap
 * first.
 */
int pcache_submit(pcache_queue* queue, struct pcache_request* request);

/*
 * Submits requests that the caller has at hand together, in order, each as pcache_submit() does:
 * read hits take less time so, as the memory that the later ones need is fetched while the earlier
 * ones are served. Returns how many are taken: fewer than `count` when `depth` are queued then; if
 * none is, what pcache_submit() of the first returns. Of those taken, the ones that are complete
 * (they will not come out of pcache_reap()) are stored to `done`, which has room for `count`, in
 * order; `done_count` of them.
 */
int pcache_submit_batch(pcache_queue* queue, struct pcache_request* const* requests, uint32_t count,
                        struct pcache_request** done, uint32_t* done_count);

/*
 * Takes completed requests in the order of their completion: at least `min` (it waits for them, but
 * for no more than are queued), at most `max`. Goes on with READs of more gaps than the queue reads
 * at a time. `timeout_ns` < 0: wait as long as it takes.
 * Returns the number taken or a negative errno.
 */
int pcache_reap(pcache_queue* queue, struct pcache_request** done, uint32_t min, uint32_t max,
                int64_t timeout_ns);

/*
 * Gives up the requests of this queue that wait for space: they come out of pcache_reap() with
 * -ECANCELED, also of one that is waiting in another thread. Of a WRITE any part may have been
 * written; what other requests have written stays dirty in pmem, and safe. Requests at the backing
 * device are not touched, nor WRITEs that wait to be acknowledged there. Returns how many it were.
 * Any thread, before pcache_queue_destroy().
 */
int pcache_queue_cancel(pcache_queue* queue);

/*
 * A file descriptor for an event loop (poll, epoll): readable when pcache_reap() with a `min` of 0
 * has something to do, whatever has completed it: the backing device, another queue, who made
 * space, pcache_queue_cancel(). When it is readable call pcache_reap() until it returns less than
 * `max`. It may be readable with nothing to take, at times; once nothing is queued, and that is
 * reaped, it is not, but once more for what is read ahead (option read_ahead). What pcache_submit()
 * returns 1 for does not show in it.
 *
 * Returns the same one each time, or a negative errno (-EPERM in a forked child). Called by the
 * queue's thread; from then on each asynchronous completion costs some more. Any thread may wait
 * for the descriptor; nobody reads it, writes to it or closes it: pcache_queue_destroy() does, so
 * take it out of poll() before. A forked child's copy of it tells of the parent's queue, to no use;
 * exec() closes it.
 */
int pcache_queue_fd(pcache_queue* queue);

/* Requests queued and not yet taken by pcache_reap(). */
uint32_t pcache_queue_in_flight(const pcache_queue* queue);

/* "0.1.0" */
const char* pcache_version(void);

#ifdef __cplusplus
}
#endif

#endif
