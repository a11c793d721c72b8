// SPDX-License-Identifier: GPL-2.0-or-later
// RunFolder: a sweep's results on disk (schema: results/README.md).
//   run.json         what was asked, of which machine and builds; written once
//   results.jsonl    a line for each measurement, in the order in which they were made
//   raw/NUMBER.*     the fio jobs, fio's own JSON and log lines, requests over time
//
// A measurement counts once its line is there, whole: a run that was cut goes on behind it.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "sweep/build.h"
#include "sweep/place.h"
#include "sweep/plan.h"

namespace pcache::sweep {

inline constexpr const char* kRunSchema = "pcache-sweep-run/2";
inline constexpr const char* kRunSchemas[] = {"pcache-sweep-run/1", kRunSchema};  // that are read

class RunFolder {
 public:
  // Throws Wrong: it is there.
  static void need_new(const std::string& path);
  // A new one. `host`: this machine; `hosts`: those that measure, null: it does itself.
  // Throws Wrong.
  static RunFolder create(const std::string& path, const Spec& spec,
                          const std::vector<Build>& builds, const PlaceOptions& place,
                          const nlohmann::ordered_json& host, const nlohmann::ordered_json& hosts);
  // One that was begun; nothing is written to it yet. Throws Wrong: it is none, or damaged.
  // `to_write`: nobody else gets it to write to, as long as this lives.
  static RunFolder open(const std::string& path, bool to_write);

  const std::string& path() const { return path_; }
  const nlohmann::ordered_json& run() const { return run_; }
  // The spec's text and the builds that it was begun with.
  std::string spec_text() const { return run_.at("spec"); }
  std::vector<Build> builds() const;
  // The place that it was begun in. Throws Wrong: `asked` names another one.
  PlaceOptions place(const PlaceOptions& asked) const;
  bool is_done(size_t measurement) const { return done_.contains(measurement); }
  void add(const nlohmann::ordered_json& result);
  // Behind open(), before add(). More rounds than before: those that are there stay what they are.
  void begin_writing(uint32_t repeats);
  // Of a file in raw/.
  std::string raw(size_t measurement, const std::string& suffix) const;

 private:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}
  void lock();

  std::string path_;
  std::shared_ptr<int> lock_;  // the folder, open and locked
  nlohmann::ordered_json run_;
  std::set<size_t> done_;
};

void write_file(const std::string& path, const std::string& text);
// Of a regular file. Throws Wrong: it is none, or longer than that.
std::string read_file(const std::string& path, uint64_t most_bytes = UINT64_MAX);

}  // namespace pcache::sweep
