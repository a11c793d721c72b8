// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/nbd_uri.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <string_view>
#include <vector>

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

// The query's items. libnbd takes `;` for a separator, too, which check_nbd_uri() refuses.
std::vector<std::string_view> items_in(std::string_view query) {
  std::vector<std::string_view> items;
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    items.push_back(query.substr(0, end));
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return items;
}

constexpr std::string_view kSocket = "socket=";

// As libnbd decodes it.
std::string decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    unsigned value = 0;
    const bool coded = text[i] == '%' && i + 2 < text.size() &&
                       std::from_chars(&text[i + 1], &text[i] + 3, value, 16).ptr == &text[i] + 3;
    out += coded ? static_cast<char>(value) : text[i];
    if (coded) i += 2;
  }
  return out;
}

std::string socket_in(std::string_view query) {
  for (const std::string_view item : items_in(query))
    if (item.starts_with(kSocket)) return decoded(item.substr(kSocket.size()));
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
  const std::string_view scheme = std::string_view(path).substr(0, colon);
  return std::find(std::begin(kSchemes), std::end(kSchemes), scheme) != std::end(kSchemes);
}

Status check_nbd_uri(const std::string& uri) {
  const auto refuse = [&uri](const char* why) {
    return make_error(EINVAL, "backing device %s: %s", uri.c_str(), why);
  };
  const size_t mark = uri.find('?');
  const std::string_view query =
      mark == std::string::npos ? std::string_view() : std::string_view(uri).substr(mark + 1);
  if (uri.find_first_of("#;") != std::string::npos)
    return refuse("an address with # or ; in it: write them as %23 and %3b");
  const auto items = items_in(query);
  for (const std::string_view item : items)
    if (item.substr(0, item.find('=')).find('%') != std::string_view::npos)
      return refuse("an option whose name is coded with %: write it plainly");
  const auto sockets = std::count_if(
      items.begin(), items.end(), [](std::string_view item) { return item.starts_with(kSocket); });
  const bool is_unix = uri.find("+unix://") != std::string::npos;
  if (sockets != (is_unix ? 1 : 0))
    return refuse(is_unix ? "expected one socket=PATH, as in nbd+unix:///EXPORT?socket=PATH"
                          : "socket= is for nbd+unix:// alone");
  // Another folder would make it another device: of the same name.
  if (is_unix && !socket_in(query).starts_with('/'))
    return refuse("the path of its socket is not absolute: write it from / on");
  return {};
}

std::string nbd_device_name(const std::string& uri) {
  std::string_view rest = uri;
  const size_t colon = rest.find("://");
  std::string scheme(rest.substr(0, colon));
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
