/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands to the kernel's ublk_drv about a device, by /dev/ublk-control. One thread at a time.
 *
 * Each returns 0 or a negative errno, which is the driver's; what it means is its caller's to say.
 */
#ifndef PCACHE_ENGINE_UBLK_CONTROL_H
#define PCACHE_ENGINE_UBLK_CONTROL_H

#include <liburing.h>
#include <stdint.h>

#include "ublk_abi.h"

struct control {
  int fd;
  struct io_uring ring;
};

/* 0; or a negative errno, and `why` has what to do about it, without a newline. */
int control_open(struct control* control, char* why, unsigned why_bytes);
void control_close(struct control* control);

/* `info` has what is asked for (dev_id -1: any), and gets what there is. */
int control_add(struct control* control, struct ublksrv_ctrl_dev_info* info);
int control_get_info(struct control* control, uint32_t id, struct ublksrv_ctrl_dev_info* info);
int control_set_params(struct control* control, uint32_t id, struct ublk_params* params);
int control_get_params(struct control* control, uint32_t id, struct ublk_params* params);
/* Waits until each queue has fetched; the disk is there when it returns. */
int control_start(struct control* control, uint32_t id);
/* The disk goes, when all that is in flight has ended; what queues have fetched is aborted. */
int control_stop(struct control* control, uint32_t id);
/* Waits `seconds` for whoever has the disk open. -ETIMEDOUT: it goes when that has ended. */
int control_delete(struct control* control, uint32_t id, unsigned seconds);
/* Of a device whose server is gone. Its queues fetch between the two. */
int control_begin_recovery(struct control* control, uint32_t id);
int control_end_recovery(struct control* control, uint32_t id);

#endif
