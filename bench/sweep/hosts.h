// SPDX-License-Identifier: GPL-2.0-or-later
// Hosts: the machines that a sweep measures besides this one. fio's servers run there, and fio here
// is their client; nothing of ours listens. Of the main thread.
//
// fio's client ends with status 0, and without results, when a server took no job; its sum "All
// clients" has the name of the last host. So a host counts with results of its own alone.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "sweep/host_name.h"
#include "sweep/host_server.h"

namespace pcache::sweep {

// fio's files of a run of a job, all in one folder, in which fio's client stands.
struct HostRun {
  std::string folder;
  std::string job, out, err;  // names; `job` is there, the others are made
  std::string section;        // of the job: whose results are asked for
};

class Hosts {
 public:
  // (host, fio's entry of the section), of each host in order.
  using Results = std::vector<std::pair<std::string, nlohmann::json>>;

  // Starts the servers if there is a command for that, and does a request on each host, to see that
  // it takes jobs. Throws Wrong, and Interrupted.
  explicit Hosts(const HostOptions& options);
  ~Hosts();
  Hosts(const Hosts&) = delete;
  Hosts& operator=(const Hosts&) = delete;

  // A job on all hosts at once. Throws Wrong: a host has no results, and why; Interrupted.
  Results run(const HostRun& what) const;
  // The same when we put things away: nobody waits long, and what fails is nobody's concern.
  void run_at_the_end(const std::string& job) const;

  // Of each host, as run.json keeps it (results/README.md).
  nlohmann::ordered_json facts() const;
  // For jobs of one's own; it is gone with this.
  const std::string& folder() const { return folder_; }

 private:
  struct Host;
  void wait_for(Host& host);
  bool probe(Host& host);
  void collect(const HostRun& what) const;
  std::string why_none(Host& host, const std::vector<std::string>& text) const;

  std::string folder_;
  std::vector<std::unique_ptr<Host>> hosts_;
};

}  // namespace pcache::sweep
