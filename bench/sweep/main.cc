// SPDX-License-Identifier: GPL-2.0-or-later
// pcache-sweep: measures the cases of a YAML file with fio, in an order that is fair to all, and
// keeps everything (run_command.h). `report`, `table`, `compare` and `gate` look at what was kept;
// they are Python (bench/measure), run from here.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "sweep/facts_command.h"
#include "sweep/parameter.h"
#include "sweep/run_command.h"
#include "sweep/run_folder.h"
#include "sweep/shipped.h"
#include "sweep/stamp.h"
#include "sweep/turns_command.h"

namespace pcache::sweep {
namespace {

constexpr int kWrongUse = 2;

void print_parameters() {
  for (const Parameter& p : parameters())
    printf("%-14s %s\n%-14s   %s; default %s%s%s%s\n", p.name, p.what, "", p.allowed, p.fallback,
           p.engines ? "; of " : "", p.engines ? p.engines : "",
           p.of == Parameter::kTrace && strcmp(p.name, "trace") != 0 ? "; with a trace"
           : p.of == Parameter::kPattern                             ? "; without a trace"
                                                                     : "");
}

void print_presets() {
  for (const std::string& file : preset_files())
    printf("%-14s %s\n", std::filesystem::path(file).stem().c_str(),
           parse_spec(read_file(file), file).title.c_str());
}

// Debian's python3, which has Debian's scipy and matplotlib.
[[noreturn]] void run_measure(const std::string& command, const std::vector<std::string>& rest) {
  const std::string script = measure_folder();
  setenv("PCACHE_SWEEP", (own_folder() + "/pcache-sweep").c_str(), 1);
  const char* python = access("/usr/bin/python3", X_OK) == 0 ? "/usr/bin/python3" : "python3";
  // The whole path as its name: by that Python finds its libraries. -B: run by root, it leaves
  // nothing beside what was installed, which no package would remove.
  std::vector<const char*> arguments = {python, "-B", script.c_str(), command.c_str()};
  for (const std::string& one : rest) arguments.push_back(one.c_str());
  arguments.push_back(nullptr);
  execvp(python, const_cast<char* const*>(arguments.data()));
  throw Wrong(std::string(python) + ": " + strerror(errno) + "; scripts/setup installs it");
}

CLI::App* add_measure(CLI::App& app, const char* name, const char* what) {
  CLI::App* command = app.add_subcommand(name, what);
  command->prefix_command();
  command->set_help_flag();
  command->callback([=] { run_measure(name, command->remaining()); });
  return command;
}

void add_run(CLI::App& app, RunOptions& options, int& status) {
  auto* run_command =
      app.add_subcommand("run", "makes the measurements of a preset, or of a file like it");
  run_command->add_option("SPEC", options.spec,
                          "a preset, such as smoke, or a file such as configs/smoke.yaml");
  run_command->add_option("--output", options.output,
                          "a new folder; default results/runs/NAME-TIME");
  run_command->add_option("--resume", options.resume, "a folder: makes what it lacks");
  run_command->add_option("--build", options.builds,
                          "build directories to measure, in turn; default this program's own");
  run_command->add_option(
      "--host", options.hosts.names,
      "a machine to measure in place of this one, by the fio server there: NAME "
      "or NAME,PORT; instead of the file's; may be given again");
  run_command->add_option("--server", options.hosts.server,
                          "a command that runs that server on {host}, such as `ssh -tt {host} fio "
                          "--server`; default: it runs");
  run_command->add_option("--repeats,--rounds", options.repeats,
                          "instead of the file's; with --resume, more than before");
  run_command->add_option("--runtime", options.runtime_s, "seconds, instead of the file's");
  run_command->add_option("--cache-dir", options.place.cache_dir,
                          "of the scratch file for pmem; default /dev/shm");
  run_command->add_option("--backing-dir", options.place.backing_dir,
                          "of the scratch backing file; default /var/tmp");
  run_command->add_option("--cache-dev", options.place.cache_dev,
                          "a pmem device or file, overwritten");
  run_command->add_option("--backing", options.place.backing,
                          "a block device or file, overwritten");
  run_command->add_flag("--overwrite", options.place.overwrite, "what those hold is not needed");
  run_command->add_flag("--dry-run", options.dry_run,
                        "names the cases, how long they take, and what is wrong; measures nothing");
  run_command->add_flag("--plan", options.plan,
                        "lists the measurements in their order, and makes none");
  run_command->add_flag("--quiet", options.quiet, "no progress");
  // Of compare and gate; not in the help.
  run_command->add_flag("--temporary", options.temporary)->group("");
  run_command->callback([&] { status = run(options); });
}

void add_facts(CLI::App& app, FactsOptions& options) {
  auto* facts = app.add_subcommand("facts", "of this machine and of a build, as JSON");
  facts->add_option("--build", options.build, "a build directory; default this program's own");
  facts->add_option("--backing", options.backing, "a path on the disk; default /var/tmp");
  facts->callback([&] { print_facts(options); });
}

void add_turns(CLI::App& app, TurnsOptions& options, int& status) {
  auto* command = app.add_subcommand(
      "turns",
      "4 KiB hits of two builds, in one process and in turns, as JSON; see compare --hits");
  command->add_option("BUILD", options.builds, "two build directories")->expected(2);
  command->add_option("--rounds", options.rounds, "default 12");
  command->add_option("--seed", options.seed, "of where the requests go; default 0");
  command->add_option("--cache-dir", options.cache_dir,
                      "of the scratch files for pmem; default /dev/shm");
  command->add_option("--backing-dir", options.backing_dir,
                      "of the scratch backing files; default /var/tmp");
  command->callback([&] { status = turns(options); });
}

int failed(std::string what) {
  std::ranges::replace(what, '\n', ' ');
  fprintf(stderr, "pcache-sweep: %s\n", what.c_str());
  return kWrongUse;
}

}  // namespace
}  // namespace pcache::sweep

int main(int argc, char** argv) try {
  using namespace pcache::sweep;
  CLI::App app("Measures with fio what a YAML file says; keeps, draws and judges the results");
  app.set_version_flag("--version",
                       "pcache-sweep " + own_stamp().version + " (" + own_stamp().text() + ")");
  app.require_subcommand(1);
  int status = 0;
  RunOptions options;
  FactsOptions facts_options;
  TurnsOptions turns_options;
  add_run(app, options, status);
  add_facts(app, facts_options);
  add_turns(app, turns_options, status);
  app.add_subcommand("parameters", "of a case, and what they may be")->callback(print_parameters);
  app.add_subcommand("presets", "that `run` knows by name")->callback(print_presets);
  add_measure(app, "report", "draws results: pcache-sweep report FOLDER...");
  add_measure(app, "table",
              "B against A, two values of a parameter: table FOLDER --of PARAMETER A B");
  add_measure(app, "compare", "whether two builds, or results, differ: pcache-sweep compare A B");
  add_measure(app, "gate", "judges a build by a baseline: pcache-sweep gate --baseline FILE");
  add_measure(app, "history", "results of many commits: pcache-sweep history FILE [--add FOLDER]");
  add_measure(app, "export", "results as the JSON that github-action-benchmark or Bencher takes");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return failed(std::string(error.what()) + "; --help says what there is");
  }
  return status;
} catch (const std::exception& error) {  // a Wrong, or what nobody has thought of
  return pcache::sweep::failed(error.what());
}
