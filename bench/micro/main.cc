// SPDX-License-Identifier: GPL-2.0-or-later
// pcache-microbench: the parts of the cache, one at a time. Google Benchmark's options, and ours.
#include <benchmark/benchmark.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>
#include <regex>
#include <string>

#include "micro/counts.h"
#include "micro/scratch.h"

extern "C" const char pcache_build_stamp[];  // core/stamp; of C

namespace pcache::micro {

void register_persist();
void register_index();
void register_log(const PersistOps* ops);
void register_request(const PersistOps* ops);

namespace {

constexpr char kUsage[] =
    "pcache-microbench [--pmem_dir=DIR] [--backing_dir=DIR] [--persist=METHOD] [--benchmark_...]\n"
    "pcache-microbench --count=CASE [--operations=N] [--persist=METHOD|counted]\n"
    "pcache-microbench --list_counts | --version\n"
    "\n"
    "  --pmem_dir     where the scratch file that stands for pmem goes (default /dev/shm)\n"
    "  --backing_dir  where the sparse backing file goes; with O_DIRECT (default /var/tmp)\n"
    "  --persist      of what is not about persist methods (default auto)\n"
    "  --count        does a request exactly N times and prints what it cost, for counting from\n"
    "                 outside, too; persist=counted (default) counts flushes and fences\n"
    "\n"
    "Per operation: `flushes` are cache line flushes, `fences` store fences, `instructions` those "
    "of\n"
    "user mode where the CPU's counter can be read. Options of Google Benchmark:\n"
    "--benchmark_filter=REGEX, --benchmark_min_time=SECONDS, --benchmark_repetitions=N,\n"
    "--benchmark_format=console|json|csv, --benchmark_out=FILE, --benchmark_list_tests\n";

struct Arguments {
  std::string persist, count;
  uint64_t operations = 1000;
  bool list = false;
};

// `--name=` at the start of `argument`: what follows.
std::optional<std::string> value_of(const char* argument, const char* name) {
  const size_t len = strlen(name);
  if (strncmp(argument, name, len) != 0 || argument[len] != '=') return std::nullopt;
  return argument + len + 1;
}

// Their places are kept in memory.
constexpr uint64_t kMostOperations = 100'000'000;

uint64_t operations_of(const std::string& text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end || number < 1 || number > kMostOperations)
    die("--operations=" + text + ": expected a number, 1 or more, and no more than " +
        std::to_string(kMostOperations));
  return number;
}

// Google Benchmark says of a wrong one what is wrong, runs nothing, and calls it a success.
void need_regex(const std::string& filter) {
  try {
    std::regex(filter.starts_with('-') ? filter.substr(1) : filter, std::regex::extended);
  } catch (const std::regex_error& error) {
    die("--benchmark_filter=" + filter + ": expected a regular expression: " + error.what());
  }
}

// core/stamp says what the stamp holds.
std::string stamped(const std::string& key) {
  const std::string stamp = pcache_build_stamp;
  const size_t begin = stamp.find(key);
  if (begin == stamp.npos) return {};
  return stamp.substr(begin + key.size(), stamp.find_first_of(" \n", begin) - begin - key.size());
}

// As the harness shows it: "0123456789ab-dirty", or "unknown".
std::string commit_of_build() {
  return stamped("commit=").substr(0, 12) + (stamped("dirty=") == "1" ? "-dirty" : "");
}

// Takes ours out of argv.
Arguments parse(int* argc, char** argv) {
  Arguments arguments;
  int left = 1;
  for (int i = 1; i < *argc; i++) {
    if (auto dir = value_of(argv[i], "--pmem_dir")) {
      places().pmem_dir = *dir;
    } else if (auto dir = value_of(argv[i], "--backing_dir")) {
      places().backing_dir = *dir;
    } else if (auto persist = value_of(argv[i], "--persist")) {
      arguments.persist = *persist;
    } else if (auto count = value_of(argv[i], "--count")) {
      arguments.count = *count;
    } else if (auto operations = value_of(argv[i], "--operations")) {
      arguments.operations = operations_of(*operations);
    } else if (strcmp(argv[i], "--list_counts") == 0) {
      arguments.list = true;
    } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      fputs(kUsage, stdout);
      exit(0);
    } else if (strcmp(argv[i], "--version") == 0) {
      printf("pcache-microbench %s (%s)\n", stamped("version=").c_str(), commit_of_build().c_str());
      exit(0);
    } else {
      if (auto filter = value_of(argv[i], "--benchmark_filter")) need_regex(*filter);
      argv[left++] = argv[i];
    }
  }
  *argc = left;
  return arguments;
}

void run(int argc, char** argv) {
  const Arguments arguments = parse(&argc, argv);
  if (arguments.list) return print_countable();
  if (!arguments.count.empty())
    return count(arguments.count, arguments.operations,
                 arguments.persist.empty() ? "counted" : arguments.persist);
  benchmark::Initialize(&argc, argv);
  if (argc > 1) die(std::string(argv[1]) + ": unknown argument; --help names what there is");
  const PersistOps* ops = method(arguments.persist.empty() ? "auto" : arguments.persist);
  benchmark::AddCustomContext("commit", commit_of_build());
  benchmark::AddCustomContext("persist", ops->name);
  benchmark::AddCustomContext("pmem_dir", places().pmem_dir);
  register_persist();
  register_index();
  register_log(ops);
  register_request(ops);
  if (benchmark::RunSpecifiedBenchmarks() == 0) exit(2);  // it has said that none matches
  benchmark::Shutdown();
}

}  // namespace
}  // namespace pcache::micro

int main(int argc, char** argv) { pcache::micro::run(argc, argv); }
