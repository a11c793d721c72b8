// SPDX-License-Identifier: GPL-2.0-or-later
// Runner: makes the measurements of a plan that are not there yet, one after the other.
#pragma once

#include "sweep/fio_job.h"
#include "sweep/hosts.h"
#include "sweep/run_folder.h"

namespace pcache::sweep {

// What makes a reader doubt the measurements that were made; numbers of them.
struct Doubts {
  size_t measured = 0;
  size_t writing = 0, waited = 0;  // to the cache, by a pattern; of them, some write had to wait
  size_t overloaded = 0;           // begun with a load above the CPUs
  double most_load = 0;

  void add(const nlohmann::ordered_json& result);
};

class Runner {
 public:
  // `hosts`: which measure; nullptr: this machine.
  Runner(const Spec& spec, const Place& place, const Hosts* hosts, RunFolder& folder, bool quiet);

  // How many failed; each has said why on stderr, and its line says it, too. Throws Interrupted.
  size_t run();
  const Doubts& doubts() const { return doubts_; }

  // Seconds that a measurement takes, as long as none was made.
  static double expected_s(const Spec& spec, const Case& one);
  static double expected_s(const Spec& spec, const std::vector<Measurement>& plan);

 private:
  nlohmann::ordered_json measure(const Measurement& what);
  // A run of fio, whose files are `stem` with .fio, .json and .err: (host, fio's JSON of it) of
  // each host, or of this machine, which has no name. Throws Wrong, and Interrupted.
  using Outputs = std::vector<std::pair<std::string, nlohmann::json>>;
  Outputs run(const std::string& text, const std::string& stem, const std::string& section) const;
  nlohmann::json run_here(const std::string& job, const std::string& out,
                          const std::string& err) const;
  nlohmann::json status_of(const Measurement& what) const;
  void show(size_t done, size_t all, const std::string& what);

  const Spec& spec_;
  const Place& place_;
  const Hosts* const hosts_;
  RunFolder& folder_;
  const std::vector<Build> builds_;
  const bool quiet_, tty_;
  double spent_s_ = 0, expected_s_ = 0, left_s_ = 0;  // of what is done; of what is left
  size_t shown_percent_ = 0;
  Doubts doubts_;
};

// "1:05" or "2:00:00", rounded up.
std::string clock_of(double seconds);

}  // namespace pcache::sweep
