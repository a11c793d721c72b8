/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATH "/dev/ublk-control"

int control_open(struct control* control, char* why, unsigned why_bytes) {
  int status;

  control->fd = open(PATH, O_RDWR | O_CLOEXEC);
  if (control->fd < 0) {
    status = -errno;
    if (status == -ENOENT || status == -ENXIO || status == -ENODEV)
      snprintf(why, why_bytes,
               PATH
               ": the kernel has no ublk_drv: modprobe ublk_drv (Linux 6.4 or newer, with "
               "CONFIG_BLK_DEV_UBLK)");
    else if (status == -EACCES || status == -EPERM)
      snprintf(why, why_bytes, PATH ": %s: ublk takes root (CAP_SYS_ADMIN)", strerror(-status));
    else
      snprintf(why, why_bytes, PATH ": %s", strerror(-status));
    return status;
  }
  status = io_uring_queue_init(4, &control->ring, IORING_SETUP_SQE128);
  if (status) {
    snprintf(why, why_bytes, "io_uring: %s: ublk cannot do without it%s", strerror(-status),
             status == -EPERM ? " (sysctl kernel.io_uring_disabled=0)" : "");
    close(control->fd);
  }
  return status;
}

void control_close(struct control* control) {
  io_uring_queue_exit(&control->ring);
  close(control->fd);
}

static int submit(struct control* control, uint32_t op, const struct ublksrv_ctrl_cmd* command) {
  struct io_uring_sqe* sqe = io_uring_get_sqe(&control->ring);
  int status;

  if (!sqe) return -EBUSY; /* four that have not been answered */
  memset(sqe, 0, 2 * sizeof(*sqe));
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = control->fd;
  sqe->cmd_op = op;
  memcpy(sqe->cmd, command, sizeof(*command));
  status = io_uring_submit(&control->ring);
  return status < 0 ? status : 0;
}

/* NULL: as long as it takes. */
static int answer(struct control* control, struct __kernel_timespec* timeout) {
  struct io_uring_cqe* cqe;
  int status;

  do {
    status = timeout ? io_uring_wait_cqe_timeout(&control->ring, &cqe, timeout)
                     : io_uring_wait_cqe(&control->ring, &cqe);
  } while (status == -EINTR);
  if (status) return status == -ETIME ? -ETIMEDOUT : status;
  status = cqe->res;
  io_uring_cqe_seen(&control->ring, cqe);
  return status;
}

static int run(struct control* control, uint32_t op, const struct ublksrv_ctrl_cmd* command) {
  int status = submit(control, op, command);

  return status ? status : answer(control, NULL);
}

static struct ublksrv_ctrl_cmd about(uint32_t id) {
  return (struct ublksrv_ctrl_cmd){.dev_id = id, .queue_id = (uint16_t)-1};
}

static int run_plain(struct control* control, uint32_t op, uint32_t id, uint64_t data) {
  struct ublksrv_ctrl_cmd command = about(id);

  command.data[0] = data;
  return run(control, op, &command);
}

static int run_with(struct control* control, uint32_t op, uint32_t id, void* buf, uint16_t len) {
  struct ublksrv_ctrl_cmd command = about(id);

  command.addr = (uintptr_t)buf;
  command.len = len;
  return run(control, op, &command);
}

int control_add(struct control* control, struct ublksrv_ctrl_dev_info* info) {
  return run_with(control, UBLK_U_CMD_ADD_DEV, info->dev_id, info, sizeof(*info));
}

int control_get_info(struct control* control, uint32_t id, struct ublksrv_ctrl_dev_info* info) {
  return run_with(control, UBLK_U_CMD_GET_DEV_INFO, id, info, sizeof(*info));
}

int control_set_params(struct control* control, uint32_t id, struct ublk_params* params) {
  params->len = sizeof(*params);
  return run_with(control, UBLK_U_CMD_SET_PARAMS, id, params, sizeof(*params));
}

int control_get_params(struct control* control, uint32_t id, struct ublk_params* params) {
  params->len = sizeof(*params);
  return run_with(control, UBLK_U_CMD_GET_PARAMS, id, params, sizeof(*params));
}

int control_start(struct control* control, uint32_t id) {
  return run_plain(control, UBLK_U_CMD_START_DEV, id, (uint64_t)getpid());
}

int control_stop(struct control* control, uint32_t id) {
  return run_plain(control, UBLK_U_CMD_STOP_DEV, id, 0);
}

int control_delete(struct control* control, uint32_t id, unsigned seconds) {
  struct __kernel_timespec timeout = {.tv_sec = seconds};
  struct ublksrv_ctrl_cmd command = about(id);
  int status = submit(control, UBLK_U_CMD_DEL_DEV, &command);

  return status ? status : answer(control, &timeout);
}

int control_begin_recovery(struct control* control, uint32_t id) {
  return run_plain(control, UBLK_U_CMD_START_USER_RECOVERY, id, 0);
}

int control_end_recovery(struct control* control, uint32_t id) {
  return run_plain(control, UBLK_U_CMD_END_USER_RECOVERY, id, (uint64_t)getpid());
}
