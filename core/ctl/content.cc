// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/content.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <memory>

#include "blockdev/unique_fd.h"

namespace pcache::ctl {

Result<std::string> foreign_content(const std::string& path, uint64_t bytes) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return error_errno(errno, "cache device %s", path.c_str());
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return error_errno(errno, "cache device %s", path.c_str());
  const bool readable = S_ISBLK(st.st_mode) || (S_ISREG(st.st_mode) && st.st_size > 0);
  if (!readable) return std::string();  // devdax cannot be read
  std::unique_ptr<std::remove_pointer_t<blkid_probe>, decltype(&blkid_free_probe)> probe(
      blkid_new_probe(), &blkid_free_probe);
  if (!probe ||
      blkid_probe_set_device(probe.get(), fd.get(), 0, static_cast<blkid_loff_t>(bytes)) != 0)
    return make_error(EIO, "cache device %s: what it holds cannot be examined", path.c_str());
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_enable_partitions(probe.get(), 1);
  const int found = blkid_do_safeprobe(probe.get());
  if (found == -2) return std::string("several file systems at once");
  if (found == -1) return std::string("something that libblkid cannot examine");
  if (found != 0) return std::string();
  const char* type = nullptr;
  if (blkid_probe_lookup_value(probe.get(), "TYPE", &type, nullptr) == 0)
    return "content of type " + std::string(type);
  if (blkid_probe_lookup_value(probe.get(), "PTTYPE", &type, nullptr) == 0)
    return "a partition table of type " + std::string(type);
  return std::string("content of an unknown type");
}

}  // namespace pcache::ctl
