// SPDX-License-Identifier: GPL-2.0-or-later
// A plugin of nbdkit: a device in memory that appends each request to a recording, before it
// answers. The format: ext4_recording.py, beside this file.
//
//   nbdkit cc tests/recorder.c recording=FILE size=BYTES
//
// Requests come one at a time, so their order is one in which they were done. A record is one
// write() to a file that is opened with O_APPEND: another process may append marks. The file is
// there, with its header.
#define NBDKIT_API_VERSION 2
#include <errno.h>
#include <fcntl.h>
#include <nbdkit-plugin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_ALL_REQUESTS

enum kind { kWrite = 1, kFlush, kTrim, kZero, kRead };
enum { kFua = 1 };

struct record {
  uint8_t kind, flags;
  uint16_t zero;
  uint32_t len;
  uint64_t off;
};

static char* content;
static int64_t size;
static int recording = -1;

static int config(const char* key, const char* value) {
  if (strcmp(key, "size") == 0) return (size = nbdkit_parse_size(value)) < 0 ? -1 : 0;
  if (strcmp(key, "recording") == 0) {
    recording = open(value, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (recording < 0) nbdkit_error("%s: %m", value);
    return recording < 0 ? -1 : 0;
  }
  nbdkit_error("%s: expected size or recording", key);
  return -1;
}

static int get_ready(void) {
  if (size > 0 && recording >= 0) content = calloc(1, size);
  if (!content) nbdkit_error("size and recording are needed, and memory");
  return content ? 0 : -1;
}

static void* open_device(int readonly) { return NBDKIT_HANDLE_NOT_NEEDED; }
static int64_t get_size(void* handle) { return size; }
static int yes(void* handle) { return 1; }
static int fua_is_native(void* handle) { return NBDKIT_FUA_NATIVE; }

static int append(enum kind kind, uint32_t flags, uint64_t off, uint32_t len, const void* data) {
  struct record record = {kind, flags & NBDKIT_FLAG_FUA ? kFua : 0, 0, len, off};
  struct iovec parts[2] = {{&record, sizeof record}, {(void*)data, data ? len : 0}};

  if (writev(recording, parts, 2) == (ssize_t)(parts[0].iov_len + parts[1].iov_len)) return 0;
  nbdkit_error("the recording cannot be written: %m");
  nbdkit_set_error(EIO);
  return -1;
}

static int read_device(void* handle, void* buf, uint32_t len, uint64_t off, uint32_t flags) {
  memcpy(buf, content + off, len);
  return append(kRead, flags, off, len, NULL);
}

static int write_device(void* handle, const void* buf, uint32_t len, uint64_t off, uint32_t flags) {
  memcpy(content + off, buf, len);
  return append(kWrite, flags, off, len, buf);
}

static int flush(void* handle, uint32_t flags) { return append(kFlush, flags, 0, 0, NULL); }

static int trim(void* handle, uint32_t len, uint64_t off, uint32_t flags) {
  memset(content + off, 0, len);
  return append(kTrim, flags, off, len, NULL);
}

static int zero(void* handle, uint32_t len, uint64_t off, uint32_t flags) {
  memset(content + off, 0, len);
  return append(kZero, flags, off, len, NULL);
}

static struct nbdkit_plugin plugin = {
    .name = "recorder",
    .longname = "a device in memory that records its requests",
    .config = config,
    .get_ready = get_ready,
    .open = open_device,
    .get_size = get_size,
    .can_write = yes,
    .can_flush = yes,
    .can_trim = yes,
    .can_zero = yes,
    .can_fast_zero = yes,
    .can_fua = fua_is_native,
    .pread = read_device,
    .pwrite = write_device,
    .flush = flush,
    .trim = trim,
    .zero = zero,
};

NBDKIT_REGISTER_PLUGIN(plugin)
