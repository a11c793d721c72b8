// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "sweep/device.h"
#include "sweep/lock.h"

namespace pcache::sweep {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

std::string now() {
  const time_t t = time(nullptr);
  tm utc{};
  gmtime_r(&t, &utc);
  char text[32];
  strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

constexpr std::pair<const char*, std::string PlaceOptions::*> kPlaceOptions[] = {
    {"cache-dir", &PlaceOptions::cache_dir},
    {"backing-dir", &PlaceOptions::backing_dir},
    {"cache-dev", &PlaceOptions::cache_dev},
    {"backing", &PlaceOptions::backing}};

// By the names of the options; without what was not used.
ordered_json place_facts(const PlaceOptions& place) {
  ordered_json facts;
  for (const auto& [option, member] : kPlaceOptions)
    if (!(place.*member).empty()) facts[option] = place.*member;
  return facts;
}

ordered_json build_facts(const Build& build) {
  ordered_json facts = {{"label", build.label}, {"dir", build.dir}};
  if (!build.hash.empty()) facts["hash"] = build.hash;  // not known of other hosts
  if (build.stamp) facts.update(facts_of(*build.stamp));
  if (!build.source_tree.empty()) facts["source_tree"] = build.source_tree;
  return facts;
}

// A line that a cut left half-written was never there.
std::string whole_lines(const std::string& lines) {
  const size_t end = lines.rfind('\n');
  return end == lines.npos ? "" : lines.substr(0, end + 1);
}

}  // namespace

void write_file(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) throw Wrong("cannot write " + path + ": " + strerror(errno));
}

// What is no regular file may never begin, or never end.
std::string read_file(const std::string& path, uint64_t most_bytes) {
  struct stat is;
  if (stat(path.c_str(), &is) != 0) throw Wrong("cannot read " + path + ": " + strerror(errno));
  if (!S_ISREG(is.st_mode)) throw Wrong(path + ": expected a file, found " + kind_of(is.st_mode));
  if (static_cast<uint64_t>(is.st_size) > most_bytes)
    throw Wrong(path + ": expected a file of " + size_of(most_bytes) + " or less, found " +
                size_of(static_cast<uint64_t>(is.st_size)));
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (in) text << in.rdbuf();
  if (!in || in.bad()) throw Wrong("cannot read " + path + ": " + strerror(errno));
  return text.str();
}

void RunFolder::need_new(const std::string& path) {
  if (fs::exists(path))
    throw Wrong(path +
                ": is there already; --resume goes on with a run, another --output begins one");
}

RunFolder RunFolder::create(const std::string& path, const Spec& spec,
                            const std::vector<Build>& builds, const PlaceOptions& place,
                            const ordered_json& host, const ordered_json& hosts) {
  need_new(path);
  RunFolder folder(path);
  ordered_json cases = ordered_json::array();
  for (const Case& one : spec.cases) cases.push_back({{"id", one.id}, {"values", one.values}});
  ordered_json of_builds = ordered_json::array();
  for (const Build& build : builds) of_builds.push_back(build_facts(build));
  folder.run_ = {{"schema", kRunSchema},
                 {"name", spec.name},
                 {"title", spec.title},
                 {"started", now()},
                 {"runtime_s", spec.runtime_s},
                 {"warmup_s", spec.warmup_s},
                 {"repeats", spec.repeats},
                 {"seed", spec.seed},
                 {"axes", spec.axes},
                 {"cases", cases},
                 {"builds", of_builds},
                 {"place", place_facts(place)},
                 {"host", host},
                 {"harness", facts_of(own_stamp())},
                 {"spec", spec.text}};
  if (!hosts.is_null()) folder.run_["hosts"] = hosts;
  if (!spec.server.empty()) folder.run_["server"] = spec.server;
  if (const ordered_json traces = facts_of_traces(spec); !traces.is_null()) {
    folder.run_["spec_folder"] = spec.folder;
    folder.run_["traces"] = traces;
  }
  const std::string text = folder.run_.dump(1) + "\n";  // may throw: before there is a folder
  std::error_code error;
  if (!fs::create_directories(path + "/raw", error))
    throw Wrong("cannot make " + path + ": " + error.message());
  try {
    folder.lock();
    write_file(path + "/run.json", text);
    write_file(path + "/results.jsonl", "");
  } catch (const Wrong&) {
    for (const char* made : {"/run.json", "/results.jsonl", "/raw", ""})
      fs::remove(path + made, error);
    throw;
  }
  return folder;
}

RunFolder RunFolder::open(const std::string& path, bool to_write) {
  RunFolder folder(path);
  if (to_write) folder.lock();
  try {
    folder.run_ = ordered_json::parse(read_file(path + "/run.json"));
    const std::string schema = folder.run_.at("schema");
    if (std::ranges::find(kRunSchemas, schema) == std::end(kRunSchemas))
      throw Wrong(path + "/run.json: schema " + schema + ", expected " + kRunSchema);
  } catch (const nlohmann::json::exception& error) {
    throw Wrong(path + "/run.json: " + error.what());
  }
  std::istringstream in(whole_lines(read_file(path + "/results.jsonl")));
  for (std::string line; std::getline(in, line);) try {
      const auto result = ordered_json::parse(line);
      if (result.at("ok")) folder.done_.insert(result.at("number").get<size_t>());
    } catch (const nlohmann::json::exception& error) {
      throw Wrong(path + "/results.jsonl: " + error.what());
    }
  return folder;
}

void RunFolder::lock() {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw Wrong("cannot read " + path_ + ": " + strerror(errno));
  lock_ = std::shared_ptr<int>(new int(fd), [](int* held) {
    close(*held);
    delete held;
  });
  if (!lock_soon([&] { return flock(fd, LOCK_EX | LOCK_NB) == 0; }))
    throw Wrong(path_ + ": another pcache-sweep is writing to it; wait for its end");
}

std::vector<Build> RunFolder::builds() const {
  std::vector<Build> builds;
  for (const auto& build : run_.at("builds"))
    builds.push_back({build.at("label"), build.at("dir"), build.value("hash", "")});
  return builds;
}

PlaceOptions RunFolder::place(const PlaceOptions& asked) const {
  if (!run_.contains("place"))
    throw Wrong(path_ +
                ": was begun by an earlier pcache-sweep, which made the rounds in another "
                "order and did not keep on which devices; begin a new run");
  PlaceOptions place = asked;
  for (const auto& [option, member] : kPlaceOptions) {
    const std::string begun = run_.at("place").value(option, ""), found = asked.*member;
    if (!found.empty() && fs::path(found).lexically_normal() != fs::path(begun).lexically_normal())
      throw Wrong("--" + std::string(option) + " " + found + ": " + path_ + " was begun with " +
                  (begun.empty() ? "none" : begun) + "; leave it out, or begin a new run");
    place.*member = begun;
  }
  return place;
}

void RunFolder::add(const ordered_json& result) {
  // What fio said may be in any encoding.
  const std::string line =
      result.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  const std::string file = path_ + "/results.jsonl";
  const int fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  const bool written =
      fd >= 0 && ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!written) throw Wrong("cannot write " + file + ": " + strerror(error));
  if (result.at("ok")) done_.insert(result.at("number").get<size_t>());
}

void RunFolder::begin_writing(uint32_t repeats) {
  const std::string lines = read_file(path_ + "/results.jsonl"), whole = whole_lines(lines);
  if (whole.size() != lines.size()) write_file(path_ + "/results.jsonl", whole);
  if (run_.at("repeats") == repeats) return;
  run_["repeats"] = repeats;
  write_file(path_ + "/run.json.new", run_.dump(1) + "\n");
  fs::rename(path_ + "/run.json.new", path_ + "/run.json");
}

std::string RunFolder::raw(size_t measurement, const std::string& suffix) const {
  char number[16];
  snprintf(number, sizeof number, "%05zu", measurement);
  return path_ + "/raw/" + number + suffix;
}

}  // namespace pcache::sweep
