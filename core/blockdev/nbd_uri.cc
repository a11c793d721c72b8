// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/nbd_uri.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

namespace pcache {

namespace {

constexpr std::string_view kSchemes[] = {"nbd",       "nbds",      "nbd+unix",
                                         "nbds+unix", "nbd+vsock", "nbds+vsock"};
constexpr std::string_view kPort = ":10809";  // of NBD, where an address has none

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// The value of socket= in the query.
std::string_view socket_in(std::string_view query) {
  constexpr std::string_view kName = "socket=";
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view item = query.substr(0, end);
    if (item.starts_with(kName)) return item.substr(kName.size());
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return {};
}

bool has_port(std::string_view host) {
  const size_t colon = host.rfind(':');
  return colon != std::string_view::npos && host.find(']', colon) == std::string_view::npos;
}

}  // namespace

bool is_nbd_uri(const std::string& path) {
  const size_t colon = path.find("://");
  if (colon == std::string::npos) return false;
  const std::string scheme = lower(std::string_view(path).substr(0, colon));
  return std::find(std::begin(kSchemes), std::end(kSchemes), scheme) != std::end(kSchemes);
}

std::string nbd_device_name(const std::string& uri) {
  std::string_view rest = uri;
  const size_t colon = rest.find("://");
  std::string scheme = lower(rest.substr(0, colon));
  if (scheme.starts_with("nbds")) scheme.erase(3, 1);
  rest.remove_prefix(colon + 3);
  std::string_view query;
  if (const size_t mark = rest.find('?'); mark != std::string_view::npos) {
    query = rest.substr(mark + 1);
    rest = rest.substr(0, mark);
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view host = rest.substr(0, slash);
  const std::string_view name = rest.substr(std::min(slash + 1, rest.size()));
  if (const size_t at = host.rfind('@'); at != std::string_view::npos) host.remove_prefix(at + 1);

  std::string out = scheme;
  out += "://";
  out += lower(host);
  if (scheme != "nbd+unix" && !has_port(host)) out += kPort;
  out += '/';
  out += name;
  if (scheme == "nbd+unix") {
    out += "?socket=";
    out += socket_in(query);
  }
  return out;
}

}  // namespace pcache
