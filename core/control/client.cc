// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>

#include "base/one_line.h"
#include "control/protocol.h"

namespace pcache {

namespace {

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

// "WORD REST"
std::pair<std::string_view, std::string_view> split(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return {line, {}};
  return {line.substr(0, space), line.substr(space + 1)};
}

}  // namespace

Result<ControlClient> ControlClient::connect(const std::string& path, int timeout_ms) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return make_error(ENAMETOOLONG, "socket %s: has %zu bytes, %zu are possible", path.c_str(),
                      path.size(), sizeof address.sun_path - 1);
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(
      socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (timeout_ms == 0 ? SOCK_NONBLOCK : 0), 0));
  const timeval timeout{timeout_ms / 1000, timeout_ms % 1000 * 1000};
  if (!fd.valid() || setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0 ||
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      fcntl(fd.get(), F_SETFL, O_NONBLOCK) != 0)
    return errno == EAGAIN
               ? make_error(EAGAIN,
                            "socket %s: takes no connections: the process is stopped, or hangs",
                            path.c_str())
               : error_errno(errno, "socket %s", path.c_str());
  return ControlClient(std::move(fd), path);
}

Status ControlClient::send_all(const std::string& text) {
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t n = send(fd_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n > 0) {
      sent += static_cast<size_t>(n);
      continue;
    }
    pollfd ready{fd_.get(), POLLOUT, 0};
    if (errno == EAGAIN ? poll(&ready, 1, kAnswerMs) > 0 : errno == EINTR) continue;
    return errno == EPIPE ? closed() : error_errno(errno, "socket %s", path_.c_str());
  }
  return {};
}

Error ControlClient::closed() const {
  return make_error(ECONNRESET, "socket %s: closed by the process that has the cache",
                    path_.c_str());
}

Status ControlClient::receive(const Deadline& deadline, size_t most, std::string* answer) {
  char bytes[4096];
  for (;;) {
    const ssize_t n = recv(fd_.get(), bytes, std::min(sizeof bytes, most), 0);
    if (n > 0) {
      answer->append(bytes, static_cast<size_t>(n));
      return {};
    }
    if (n == 0) return closed();
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return error_errno(errno, "socket %s", path_.c_str());
    pollfd ready{fd_.get(), POLLIN, 0};
    const int polled = poll(&ready, 1, deadline.left_ms());
    if (polled == 0)
      return make_error(ETIMEDOUT, "socket %s: no answer in time: the process is stopped, or hangs",
                        path_.c_str());
    if (polled < 0 && errno != EINTR) return error_errno(errno, "socket %s", path_.c_str());
  }
}

Result<std::string> ControlClient::ask(const std::string& command, int timeout_ms) {
  const Deadline deadline(timeout_ms);
  if (auto sent = send_all(command + "\n"); !sent) return sent.error();
  std::string answer;
  size_t end;
  while ((end = answer.find('\n')) == std::string::npos) {
    if (answer.size() > control::kMostLine) break;
    if (auto more = receive(deadline, SIZE_MAX, &answer); !more) return more.error();
  }
  const auto [word, rest] = split(std::string_view(answer).substr(0, end));
  const auto [count, text] = split(rest);
  const std::optional<uint64_t> n = number(count);
  if (end == std::string::npos || !n || (word != control::kOk && word != control::kError))
    return make_error(EPROTO, "socket %s: what answers there is no cache", path_.c_str());
  if (word == control::kError) {
    std::string line(text);
    make_one_line(line.data());
    return make_error(*n > 0 && *n < 4096 ? static_cast<int>(*n) : EIO, "%s", line.c_str());
  }
  if (*n > control::kMostText)
    return make_error(EPROTO, "socket %s: what answers there is no cache", path_.c_str());
  answer.erase(0, end + 1);
  while (answer.size() < *n)
    if (auto more = receive(deadline, *n - answer.size(), &answer); !more) return more.error();
  if (answer.size() > *n)
    return make_error(EPROTO, "socket %s: what answers there is no cache", path_.c_str());
  return answer;
}

}  // namespace pcache
