// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/device_identity.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <string_view>

#include "blockdev/unique_fd.h"

namespace pcache {

namespace {

// FS_IOC_GETFSUUID (Linux 6.9), which older headers lack.
struct FsUuid {
  uint8_t len;
  uint8_t uuid[16];
};
static_assert(sizeof(FsUuid) == 17);
#define PCACHE_IOC_GETFSUUID _IOR(0x15, 0, FsUuid)

constexpr long kBtrfsMagic = 0x9123683E;

std::string hex(const uint8_t* bytes, size_t len) {
  std::string text;
  char digits[3];
  for (size_t i = 0; i < len; i++) {
    snprintf(digits, sizeof digits, "%02x", bytes[i]);
    text += digits;
  }
  return text;
}

// One line of sysfs as one word: trimmed, inner blanks (SCSI ids are padded) as one '_'. Empty if
// there is no such attribute, or it is empty.
std::string read_attribute(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return {};
  char raw[4096];
  const ssize_t n = read(fd.get(), raw, sizeof raw);
  std::string word;
  bool blank = false;
  for (ssize_t i = 0; i < n; i++) {
    const auto c = static_cast<unsigned char>(raw[i]);
    if (c <= ' ' || c == 0x7f) {
      blank = !word.empty();
      continue;
    }
    if (blank) word += '_';
    blank = false;
    word += static_cast<char>(c);
  }
  return word;
}

struct Attribute {
  const char* file;
  const char* key;
};

// Those that are unique in the world first, then the local ones.
constexpr Attribute kDiskAttributes[] = {
    {"/device/wwid", "wwid"},       {"/wwid", "wwid"},  {"/device/serial", "serial"},
    {"/serial", "serial"},          {"/dm/uuid", "dm"}, {"/md/uuid", "md"},
    {"/loop/backing_file", "loop"},
};

// Whether nobody has chosen it, and nobody gives it again. A serial number may be any text, and so
// may a wwid that is made of one ("t10.", "nvme."); device-mapper's other names are their users'.
bool is_unique(std::string_view key, std::string_view value) {
  const auto begins_with = [value](std::initializer_list<std::string_view> prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [value](std::string_view prefix) { return value.starts_with(prefix); });
  };
  if (key == "wwid") return begins_with({"naa.", "eui.", "uuid."});
  if (key == "dm") return begins_with({"LVM-", "CRYPT-LUKS"});
  return key == "md";
}

}  // namespace

DeviceIdentity file_identity(int fd, ino_t inode) {
  DeviceIdentity identity;
  std::string id;
  struct statfs fs = {};
  const bool have_fs = fstatfs(fd, &fs) == 0;
  FsUuid uuid = {};
  // ext* and btrfs make f_fsid from their UUID in every kernel. They use f_fsid even if the UUID
  // can be read: otherwise a kernel upgrade would change the identity.
  const bool fsid_from_uuid =
      have_fs && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == kBtrfsMagic);
  if (!fsid_from_uuid && ioctl(fd, PCACHE_IOC_GETFSUUID, &uuid) == 0 && uuid.len > 0 &&
      uuid.len <= sizeof uuid.uuid) {
    id = "fsuuid=" + hex(uuid.uuid, uuid.len);
  } else {
    uint8_t bytes[sizeof fs.f_fsid];
    memcpy(bytes, &fs.f_fsid, sizeof bytes);
    id = "fsid=" + hex(bytes, sizeof bytes);
    identity.stable = fsid_from_uuid;
  }
  identity.text = "file " + id + " ino=" + std::to_string(inode);
  return identity;
}

bool disk_makes_holes(const std::string& sysfs_dev_block, unsigned major, unsigned minor) {
  const std::string node =
      sysfs_dev_block + "/" + std::to_string(major) + ":" + std::to_string(minor);
  for (const char* queue : {"/queue", "/../queue"}) {  // a partition has its disk's
    const std::string most = read_attribute(node + queue + "/write_zeroes_max_bytes");
    if (!most.empty()) return most != "0";
  }
  return false;
}

DeviceIdentity disk_identity(const std::string& sysfs_dev_block, unsigned major, unsigned minor) {
  const std::string number = std::to_string(major) + ":" + std::to_string(minor);
  const std::string node = sysfs_dev_block + "/" + number;
  // A partition has no identity of its own; the directory above it is its disk's.
  const bool partition = !read_attribute(node + "/partition").empty();
  const std::string disk = partition ? node + "/.." : node;
  for (const Attribute& attribute : kDiskAttributes) {
    const std::string value = read_attribute(disk + attribute.file);
    if (value.empty()) continue;
    DeviceIdentity identity{std::string("disk ") + attribute.key + "=" + value};
    identity.unique = !partition && is_unique(attribute.key, value);
    const std::string loop_offset = read_attribute(disk + "/loop/offset");
    if (!loop_offset.empty() && loop_offset != "0") identity.text += " offset=" + loop_offset;
    if (partition) identity.text += " start=" + read_attribute(node + "/start");
    return identity;
  }
  return DeviceIdentity{"disk maj:min=" + number, false};
}

}  // namespace pcache
