// SPDX-License-Identifier: GPL-2.0-or-later
// pcached: the backend of a cache, see backend/backend.h. It writes back until it is told to end.
#include <signal.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "backend/backend.h"

namespace {

using pcache::Backend;

constexpr int kDone = 0, kFailed = 3;

// Until the front has put something into the log. It rings no bell.
constexpr int64_t kShortestPauseMs = 1, kLongestPauseMs = 16;
constexpr int64_t kFirstBackoffMs = 100, kLongestBackoffMs = 10000;

volatile sig_atomic_t stopping = 0;

void stop(int) { stopping = 1; }

// A signal ends it.
void pause_for(int64_t ms) {
  const timespec time = {ms / 1000, ms % 1000 * 1000000};
  if (!stopping) nanosleep(&time, nullptr);
}

int fail(const pcache::Error& error) {
  fprintf(stderr, "pcached: %s\n", error.text.c_str());
  return kFailed;
}

// Of a disk that fails all is tried again, for as long as it takes.
int run(Backend& backend, bool once) {
  int64_t pause_ms = kShortestPauseMs, backoff_ms = 0;
  while (!stopping) {
    const auto moved = backend.step();
    if (!moved) {
      if (once) return fail(moved.error());
      if (backoff_ms == 0) fail(moved.error());
      backoff_ms = backoff_ms == 0 ? kFirstBackoffMs : std::min(2 * backoff_ms, kLongestBackoffMs);
      pause_for(backoff_ms);
      continue;
    }
    if (moved.value()) {
      if (backoff_ms > 0) fprintf(stderr, "pcached: goes on\n");
      backoff_ms = 0;
      pause_ms = kShortestPauseMs;
      continue;
    }
    if (once) return kDone;
    pause_for(pause_ms);
    pause_ms = std::min(2 * pause_ms, kLongestPauseMs);
  }
  return kDone;
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app("Writes back for a cache whose front, in another process, has role=front.",
               "pcached");
  app.set_version_flag("--version", "pcached " PCACHE_VERSION);
  app.footer("Example:\n  pcached /dev/dax0.0 --backing /dev/sdb");
  Backend::Options options;
  std::string order = "relaxed";
  bool once = false;
  app.add_option("CACHE", options.pmem.path, "cache device or file")->required();
  app.add_option("--backing", options.disk.path, "the disk, which the cache belongs to")
      ->required();
  app.add_flag("--emulate-pmem", options.pmem.emulate,
               "the cache device may be a file that is not on a DAX file system");
  app.add_option("--backing-order", order,
                 "strict: the disk alone is at any moment a state that the barriers allow")
      ->check(CLI::IsMember({"strict", "relaxed"}));
  app.add_flag("--once", once, "end when all that the log has is written back");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    fprintf(stderr, "pcached: %s; see pcached --help\n", error.what());
    return kFailed;
  }
  options.strict = order == "strict";
  options.log = pcache::Log(
      [](pcache::LogLevel, const char* line) { fprintf(stderr, "pcached: %s\n", line); });
  struct sigaction ending = {};
  ending.sa_handler = stop;
  sigaction(SIGINT, &ending, nullptr);
  sigaction(SIGTERM, &ending, nullptr);
  auto backend = Backend::open(options);
  if (!backend) return fail(backend.error());
  printf("pcached: %s has the disk %s\n", options.pmem.path.c_str(), options.disk.path.c_str());
  if (fflush(stdout) != 0) return kFailed;
  const int code = run(*backend.value(), once);
  const Backend::Counters& n = backend.value()->counters();
  printf("pcached: wrote %llu bytes of %llu ksets\n",
         static_cast<unsigned long long>(n.written_bytes),
         static_cast<unsigned long long>(n.ksets));
  return fflush(stdout) == 0 ? code : kFailed;
} catch (const std::exception& error) {
  fprintf(stderr, "pcached: %s\n", error.what());
  return kFailed;
}
