// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/host_name.h"

#include <regex>
#include <set>
#include <sstream>

#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

constexpr int kFioPort = 8765;
constexpr size_t kMostHosts = 64;
constexpr const char* kIp6 = "ip6:";
constexpr const char* kPlaceOfHost = "{host}";

std::string without_port(const std::string& name) { return name.substr(0, name.find(',')); }

}  // namespace

std::string host_of(const std::string& name) {
  const std::string host = without_port(name);
  return host.starts_with(kIp6) ? host.substr(std::string(kIp6).size()) : host;
}

int port_of(const std::string& name) {
  const size_t comma = name.find(',');
  return comma == name.npos ? kFioPort : std::stoi(name.substr(comma + 1));
}

std::string why_no_host(const std::string& name) {
  static const std::regex good(
      "([A-Za-z0-9][A-Za-z0-9._-]*|ip6:[0-9A-Fa-f:.]+)(,[1-9][0-9]{0,4})?");
  if (!std::regex_match(name, good) || port_of(name) > 65535)
    return "expected a host as fio's --client takes it: NAME, NAME,PORT or ip6:ADDRESS";
  return {};
}

void check(const HostOptions& hosts) {
  std::set<std::string> seen;
  for (const std::string& name : hosts.names) {
    if (const std::string why = why_no_host(name); !why.empty())
      throw Wrong(std::string("host ").append(name).append(": ").append(why));
    if (!seen.insert(host_of(name)).second)
      throw Wrong("host " + name + ": is there twice; expected one server of each host");
  }
  if (seen.size() > kMostHosts)
    throw Wrong(std::to_string(seen.size()) + " hosts: expected " + std::to_string(kMostHosts) +
                " or fewer");
  if (hosts.server.empty()) return;
  if (hosts.names.empty())
    throw Wrong("--server " + hosts.server + ": there are no hosts; --host names one");
  if (hosts.server.find(kPlaceOfHost) == hosts.server.npos)
    throw Wrong("--server " + hosts.server +
                ": expected a command with {host} in it, such as ssh -tt {host} fio --server");
}

std::vector<std::string> server_command(const std::string& server, const std::string& name) {
  std::vector<std::string> words;
  std::istringstream in(server);
  for (std::string word; in >> word;) {
    for (size_t at = 0; (at = word.find(kPlaceOfHost, at)) != word.npos;) {
      word.replace(at, std::string(kPlaceOfHost).size(), host_of(name));
      at += host_of(name).size();
    }
    words.push_back(word);
  }
  return words;
}

}  // namespace pcache::sweep
