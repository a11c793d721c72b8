/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fio_layout.h"

#include <stddef.h>
#include <string.h>

#include "message.h"

/* Absent like the others of fio_api.h where there is no fio. */
#pragma weak fio_option_find
#pragma weak fio_version_string

#define WHAT_TO_DO \
  "build it with the headers of the fio that runs: scripts/setup, or -DPCACHE_FIO_SOURCE=DIR"

struct place {
  const char* option;
  size_t offset;
};

#define PLACE(option, member) \
  { option, offsetof(struct thread_options, member) }

/*
 * The members that the engines use and that an option of fio's leads to, and some that lie far
 * apart: what is moved by a member more or less is seen by the next of them.
 */
static const struct place places[] = {
    PLACE("name", name),
    PLACE("filename", filename),
    PLACE("filename_format", filename_format),
    PLACE("ioengine", ioengine),
    PLACE("kb_base", kb_base),
    PLACE("iodepth", iodepth),
    PLACE("iodepth_batch", iodepth_batch),
    PLACE("size", size),
    PLACE("fill_device", fill_device),
    PLACE("bs", bs),
    PLACE("blockalign", ba),
    PLACE("bssplit", bssplit),
    PLACE("create_serialize", create_serialize),
    PLACE("sync", sync_io),
    PLACE("verify", verify),
    PLACE("verify_state_save", verify_state_save),
    PLACE("thread", use_thread),
    PLACE("bs_unaligned", bs_unaligned),
    PLACE("runtime", timeout),
    PLACE("ramp_time", ramp_time),
    PLACE("zonemode", zone_mode),
    PLACE("trim_percentage", trim_percentage),
    PLACE("read_iolog", read_iolog_file),
    PLACE("replay_redirect", replay_redirect),
    PLACE("io_submit_mode", io_submit_mode),
    PLACE("replay_skip", replay_skip),
};

static const char* running_fio(void) {
  return &fio_version_string ? fio_version_string : "the fio that runs";
}

bool fio_layout_fits(void) {
  if (!fio_option_find) return true;
  for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
    const struct fio_option* option = fio_option_find(places[i].option);

    if (!option) {
      message("this engine was built for another fio: %s has no option %s; " WHAT_TO_DO,
              running_fio(), places[i].option);
      return false;
    }
    if (option->off1 == places[i].offset) continue;
    message(
        "this engine was built for another fio: %s has the option %s at byte %u of a job's "
        "options, the headers of the build at %zu; " WHAT_TO_DO,
        running_fio(), places[i].option, option->off1, places[i].offset);
    return false;
  }
  return true;
}

bool job_layout_fits(const struct thread_data* td, const struct ioengine_ops* engine) {
  if (td->io_ops == engine) return true;
  message("this engine was built for another fio: %s has io_ops elsewhere in a job; " WHAT_TO_DO,
          running_fio());
  return false;
}
