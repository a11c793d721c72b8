// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/run_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>

#include "sweep/build.h"
#include "sweep/fio_process.h"
#include "sweep/host.h"
#include "sweep/host_place.h"
#include "sweep/hosts.h"
#include "sweep/runner.h"
#include "sweep/shipped.h"

namespace pcache::sweep {

namespace {

namespace fs = std::filesystem;

constexpr int kFailed = 1, kInterrupted = 130;
constexpr uint64_t kMostSpecBytes = 1 << 20;
constexpr uint32_t kLeastRounds = 9;  // that compare judges; LEAST_ROUNDS of measure/judge.py

void check(const RunOptions& options) {
  if (options.spec.empty() == options.resume.empty())
    throw Wrong(
        "run needs a preset such as smoke, a file such as configs/smoke.yaml, or --resume FOLDER");
  if (options.repeats && (*options.repeats < 1 || *options.repeats > 1000))
    throw Wrong("--repeats " + std::to_string(*options.repeats) + ": expected 1 to 1000");
  if (options.runtime_s && !(*options.runtime_s >= 0.1 && *options.runtime_s <= 86400))
    throw Wrong("--runtime " + std::to_string(*options.runtime_s) +
                ": expected 0.1 to 86400 seconds");
  if (options.resume.empty()) return;
  const auto refuse = [&](bool given, const char* option) {
    if (given)
      throw Wrong(std::string(option) + " has no effect with --resume, which goes on as " +
                  options.resume + " was begun; leave it out, or begin a new run");
  };
  refuse(!options.builds.empty(), "--build");
  refuse(options.runtime_s.has_value(), "--runtime");
  refuse(!options.output.empty(), "--output");
  refuse(!options.hosts.names.empty(), "--host");
  refuse(!options.hosts.server.empty(), "--server");
}

std::string new_output(const std::string& name) {
  const time_t t = time(nullptr);
  tm local{};
  localtime_r(&t, &local);
  char stamp[32];
  strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &local);
  return "results/runs/" + name + "-" + stamp;
}

Spec load_spec(const RunOptions& options) {
  const std::string file = spec_file(options.spec);
  const std::string text = read_file(file, kMostSpecBytes);
  Spec spec = parse_spec(text, file);
  load_traces(spec, fs::absolute(file).parent_path());
  if (options.repeats) spec.repeats = static_cast<uint32_t>(*options.repeats);
  if (options.runtime_s) spec.runtime_s = *options.runtime_s;
  if (!options.hosts.names.empty()) spec.hosts = options.hosts.names;
  if (!options.hosts.server.empty()) spec.server = options.hosts.server;
  return spec;
}

// Throws Wrong: a host cannot do what is asked, whichever it is.
void check_hosts(const Spec& spec, const std::map<std::string, uint64_t>& paths,
                 const PlaceOptions& place) {
  check(HostOptions{spec.hosts, spec.server});
  if (spec.hosts.empty()) return;
  for (const Case& one : spec.cases)
    if (one.replay)
      throw Wrong("trace: " + one.values.at("trace") +
                  ": a trace is replayed on this machine alone; leave out the hosts");
  HostPlace::check(place, paths);
}

// Asked once: what comes later was not looked at, and is not measured. What other hosts have not,
// they say.
void leave_out_what_cannot_be_measured(Spec& spec) {
  if (!spec.hosts.empty()) return;
  for (Case& one : spec.cases) one.left_out = unavailable(one.values);
  if (spec.left_out() == spec.cases.size())
    throw Wrong(spec.name +
                ": this machine cannot measure any of its cases: " + spec.cases.back().left_out);
}

void say_what_is_left_out(const Spec& spec) {
  std::map<std::string, std::vector<std::string>> cases;  // by why
  for (const Case& one : spec.cases)
    if (!one.left_out.empty()) cases[one.left_out].push_back(one.id);
  for (const auto& [reason, ids] : cases)
    fprintf(stderr, "pcache-sweep: %s%s: left out: %s\n", ids.front().c_str(),
            ids.size() > 1 ? (" and " + std::to_string(ids.size() - 1) + " more").c_str() : "",
            reason.c_str());
  std::map<std::string, uint64_t> trims;
  for (const Case& one : spec.cases)
    if (one.replay) trims[one.values.at("trace")] = one.replay->layout->trace().trims;
  for (const auto& [trace, number] : trims)
    if (number > 0)
      fprintf(stderr, "pcache-sweep: %s: left out: %llu trims, of which the cache has none\n",
              trace.c_str(), static_cast<unsigned long long>(number));
}

// Of what compare could judge.
bool has_too_few_rounds(const Spec& spec) {
  return spec.repeats < kLeastRounds && std::ranges::any_of(spec.cases, [](const Case& one) {
           const std::string& engine = one.values.at("engine");
           return one.left_out.empty() && !one.replay && (engine == "pcache" || engine == "bound");
         });
}

std::string few_rounds(const Spec& spec, const std::string& cure) {
  return std::to_string(spec.repeats) + (spec.repeats == 1 ? " round" : " rounds") +
         ": compare judges from " + std::to_string(kLeastRounds) + " on; " + cure + " --rounds " +
         std::to_string(kLeastRounds);
}

constexpr size_t kMostShown = 20;  // cases of a dry run

// The same forecast that progress begins with.
void print_sum(const Spec& spec, const std::vector<Measurement>& plan) {
  printf("%zu cases, %zu measurements, about %s\n", spec.cases.size() - spec.left_out(),
         plan.size(), clock_of(Runner::expected_s(spec, plan)).c_str());
  if (has_too_few_rounds(spec)) printf("%s\n", few_rounds(spec, "as many are made by").c_str());
}

void print_plan(const Spec& spec, size_t builds) {
  say_what_is_left_out(spec);
  const auto plan = make_plan(spec, builds);
  for (const Measurement& what : plan)
    printf("%4zu  round %u  %s%s%s\n", what.number, what.repeat,
           spec.cases[what.case_index].id.c_str(), builds > 1 ? "  build " : "",
           builds > 1 ? std::string(1, char('a' + what.build)).c_str() : "");
  print_sum(spec, plan);
}

void print_cases(const Spec& spec, size_t builds) {
  say_what_is_left_out(spec);
  size_t shown = 0;
  for (const Case& one : spec.cases)
    if (one.left_out.empty() && shown++ < kMostShown) printf("%s\n", one.id.c_str());
  if (shown > kMostShown)
    printf("and %zu more; --plan lists all measurements in their order\n", shown - kMostShown);
  print_sum(spec, make_plan(spec, builds));
}

// Of a folder: its spec, with as many rounds as are asked for.
Spec resumed_spec(const RunFolder& folder, const RunOptions& options) {
  Spec spec = parse_spec(folder.spec_text(), options.resume + "/run.json: spec");
  load_traces(spec, folder.run().value("spec_folder", ""));
  need_same_traces(spec, folder.run(), options.resume);
  spec.runtime_s = folder.run().at("runtime_s");
  spec.repeats = folder.run().at("repeats");
  spec.hosts.clear();
  for (const auto& host : folder.run().value("hosts", nlohmann::ordered_json::array()))
    spec.hosts.push_back(host.at("name"));
  spec.server = folder.run().value("server", "");
  const auto asked = static_cast<uint32_t>(options.repeats.value_or(spec.repeats));
  if (asked < spec.repeats)
    throw Wrong("--repeats " + std::to_string(asked) + ": " + options.resume + " has " +
                std::to_string(spec.repeats) + " rounds already; expected as many or more");
  spec.repeats = asked;
  return spec;
}

// What this machine's own disk is does not matter to other hosts.
nlohmann::ordered_json facts_of_host(const Place& place) {
  return host_facts(place.emulated() ? kEmulatedPmem : place.cache(),
                    place.on_hosts() ? "" : place.backing());
}

struct Needs {
  uint64_t cache_bytes = 0, backing_bytes = 0;
  std::map<std::string, uint64_t> paths;  // of engines path:/DEVICE
};

Needs needs_of(const Spec& spec) {
  Needs needs;
  for (const Case& one : spec.cases) {
    if (!one.left_out.empty()) continue;
    needs.cache_bytes = std::max(needs.cache_bytes, cache_bytes_of(one));
    needs.backing_bytes = std::max(needs.backing_bytes, device_bytes_of(one));
    if (const std::string path = path_of(one); !path.empty())
      needs.paths[path] = std::max(needs.paths[path], device_bytes_of(one));
  }
  return needs;
}

// `hosts`: nullptr: it is on this machine.
std::unique_ptr<Place> make_place(const Spec& spec, const PlaceOptions& options,
                                  const Hosts* hosts) {
  const Needs needs = needs_of(spec);
  if (hosts)
    return std::make_unique<HostPlace>(*hosts, options, needs.cache_bytes, needs.backing_bytes,
                                       needs.paths);
  return std::make_unique<LocalPlace>(options, needs.cache_bytes, needs.backing_bytes, needs.paths);
}

std::unique_ptr<Hosts> make_hosts(const Spec& spec) {
  if (spec.hosts.empty()) return nullptr;
  return std::make_unique<Hosts>(HostOptions{spec.hosts, spec.server});
}

// What a run would do, and whether it could begin. Of other hosts nothing is asked.
int dry_run(const Spec& spec, size_t builds, const PlaceOptions& place) {
  print_cases(spec, builds);
  fflush(stdout);
  const Needs needs = needs_of(spec);
  if (spec.hosts.empty())
    LocalPlace::check(place, needs.cache_bytes, needs.backing_bytes, needs.paths);
  const auto where = [](const std::string& device, const std::string& folder, uint64_t bytes) {
    return device.empty() ? "a file of " + size_of(bytes) + " in " + folder : device;
  };
  printf("pmem: %s; backing device: %s\n",
         where(place.cache_dev, place.cache_dir, needs.cache_bytes).c_str(),
         where(place.backing, place.backing_dir, needs.backing_bytes).c_str());
  if (!spec.hosts.empty())
    printf("on each of %zu hosts, which are not asked whether they have room\n", spec.hosts.size());
  return 0;
}

PlaceOptions absolute(PlaceOptions options) {
  for (std::string* path :
       {&options.cache_dir, &options.backing_dir, &options.cache_dev, &options.backing})
    if (!path->empty()) *path = fs::absolute(*path);
  return options;
}

void warn(const std::string& text) {
  const bool tty = isatty(STDERR_FILENO);
  fprintf(stderr, "pcache-sweep: %s%s%s\n", tty ? "\033[31m" : "", text.c_str(),
          tty ? "\033[0m" : "");
}

// As measure/doubts.py says it of the whole folder.
void say_doubts(const Doubts& doubts) {
  const auto of = [](size_t some, size_t all) {
    return std::to_string(some) + " of " + std::to_string(all) + " measurements ";
  };
  if (doubts.waited > 0)
    warn(of(doubts.waited, doubts.writing) +
         "that write waited for writeback: this compares the disk; a `volume` ends a measurement "
         "before that");
  char load[32];
  snprintf(load, sizeof load, "%.1f", doubts.most_load);
  if (doubts.overloaded > 0)
    warn(of(doubts.overloaded, doubts.measured) + "began with a load above the " +
         std::to_string(sysconf(_SC_NPROCESSORS_ONLN)) + " CPUs, up to " + load);
}

int measure(const Spec& spec, const Place& place, const Hosts* hosts, RunFolder& folder,
            const RunOptions& options) {
  const auto hint = [&](const std::string& before, const char* behind) {
    return options.temporary ? "" : before + folder.path() + behind;
  };
  try {
    Runner runner(spec, place, hosts, folder, options.quiet);
    const size_t failed = runner.run();
    if (const size_t n = spec.left_out(); n > 0)  // once more, since that may be hours ago
      fprintf(stderr, "pcache-sweep: %zu of %zu cases were left out, as was said at the start\n", n,
              spec.cases.size());
    if (!options.temporary) {  // else who reads the folder says it
      say_doubts(runner.doubts());
      if (has_too_few_rounds(spec))
        fprintf(stderr, "pcache-sweep: %s\n",
                few_rounds(spec, "pcache-sweep run --resume " + folder.path()).c_str());
    }
    printf("%s\n", folder.path().c_str());
    if (failed > 0)
      fprintf(stderr, "pcache-sweep: %zu measurements failed%s\n", failed,
              hint("; --resume ", " tries them again").c_str());
    return failed > 0 ? kFailed : 0;
  } catch (const Interrupted&) {
    fprintf(stderr, "\npcache-sweep: interrupted%s\n",
            hint("; pcache-sweep run --resume ", " goes on").c_str());
    return kInterrupted;
  }
}

PlaceOptions with_defaults(PlaceOptions options) {
  if (!options.cache_dev.empty())
    options.cache_dir = "";
  else if (options.cache_dir.empty())
    options.cache_dir = "/dev/shm";
  if (!options.backing.empty())
    options.backing_dir = "";
  else if (options.backing_dir.empty())
    options.backing_dir = "/var/tmp";
  return options;
}

// Since fio stands in another folder than we do; paths on other hosts are what they are.
PlaceOptions place_of(const Spec& spec, const RunOptions& options) {
  return spec.hosts.empty() ? absolute(options.place) : options.place;
}

int run_new(const RunOptions& options) {
  Spec spec = load_spec(options);
  leave_out_what_cannot_be_measured(spec);
  const PlaceOptions where = with_defaults(place_of(spec, options));
  check_hosts(spec, needs_of(spec).paths, where);
  if (options.plan) return print_plan(spec, std::max<size_t>(1, options.builds.size())), 0;
  const auto builds =
      spec.hosts.empty() ? find_builds(options.builds) : builds_on_hosts(options.builds);
  const std::string output = options.output.empty() ? new_output(spec.name) : options.output;
  RunFolder::need_new(output);
  if (options.dry_run) return dry_run(spec, builds.size(), where);
  watch_signals();
  const auto hosts = make_hosts(spec);
  const auto place = make_place(spec, where, hosts.get());
  RunFolder folder = RunFolder::create(fs::absolute(output), spec, builds, where,
                                       facts_of_host(*place), hosts ? hosts->facts() : nullptr);
  say_other_source_trees(builds);
  say_what_is_left_out(spec);
  return measure(spec, *place, hosts.get(), folder, options);
}

int resume(const RunOptions& options) {
  RunFolder folder =
      RunFolder::open(fs::absolute(options.resume), !options.dry_run && !options.plan);
  Spec spec = resumed_spec(folder, options);
  leave_out_what_cannot_be_measured(spec);
  if (options.plan) return print_plan(spec, folder.builds().size()), 0;
  const PlaceOptions where = folder.place(place_of(spec, options));
  check_hosts(spec, needs_of(spec).paths, where);
  need_same_builds(folder.builds(), folder.path());
  if (options.dry_run) return dry_run(spec, folder.builds().size(), where);
  watch_signals();
  const auto hosts = make_hosts(spec);
  const auto place = make_place(spec, where, hosts.get());
  folder.begin_writing(spec.repeats);
  say_what_is_left_out(spec);
  return measure(spec, *place, hosts.get(), folder, options);
}

}  // namespace

int run(const RunOptions& options) {
  check(options);
  try {
    return options.resume.empty() ? run_new(options) : resume(options);
  } catch (const Interrupted&) {  // before there was anything to go on with
    fprintf(stderr, "pcache-sweep: interrupted\n");
    return kInterrupted;
  }
}

}  // namespace pcache::sweep
