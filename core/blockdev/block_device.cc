// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/block_device.h"

#include <sys/stat.h>

#include "blockdev/backing_file.h"
#include "blockdev/nbd_device.h"
#include "blockdev/nbd_uri.h"
#include "blockdev/thread_device.h"
#include "blockdev/uring_device.h"

namespace pcache {

Result<uint64_t> BlockDevice::measure_again() {
  return make_error(EOPNOTSUPP,
                    "backing device %s: its size is measured once, when it is opened: attach the "
                    "cache again",
                    identity().text.c_str());
}

Result<std::unique_ptr<BlockDevice>> open_block_device_with(const BlockDeviceOptions& options,
                                                            const Log& log, UringInit init) {
  auto file = open_backing_file(options, log);
  if (!file) return file.error();
  if (options.io_mode == IoMode::kThreads) return make_thread_device(file.take());

  // Probed once, here, so that all queues of a device do I/O in the same way.
  if (Status probed = probe_uring(init); !probed) {
    const Error& why = probed.error();
    if (options.io_mode == IoMode::kUring)
      return make_error(why.code, "backing device %s: %s", options.path.c_str(), why.text.c_str());
    log.print(LogLevel::kWarning, "backing device %s: using threads for I/O, which is slower: %s",
              options.path.c_str(), why.text.c_str());
    return make_thread_device(file.take());
  }
  return make_uring_device(file.take(), init);
}

Result<std::unique_ptr<BlockDevice>> open_block_device(const BlockDeviceOptions& options,
                                                       const Log& log) {
  if (is_nbd_uri(options.path)) return open_nbd_device(options, log);
  return open_block_device_with(options, log, &io_uring_queue_init_params);
}

bool is_same_device(const std::string& a, const std::string& b) {
  if (is_nbd_uri(a) || is_nbd_uri(b))
    return is_nbd_uri(a) && is_nbd_uri(b) && nbd_device_name(a) == nbd_device_name(b);
  struct stat first, second;
  if (stat(a.c_str(), &first) != 0 || stat(b.c_str(), &second) != 0) return false;
  if (S_ISBLK(first.st_mode) && S_ISBLK(second.st_mode)) return first.st_rdev == second.st_rdev;
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

}  // namespace pcache
