/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pcache-ublk: a cached block device as /dev/ublkbN, by the kernel's ublk_drv.
 *
 *     pcache-ublk cache_dev=/dev/dax0.0 backing=/dev/sdb gc_percent=70
 *
 * The main thread opens the cache, makes the device and waits for a signal; serve.c has the
 * requests. All signals that end it are blocked before the first thread is made.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pcache.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "arguments.h"
#include "control.h"
#include "fail.h"
#include "serve.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define MAX_IO_BYTES (1u << 19) /* of a READ or WRITE; a buffer of each tag has as much */
#define OLD_SERVER_SECONDS 10   /* a server that was killed gives up its device and its locks */
#define KILLED_SECONDS 2        /* a process that was killed frees its memory before it is gone */
#define CLOSE_SECONDS 5         /* who has the disk open closes it */
#define QUEUE_ENDED SIGUSR1

static struct pcache_options options;
static struct control control;

static void log_line(void* ctx, enum pcache_log_level level, const char* line) {
  static const char* const words[] = {"", "warning: ", "notice: "};

  (void)ctx;
  fprintf(stderr, NAME ": %s%s\n", words[level], line);
}

/* ---- What the device is ---- */

/* Of the two devices' names: a device that is recovered must have been served from the same. */
static uint64_t fingerprint(void) {
  const char* names[] = {options.cache_path, options.backing_path};
  uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

  for (unsigned i = 0; i < 2; i++) {
    char* real = realpath(names[i], NULL);

    for (const char* c = real ? real : names[i];; c++) {
      hash = (hash ^ (unsigned char)*c) * 0x100000001b3;
      if (!*c) break;
    }
    free(real);
  }
  return hash;
}

static uint8_t shift_of(uint32_t bytes) { return (uint8_t)__builtin_ctz(bytes); }

/*
 * FLUSH is asked for as of a disk with a volatile write cache. No trim is told where the backing
 * device would have to write each zero: mkfs of it all would take hours.
 */
static struct ublk_params params_of(const struct pcache_info* info, uint32_t max_io_bytes) {
  uint32_t physical = info->block_size < 4096 ? 4096 : info->block_size;
  /* Where the kernel splits a larger request, the next one begins with a whole block. */
  uint32_t most = (UINT_MAX & ~(physical - 1)) >> 9;
  struct ublk_params params = {.types = UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD};

  params.basic.attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
  if (options.readonly) params.basic.attrs |= UBLK_ATTR_READ_ONLY;
  params.basic.logical_bs_shift = shift_of(info->block_size);
  params.basic.physical_bs_shift = shift_of(physical);
  params.basic.io_min_shift = params.basic.io_opt_shift = shift_of(physical);
  params.basic.max_sectors = max_io_bytes >> 9;
  params.basic.dev_sectors = info->logical_bytes >> 9;
  params.discard.discard_granularity = physical;
  if (!options.readonly) {
    params.discard.max_discard_sectors = info->makes_holes ? most : 0;
    params.discard.max_write_zeroes_sectors = most;
  }
  params.discard.max_discard_segments = 1;
  return params;
}

/* A device keeps its size when the cache's has grown: it never serves more than there is. */
static bool fits(const struct ublk_params* device, const struct ublk_params* cache) {
  struct ublk_param_basic basic = cache->basic;

  if (device->basic.dev_sectors < basic.dev_sectors) basic.dev_sectors = device->basic.dev_sectors;
  return !memcmp(&device->basic, &basic, sizeof(basic)) &&
         !memcmp(&device->discard, &cache->discard, sizeof(cache->discard));
}

/* ---- A device that is new, or recovered ---- */

static int add_device(const struct wish* wish, struct ublksrv_ctrl_dev_info* device) {
  uint64_t recovery = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE;
  int status;

  *device = (struct ublksrv_ctrl_dev_info){.nr_hw_queues = (uint16_t)wish->queues,
                                           .queue_depth = (uint16_t)wish->depth,
                                           .max_io_buf_bytes = MAX_IO_BYTES,
                                           .dev_id = (uint32_t)wish->id,
                                           .flags = UBLK_F_CMD_IOCTL_ENCODE,
                                           .ublksrv_flags = fingerprint()};
  if (wish->recoverable) device->flags |= recovery;
  status = control_add(&control, device);
  if (status == -EEXIST)
    return fail(
        "/dev/ublkc%lld is there already: --recover %lld serves it again, --delete %lld "
        "removes it",
        (long long)wish->id, (long long)wish->id, (long long)wish->id);
  if (status == -EPERM)
    return fail("the kernel allows no new device: ublk takes root (CAP_SYS_ADMIN)");
  if (status == -EOPNOTSUPP || status == -EINVAL)
    return fail(
        "the kernel's ublk_drv takes no ADD_DEV of this kind: %s; Linux 6.4 or newer is "
        "needed",
        strerror(-status));
  if (status) return fail("ADD_DEV: %s", strerror(-status));
  if (wish->recoverable && (device->flags & recovery) != recovery) {
    control_delete(&control, device->dev_id, CLOSE_SECONDS);
    return fail("--recoverable: the kernel's ublk_drv cannot recover a device");
  }
  return 0;
}

static void pause_briefly(void) {
  nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
}

/* A zombie, whose parent has not waited for it, is dead. */
static bool is_alive(int pid) {
  char line[512] = "", path[32];
  const char* behind_name;
  FILE* file;

  if (pid <= 0 || (kill(pid, 0) && errno != EPERM)) return false;
  snprintf(path, sizeof(path), "/proc/%d/stat", pid);
  file = fopen(path, "re");
  if (!file) return true; /* as far as kill() knows */
  if (!fgets(line, sizeof(line), file)) line[0] = 0;
  fclose(file);
  behind_name = strrchr(line, ')');
  return !behind_name || (strncmp(behind_name, ") Z", 3) && strncmp(behind_name, ") X", 3));
}

/* Of a device that is there: may it be recovered by this process? Waits for the end of a server
 * that is being killed. */
static int look_at_device(uint32_t id, struct ublksrv_ctrl_dev_info* device) {
  time_t start = time(NULL);

  for (;;) {
    int status = control_get_info(&control, id, device);

    if (status == -ENODEV) return fail("--recover %u: there is no /dev/ublkc%u", id, id);
    if (status == -EPERM)
      return fail("the kernel does not allow it: ublk takes root (CAP_SYS_ADMIN)");
    if (status) return fail("GET_DEV_INFO of %u: %s", id, strerror(-status));
    if (!(device->flags & UBLK_F_USER_RECOVERY))
      return fail("--recover %u: it was made without --recoverable: --delete %u removes it", id,
                  id);
    if (device->state == UBLK_S_DEV_QUIESCED) break;
    if (device->state != UBLK_S_DEV_LIVE)
      return fail("--recover %u: it was stopped: --delete %u removes it", id, id);
    if (time(NULL) > start + KILLED_SECONDS && is_alive(device->ublksrv_pid))
      return fail("--recover %u: process %d serves it", id, device->ublksrv_pid);
    if (time(NULL) > start + OLD_SERVER_SECONDS)
      return fail("--recover %u: the kernel has not noticed the end of process %d", id,
                  device->ublksrv_pid);
    pause_briefly();
  }
  if (device->ublksrv_flags != fingerprint())
    return fail("--recover %u: it was served from another cache_dev or backing", id);
  return 0;
}

static int begin_recovery(uint32_t id, const struct ublk_params* wanted) {
  struct ublk_params found = {0};
  time_t end = time(NULL) + OLD_SERVER_SECONDS;
  int status = control_get_params(&control, id, &found);

  if (status) return fail("GET_PARAMS of %u: %s", id, strerror(-status));
  if (!fits(&found, wanted))
    return fail(
        "--recover %u: it has %llu sectors in blocks of %u, limits and access of another "
        "cache; this one has %llu in blocks of %u",
        id, (unsigned long long)found.basic.dev_sectors, 1u << found.basic.logical_bs_shift,
        (unsigned long long)wanted->basic.dev_sectors, 1u << wanted->basic.logical_bs_shift);
  if (found.basic.dev_sectors < wanted->basic.dev_sectors)
    fprintf(stderr, NAME ": notice: /dev/ublkb%u keeps its %llu sectors; the cache has %llu\n", id,
            (unsigned long long)found.basic.dev_sectors,
            (unsigned long long)wanted->basic.dev_sectors);
  while ((status = control_begin_recovery(&control, id)) == -EBUSY && time(NULL) <= end)
    pause_briefly();
  return status ? fail("START_USER_RECOVERY of %u: %s", id, strerror(-status)) : 0;
}

static int set_params(uint32_t id, struct ublk_params* params) {
  int status = control_set_params(&control, id, params);

  return status ? fail("SET_PARAMS of %u: %s", id, strerror(-status)) : 0;
}

/* The locks of a server that was killed go with it, a moment later. */
static int open_cache(pcache_cache** cache, bool recovering) {
  time_t end = time(NULL) + OLD_SERVER_SECONDS;
  struct pcache_error error = {0};
  int status;

  while ((status = pcache_open(&options, cache, &error)) == -EBUSY && recovering &&
         time(NULL) <= end)
    pause_briefly();
  return status ? fail("%s", error.text) : 0;
}

/* ---- Serving ---- */

static void delete_device(uint32_t id) {
  int status = control_delete(&control, id, CLOSE_SECONDS);

  if (status == -ETIMEDOUT)
    fail("/dev/ublkb%u is open still; it goes when that has ended", id);
  else if (status && status != -ENODEV)
    fail("DEL_DEV of %u: %s", id, strerror(-status));
}

/*
 * What ends it. All threads block these, so one that is early is not lost. Not what is ignored, as
 * nohup has SIGHUP and a shell SIGINT of a job in the background: a signal that is blocked comes
 * all the same.
 */
static sigset_t endings(void) {
  static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
  struct sigaction action;
  sigset_t set;

  sigemptyset(&set);
  sigaddset(&set, QUEUE_ENDED);
  for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
    if (sigaction(signals[i], NULL, &action) || action.sa_handler != SIG_IGN)
      sigaddset(&set, signals[i]);
  return set;
}

static void wait_for_end(void) {
  sigset_t set = endings();
  int signal;

  sigwait(&set, &signal);
}

static bool say_ready(uint32_t id) {
  printf(NAME ": /dev/ublkb%u is ready\n", id);
  return !fflush(stdout) || !fail("standard output: %s", strerror(errno));
}

/* The device is there, and nothing of it is served yet. */
static int serve_device(pcache_cache* cache, const struct pcache_info* info,
                        const struct ublksrv_ctrl_dev_info* device, bool recovering) {
  struct serve_device served = {.cache = cache,
                                .queues = device->nr_hw_queues,
                                .depth = device->queue_depth,
                                .max_io_bytes = device->max_io_buf_bytes,
                                .makes_holes = info->makes_holes,
                                .durable = device->flags & UBLK_F_USER_RECOVERY};
  struct serve* serve = NULL;
  struct pcache_error error = {0};
  char path[64];
  int code = 0, status;

  snprintf(path, sizeof(path), "/dev/ublkc%u", device->dev_id);
  served.fd = open(path, O_RDWR | O_CLOEXEC);
  if (served.fd < 0) code = fail("%s: %s", path, strerror(errno));
  if (!code && serve_begin(&served, QUEUE_ENDED, &serve, &error))
    code = fail("%s: %s", path, error.text);
  if (!code) {
    status = recovering ? control_end_recovery(&control, device->dev_id)
                        : control_start(&control, device->dev_id);
    if (status)
      code = fail("%s of %u: %s", recovering ? "END_USER_RECOVERY" : "START_DEV", device->dev_id,
                  strerror(-status));
  }
  if (!code && !say_ready(device->dev_id) && !recovering) code = FAILED;
  /* What has been served is durable, and the device waits for another try. */
  if (code && recovering) _exit(code);
  if (!code) wait_for_end();
  if (!code && served.durable && serve_failed(serve)) {
    fail("/dev/ublkb%u waits for --recover %u", device->dev_id, device->dev_id);
    _exit(FAILED);
  }
  status = control_stop(&control, device->dev_id);
  if (status && status != -ENODEV)
    code = fail("STOP_DEV of %u: %s", device->dev_id, strerror(-status));
  if (serve_end(serve)) code = FAILED;
  if (served.fd >= 0) close(served.fd);
  return code;
}

static int run(const struct wish* wish) {
  bool recovering = wish->recover >= 0;
  struct ublksrv_ctrl_dev_info device = {0};
  struct pcache_info info = {.size = sizeof(info)};
  struct pcache_error error = {0};
  pcache_cache* cache;
  int code;

  /* A device that the driver refuses leaves a blank cache blank. */
  code = recovering ? look_at_device((uint32_t)wish->recover, &device) : add_device(wish, &device);
  if (code) return code;
  code = open_cache(&cache, recovering);
  if (!code) {
    struct ublk_params params;

    pcache_get_info(cache, &info);
    params = params_of(&info, device.max_io_buf_bytes);
    code = recovering ? begin_recovery(device.dev_id, &params) : set_params(device.dev_id, &params);
    if (code) pcache_close(cache, &error);
  }
  if (code) {
    if (!recovering) delete_device(device.dev_id);
    return code;
  }
  code = serve_device(cache, &info, &device, recovering);
  if (pcache_close(cache, &error)) code = fail("%s", error.text);
  delete_device(device.dev_id);
  return code;
}

static void block_signals(void) {
  sigset_t set = endings();

  pthread_sigmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
}

/* The option --delete. */
static int remove_device(uint32_t id) {
  int status = control_delete(&control, id, CLOSE_SECONDS);

  if (status == -ENODEV) return fail("--delete %u: there is no such device", id);
  if (status == -ETIMEDOUT)
    return fail(
        "--delete %u: it is open, or requests of it wait, and it goes when that has ended: close "
        "it, or send its server SIGKILL",
        id);
  return status ? fail("--delete %u: %s", id, strerror(-status)) : 0;
}

int main(int argc, char** argv) {
  struct wish wish = {.queues = 1, .depth = 128, .id = -1, .recover = -1, .remove = -1};
  char why[256];
  int code;

  pcache_options_init(&options);
  options.log = log_line;
  code = parse(argc, argv, &wish, &options);
  if (code >= 0) return code;
  block_signals();
  /* Memory that is asked for to write must not wait for a write to this device. */
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  if (control_open(&control, why, sizeof(why))) return fail("%s", why);
  code = wish.remove >= 0 ? remove_device((uint32_t)wish.remove) : run(&wish);
  control_close(&control);
  return code;
}
