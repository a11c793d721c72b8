// SPDX-License-Identifier: GPL-2.0-or-later
// The hosts of a sweep, as the user names them.
#pragma once

#include <string>
#include <vector>

namespace pcache::sweep {

struct HostOptions {
  // Each as fio's --client takes it: NAME, NAME,PORT or ip6:ADDRESS. None: this machine alone.
  std::vector<std::string> names;
  // A command that runs fio's server on {host} and shows here what it says; empty: they run.
  std::string server;
};

// What fio calls it in its results: without ip6: and port.
std::string host_of(const std::string& name);
int port_of(const std::string& name);

// Why fio does not take it for a host; empty: it does.
std::string why_no_host(const std::string& name);
// Throws Wrong: a name is none or there twice, or `server` has no {host}, or no hosts.
void check(const HostOptions& hosts);

// The command's words, split at blanks; no shell reads them.
std::vector<std::string> server_command(const std::string& server, const std::string& name);

}  // namespace pcache::sweep
