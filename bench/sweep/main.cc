// SPDX-License-Identifier: GPL-2.0-or-later
// pcache-sweep: measures the cases of a YAML file with fio, in an order that is fair to all, and
// keeps everything. `report`, `compare` and `gate` look at what was kept; they are Python
// (bench/analysis), run from here.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <filesystem>

#include "sweep/host.h"
#include "sweep/runner.h"

namespace pcache::sweep {
namespace {

namespace fs = std::filesystem;

constexpr int kFailed = 1, kWrongUse = 2, kInterrupted = 130;

struct RunOptions {
  std::string spec, output, resume;
  std::vector<std::string> builds;
  PlaceOptions place;
  uint32_t repeats = 0;
  double runtime_s = 0;
  bool dry_run = false, quiet = false;
};

std::string own_folder() { return fs::canonical("/proc/self/exe").parent_path(); }

// The build tree that this program is part of; installed, its prefix.
std::string own_build() { return fs::path(own_folder()).parent_path(); }

std::vector<Build> builds_of(const RunOptions& options) {
  std::vector<std::string> dirs = options.builds;
  if (dirs.empty()) dirs.push_back(own_build());
  std::vector<Build> builds;
  for (const std::string& dir : dirs) {
    const std::string label = dirs.size() > 1 ? std::string(1, char('a' + builds.size())) : "";
    const std::string plugin = dir + "/lib/libpcache_fio.so";
    if (!fs::exists(plugin))
      throw Wrong(plugin + ": is not there; --build names a build directory that was built");
    builds.push_back({label, fs::canonical(dir)});
  }
  if (builds.size() > 26) throw Wrong("more than 26 builds");
  return builds;
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
  Spec spec = parse_spec(read_file(options.spec), options.spec);
  if (options.repeats) spec.repeats = options.repeats;
  if (options.runtime_s > 0) spec.runtime_s = options.runtime_s;
  return spec;
}

void print_plan(const Spec& spec, size_t builds) {
  double seconds = 0;
  const auto plan = make_plan(spec, builds);
  for (const Measurement& what : plan) {
    seconds += Runner::expected_s(spec, spec.cases[what.case_index]);
    printf("%4zu  round %u  %s%s%s\n", what.number, what.repeat,
           spec.cases[what.case_index].id.c_str(), builds > 1 ? "  build " : "",
           builds > 1 ? std::string(1, char('a' + what.build)).c_str() : "");
  }
  printf("%zu cases, %zu measurements, about %.0f minutes\n", spec.cases.size(), plan.size(),
         seconds / 60 + 0.5);
}

// fio stands in another folder than we do.
PlaceOptions absolute(PlaceOptions options) {
  for (std::string* path :
       {&options.cache_dir, &options.backing_dir, &options.cache_dev, &options.backing})
    if (!path->empty()) *path = fs::absolute(*path);
  return options;
}

int run(const RunOptions& options) {
  Spec spec;
  std::unique_ptr<RunFolder> folder;
  if (!options.resume.empty()) {
    folder = std::make_unique<RunFolder>(RunFolder::open(fs::absolute(options.resume)));
    spec = parse_spec(folder->spec_text(), options.resume + "/run.json: spec");
    spec.repeats = std::max(options.repeats, folder->run().at("repeats").get<uint32_t>());
    folder->set_repeats(spec.repeats);
    spec.runtime_s = folder->run().at("runtime_s");
  } else {
    spec = load_spec(options);
  }
  if (options.dry_run) return print_plan(spec, std::max<size_t>(1, options.builds.size())), 0;
  const auto builds = folder ? folder->builds() : builds_of(options);
  const std::string output = options.output.empty() ? new_output(spec.name) : options.output;
  if (!folder) RunFolder::need_new(output);
  uint64_t cache_bytes = 0, backing_bytes = 0;
  std::vector<std::string> paths;
  for (const Case& one : spec.cases) {
    cache_bytes = std::max(cache_bytes, cache_bytes_of(one));
    backing_bytes = std::max(backing_bytes, working_set_bytes_of(one));
    if (const std::string path = path_of(one); !path.empty()) paths.push_back(path);
  }
  watch_signals();
  const Place place(absolute(options.place), cache_bytes, backing_bytes, paths);
  if (!folder)
    folder = std::make_unique<RunFolder>(
        RunFolder::create(fs::absolute(output), spec, builds, host_facts(place), source_facts()));
  try {
    const size_t failed = Runner(spec, place, *folder, options.quiet).run();
    printf("%s\n", folder->path().c_str());
    if (failed > 0)
      fprintf(stderr, "pcache-sweep: %zu measurements failed; --resume %s tries them again\n",
              failed, folder->path().c_str());
    return failed > 0 ? kFailed : 0;
  } catch (const Runner::Interrupted&) {
    fprintf(stderr, "\npcache-sweep: interrupted; pcache-sweep run --resume %s goes on\n",
            folder->path().c_str());
    return kInterrupted;
  }
}

void print_parameters() {
  for (const Parameter& p : parameters())
    printf("%-12s %s\n%-12s   %s; default %s%s%s\n", p.name, p.what, "", p.allowed, p.fallback,
           p.engines ? "; of " : "", p.engines ? p.engines : "");
}

// From the build tree the sources' own; installed, what was installed with this program.
std::string analysis() {
  const std::string installed = own_build() + "/share/pcache/analysis";
  return fs::exists(installed) ? installed : PCACHE_SOURCE_DIR "/bench/analysis";
}

// Debian's python3, which has Debian's scipy and matplotlib.
[[noreturn]] void run_analysis(const std::string& command, const std::vector<std::string>& rest) {
  const std::string script = analysis();
  setenv("PCACHE_SWEEP", (own_folder() + "/pcache-sweep").c_str(), 1);
  std::vector<const char*> arguments = {"python3", script.c_str(), command.c_str()};
  for (const std::string& one : rest) arguments.push_back(one.c_str());
  arguments.push_back(nullptr);
  const char* python = access("/usr/bin/python3", X_OK) == 0 ? "/usr/bin/python3" : "python3";
  execvp(python, const_cast<char* const*>(arguments.data()));
  throw Wrong(std::string(python) + ": " + strerror(errno) + "; scripts/setup installs it");
}

CLI::App* add_analysis(CLI::App& app, const char* name, const char* what) {
  CLI::App* command = app.add_subcommand(name, what);
  command->prefix_command();
  command->set_help_flag();
  command->callback([=] { run_analysis(name, command->remaining()); });
  return command;
}

}  // namespace
}  // namespace pcache::sweep

int main(int argc, char** argv) {
  using namespace pcache::sweep;
  CLI::App app("Measures with fio what a YAML file says; keeps, draws and judges the results");
  app.require_subcommand(1);
  int status = 0;
  RunOptions options;
  auto* run_command = app.add_subcommand("run", "makes the measurements of a file of configs/");
  run_command->add_option("SPEC", options.spec, "such as configs/smoke.yaml");
  run_command->add_option("--output", options.output,
                          "a new folder; default results/runs/NAME-TIME");
  run_command->add_option("--resume", options.resume, "a folder: makes what it lacks");
  run_command->add_option("--build", options.builds,
                          "build directories to measure, in turn; default this program's own");
  run_command->add_option("--repeats", options.repeats,
                          "instead of the file's; with --resume, more than before");
  run_command->add_option("--runtime", options.runtime_s, "seconds, instead of the file's");
  run_command->add_option("--cache-dir", options.place.cache_dir, "of the scratch file for pmem");
  run_command->add_option("--backing-dir", options.place.backing_dir,
                          "of the scratch backing file");
  run_command->add_option("--cache-dev", options.place.cache_dev, "a pmem device, overwritten");
  run_command->add_option("--backing", options.place.backing, "a block device, overwritten");
  run_command->add_flag("--overwrite", options.place.overwrite, "what those hold is not needed");
  run_command->add_flag("--dry-run", options.dry_run, "lists the measurements and makes none");
  run_command->add_flag("--quiet", options.quiet, "no progress");
  run_command->callback([&] {
    if (options.spec.empty() == options.resume.empty())
      throw Wrong("run needs a file such as configs/smoke.yaml, or --resume FOLDER");
    status = run(options);
  });
  app.add_subcommand("parameters", "of a case, and what they may be")->callback(print_parameters);
  add_analysis(app, "report", "draws results: pcache-sweep report FOLDER...");
  add_analysis(app, "compare", "whether two builds, or results, differ: pcache-sweep compare A B");
  add_analysis(app, "gate", "judges a build by a baseline: pcache-sweep gate --baseline FILE");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : kWrongUse;
  } catch (const Wrong& wrong) {
    fprintf(stderr, "pcache-sweep: %s\n", wrong.what());
    return kWrongUse;
  }
  return status;
}
