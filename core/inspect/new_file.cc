// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace pcache {

namespace {

Status sync_folder(const std::string& folder) {
  UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0)
    return error_errno(errno, "%s: cannot be made durable", folder.c_str());
  return {};
}

std::string folder_of(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

}  // namespace

Result<NewFile> NewFile::create(const std::string& path) {
  struct stat st;
  if (lstat(path.c_str(), &st) == 0)
    return make_error(EEXIST, "%s: is there already; name another file, or remove it first",
                      path.c_str());
  UniqueFd fd(open(folder_of(path).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
  if (fd.valid()) return NewFile(path, std::move(fd), false);
  if (errno != EOPNOTSUPP && errno != EISDIR)
    return error_errno(errno, "%s: cannot be created", path.c_str());
  const std::string partial = path + ".partial";
  fd = UniqueFd(open(partial.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600));
  if (!fd.valid()) return error_errno(errno, "%s: cannot be created", partial.c_str());
  return NewFile(path, std::move(fd), true);
}

NewFile::~NewFile() {
  if (fd_.valid() && named_) unlink(partial().c_str());
}

Status NewFile::resize(uint64_t bytes) {
  if (ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0)
    return error_errno(errno, "%s: cannot have %llu bytes", path_.c_str(),
                       static_cast<unsigned long long>(bytes));
  return {};
}

Status NewFile::write(uint64_t off, const void* data, size_t len_bytes) {
  PCACHE_CHECK(fd_.valid());
  auto* p = static_cast<const char*>(data);
  while (len_bytes > 0) {
    const ssize_t n = pwrite(fd_.get(), p, len_bytes, static_cast<off_t>(off));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return error_errno(n < 0 ? errno : EIO, "%s: cannot be written", path_.c_str());
    p += n;
    off += static_cast<uint64_t>(n);
    len_bytes -= static_cast<size_t>(n);
  }
  return {};
}

Status NewFile::publish() {
  PCACHE_CHECK(fd_.valid());
  if (fsync(fd_.get()) != 0) return error_errno(errno, "%s: cannot be made durable", path_.c_str());
  // Neither call replaces an existing file.
  const std::string open_file = "/proc/self/fd/" + std::to_string(fd_.get());
  const int done =
      named_ ? renameat2(AT_FDCWD, partial().c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE)
             : linkat(AT_FDCWD, open_file.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW);
  if (done != 0) return error_errno(errno, "%s: cannot be given its name", path_.c_str());
  return sync_folder(folder_of(path_));
}

}  // namespace pcache
