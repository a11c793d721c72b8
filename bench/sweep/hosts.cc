// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/hosts.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "sweep/fio_process.h"
#include "sweep/parameter.h"
#include "sweep/run_folder.h"

namespace pcache::sweep {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

namespace {

using Lines = std::vector<std::string>;

constexpr int kServerSeconds = 30;  // until one that we have started takes a job
constexpr int kPutAwaySeconds = 20;
constexpr int kLateSteps = 20, kStepUs = 50'000;  // for what a server says by another way than fio

// It does one request of nothing; its log says what the host's clock shows.
constexpr const char* kProbe =
    "[probe]\nioengine=null\nrw=write\nbs=4k\nsize=4k\nwrite_iops_log=probe\nlog_unix_epoch=1\n";

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Lines lines_of(const std::string& text) {
  Lines lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The last line that has this; empty: none has.
std::string line_with(const Lines& lines, const std::string& part) {
  const auto at = std::find_if(lines.rbegin(), lines.rend(), [&](const std::string& line) {
    return line.find(part) != line.npos;
  });
  return at == lines.rend() ? "" : *at;
}

std::string between(const std::string& line, const std::string& before, const char* behind) {
  const size_t at = line.find(before);
  if (at == line.npos) return {};
  const size_t begin = at + before.size();
  return line.substr(begin, line.find(behind, begin) - begin);
}

// What fio's client has written: lines of text, of all hosts, and JSON behind them.
struct Output {
  Lines text;
  json results = json::array();  // an entry of each host and section, and of "All clients"
};

Output output_of(const std::string& out, const std::string& err) {
  Output output;
  std::string all(1, '\n');
  if (fs::exists(out)) all += read_file(out);
  const size_t at = all.rfind("\n{\n");
  output.text = lines_of(all.substr(0, at));
  for (std::string& line : lines_of(read_file(err))) output.text.push_back(std::move(line));
  if (at == all.npos) return output;
  const json fio = json::parse(all.substr(at), nullptr, false);
  if (fio.is_object()) output.results = fio.value("client_stats", json::array());
  return output;
}

std::string error_text(int error) { return std::to_string(error) + " (" + strerror(error) + ")"; }

}  // namespace

struct Hosts::Host {
  std::string name;  // as the user gives it
  std::string host;
  int port;
  std::unique_ptr<HostServer> server;        // nullptr: it is not ours to start
  std::string node, arch, fio;               // as fio's server says
  std::optional<int64_t> least_ms, most_ms;  // by which its clock is ahead of ours
  Lines said;                                // by the server, during the last run

  // fio's entry of the section; nullptr: none.
  const json* entry(const Output& output, const std::string& section) const {
    for (const json& one : output.results)
      if (one.value("jobname", "") == section && one.value("hostname", "") == host &&
          one.value("port", 0) == port)
        return &one;
    return nullptr;
  }
};

Hosts::Hosts(const HostOptions& options) {
  std::string folder = fs::temp_directory_path() / "pcache-sweep-hosts-XXXXXX";
  if (!mkdtemp(folder.data()))
    throw Wrong(folder + ": cannot make a folder there: " + strerror(errno));
  folder_ = folder;
  try {
    for (const std::string& name : options.names) {
      hosts_.push_back(std::make_unique<Host>());
      Host& host = *hosts_.back();
      host.name = name, host.host = host_of(name), host.port = port_of(name);
      if (!options.server.empty())
        host.server = std::make_unique<HostServer>(
            server_command(options.server, name),
            folder_ + "/server-" + std::to_string(hosts_.size()) + ".log");
    }
    write_file(folder_ + "/probe.fio", kProbe);
    for (const auto& host : hosts_) wait_for(*host);
  } catch (...) {
    hosts_.clear();
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
    throw;
  }
}

Hosts::~Hosts() {
  hosts_.clear();
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

// A server that we have started needs a while before it listens.
void Hosts::wait_for(Host& host) {
  const int64_t deadline = now_ms() + kServerSeconds * 1000;
  while (!probe(host)) {
    if (is_interrupted()) throw Interrupted();
    const bool ended = host.server && host.server->has_ended();
    if (host.server && !ended && now_ms() < deadline) {
      usleep(kStepUs);
      continue;
    }
    const Output output = output_of(folder_ + "/probe.out", folder_ + "/probe.err");
    if (host.server)
      for (std::string& line : host.server->new_lines()) host.said.push_back(std::move(line));
    if (ended)
      throw Wrong(host.name + ": the command that runs its fio server has ended" +
                  (host.said.empty() ? "" : ": " + host.said.back()));
    throw Wrong(host.name + ": " + why_none(host, output.text));
  }
}

bool Hosts::probe(Host& host) {
  const std::string log = folder_ + "/probe_iops.1.log." + host.host, out = folder_ + "/probe.out";
  std::error_code ignored;
  fs::remove(log, ignored);
  fs::remove(out, ignored);
  const int64_t before_ms = now_ms();
  run_fio({.folder = folder_,
           .arguments = {"--output-format=normal,json", "--output=probe.out",
                         "--client=" + host.name, "probe.fio"},
           .err = folder_ + "/probe.err"});
  const int64_t after_ms = now_ms();
  const Output output = output_of(out, folder_ + "/probe.err");
  if (!host.entry(output, "probe")) return false;
  const std::string line = line_with(output.text, "hostname=");
  host.node = between(line, "hostname=", ",");
  host.arch = between(line, "arch=", ",");
  host.fio = between(line, "fio=", ",");
  int64_t its_ms = 0;
  if (std::ifstream(log) >> its_ms)
    host.least_ms = its_ms - after_ms, host.most_ms = its_ms - before_ms;
  return true;
}

// Of the servers, into the file of what fio has said.
void Hosts::collect(const HostRun& what) const {
  std::ofstream err(what.folder + "/" + what.err, std::ios::app);
  for (const auto& host : hosts_) {
    if (!host->server) continue;
    for (std::string& line : host->server->new_lines()) {
      err << host->name << ": " << line << "\n";
      host->said.push_back(std::move(line));
    }
  }
}

std::string Hosts::why_none(Host& host, const Lines& text) const {
  std::string by_engine = line_with(host.said, "pcache: ");
  if (!by_engine.empty()) return by_engine;
  const std::string port = host.host + ":" + std::to_string(host.port);
  if (!line_with(text, "failed to connect to " + port).empty()) {
    const std::string why = between(line_with(text, "fio: connect: "), "connect: ", "\n");
    return "no fio server answers (" + why + "); fio --server runs one";
  }
  if (std::string line = line_with(text, "<" + host.host + "> ("); !line.empty())
    return line;  // its name is not known
  if (!line_with(text, "host=" + host.host + " disconnected").empty() ||
      !line_with(text, "client " + host.host + " timed out").empty() ||
      !line_with(text, "client " + host.host + ", timeout").empty())
    return "has died, or the connection to it was lost" +
           (host.said.empty() ? "" : "; its fio server said last: " + host.said.back());
  const std::string node = host.node.empty() ? host.host : host.node;
  for (const std::string& line : text)
    if (line.starts_with("<" + node + "> ") && line.find("fio: ") != line.npos)
      return line.substr(node.size() + 3);
  if (!host.said.empty()) return host.said.back();
  return "fio's server there took no job, or it failed; why is on the stderr of that fio --server" +
         std::string(host.server ? "" : " (--server has pcache-sweep start it, and show that)");
}

Hosts::Results Hosts::run(const HostRun& what) const {
  for (const auto& host : hosts_) {
    host->said.clear();
    if (host->server) host->server->new_lines();
  }
  FioRun fio = {.folder = what.folder,
                .arguments = {"--output-format=json", "--output=" + what.out},
                .err = what.folder + "/" + what.err};
  for (const auto& host : hosts_) {
    fio.arguments.push_back("--client=" + host->name);
    fio.arguments.push_back(what.job);
  }
  std::error_code ignored;
  fs::remove(what.folder + "/" + what.out, ignored);
  const int status = run_fio(fio);
  if (is_interrupted()) throw Interrupted();
  const Output output = output_of(what.folder + "/" + what.out, fio.err);
  collect(what);
  Results results;
  std::string wrong;
  for (const auto& host : hosts_) {
    const json* entry = host->entry(output, what.section);
    const int error = entry ? entry->value("error", 0) : 0;
    const bool failed = !line_with(output.text, "client <" + host->host + ">: exited").empty();
    if (entry && !error && !failed) {
      results.emplace_back(host->name, *entry);
      continue;
    }
    for (int left = kLateSteps; host->server && host->said.empty() && left > 0; left--) {
      usleep(kStepUs);
      collect(what);
    }
    std::string why = why_none(*host, output.text);
    if (error && host->said.empty()) why = "fio reports error " + error_text(error);
    wrong += (wrong.empty() ? "" : "; ") + host->name + ": " + why;
  }
  if (!wrong.empty()) throw Wrong(wrong);
  if (status != 0)
    throw Wrong("fio ended with status " + std::to_string(status) +
                (output.text.empty() ? "" : ": " + output.text.back()));
  return results;
}

void Hosts::run_at_the_end(const std::string& job) const {
  write_file(folder_ + "/end.fio", job);
  FioRun fio = {.folder = folder_,
                .arguments = {"--output=end.out", "--output-format=json"},
                .err = folder_ + "/end.err"};
  for (const auto& host : hosts_) {
    fio.arguments.push_back("--client=" + host->name);
    fio.arguments.emplace_back("end.fio");
  }
  run_fio_at_the_end(fio, kPutAwaySeconds);
}

ordered_json Hosts::facts() const {
  ordered_json facts = ordered_json::array();
  for (const auto& host : hosts_) {
    ordered_json fact = {
        {"name", host->name}, {"node", host->node}, {"arch", host->arch}, {"fio", host->fio}};
    if (host->least_ms) fact["clock_ahead_ms"] = {*host->least_ms, *host->most_ms};
    facts.push_back(std::move(fact));
  }
  return facts;
}

}  // namespace pcache::sweep
