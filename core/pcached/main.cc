// SPDX-License-Identifier: GPL-2.0-or-later
// pcached: the backend of a cache, see backend/backend.h. It writes back until it is told to end.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "backend/backend.h"

namespace {

using pcache::Backend;
using Step = Backend::Step;
using std::chrono::milliseconds;

constexpr int kDone = 0, kFailed = 3;

// Until the front has put something into the log. It rings no bell.
constexpr milliseconds kShortestPause{1}, kLongestPause{16};
constexpr milliseconds kFirstBackoff{100}, kLongestBackoff{10000};

// Whether SIGINT or SIGTERM has come. They are blocked, and a thread waits for them, which ends
// with the process. Not the one that is ignored, as a shell has SIGINT of a job in the background:
// a signal that is blocked comes all the same.
class Ending {
 public:
  // Before any other thread begins, which would take them.
  Ending() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int number : {SIGINT, SIGTERM})
      if (!is_ignored(number)) sigaddset(&signals, number);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::thread([this, signals] {
      int number = 0;
      sigwait(&signals, &number);
      const std::lock_guard lock(mu_);
      begun_ = true;
      if (backend_) backend_->give_up();
      changed_.notify_all();
    }).detach();
  }
  // The one that gives up what it does then; nullptr: it is gone.
  void watch(Backend* backend) {
    const std::lock_guard lock(mu_);
    backend_ = backend;
  }
  bool begun() {
    const std::lock_guard lock(mu_);
    return begun_;
  }
  void pause_for(milliseconds time) {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, time, [this] { return begun_; });
  }

 private:
  static bool is_ignored(int number) {
    struct sigaction action = {};
    return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
  }

  std::mutex mu_;
  std::condition_variable changed_;
  Backend* backend_ = nullptr;
  bool begun_ = false;
};

int fail(const pcache::Error& error) {
  fprintf(stderr, "pcached: %s\n", error.text.c_str());
  return kFailed;
}

// Of a disk that fails all is tried again, for as long as it takes.
int run(Backend& backend, Ending& ending, bool once) {
  milliseconds pause = kShortestPause, backoff{0};
  while (!ending.begun()) {
    const auto stepped = backend.step();
    if (!stepped) {
      if (ending.begun()) break;
      if (once) return fail(stepped.error());
      if (backoff.count() == 0) fail(stepped.error());
      backoff = backoff.count() == 0 ? kFirstBackoff : std::min(2 * backoff, kLongestBackoff);
      ending.pause_for(backoff);
      continue;
    }
    if (stepped.value() == Step::kMoved) {
      if (backoff.count() > 0) fprintf(stderr, "pcached: goes on\n");
      backoff = milliseconds{0};
      pause = kShortestPause;
      continue;
    }
    if (once && stepped.value() == Step::kNothing) return kDone;
    ending.pause_for(pause);
    pause = once ? kShortestPause : std::min(2 * pause, kLongestPause);
  }
  return once ? kFailed : kDone;
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app("Writes back for a cache whose front, in another process, has role=front.",
               "pcached");
  app.set_version_flag("--version", "pcached " PCACHE_VERSION);
  app.footer("Example:\n  pcached /dev/dax0.0 --backing /dev/sdb");
  Backend::Options options;
  std::string order = "strict";
  bool once = false;
  app.add_option("CACHE", options.pmem.path, "cache device or file")->required();
  app.add_option("--backing", options.disk.path, "the disk, which the cache belongs to")
      ->required();
  app.add_flag("--emulate-pmem", options.pmem.emulate,
               "the cache device may be a file that is not on a DAX file system");
  app.add_option("--backing-order", order,
                 "strict (default): the disk alone is at any moment a state that the barriers "
                 "allow; relaxed: only with the cache, in longer batches")
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
  Ending& ending = *new Ending;  // its thread outlives main()
  auto backend = Backend::open(options);
  if (!backend) return fail(backend.error());
  printf("pcached: %s has the disk %s\n", options.pmem.path.c_str(), options.disk.path.c_str());
  if (fflush(stdout) != 0) return kFailed;
  ending.watch(backend.value().get());
  const int code = run(*backend.value(), ending, once);
  ending.watch(nullptr);
  const Backend::Counters& n = backend.value()->counters();
  printf("pcached: wrote %llu bytes of %llu ksets\n",
         static_cast<unsigned long long>(n.written_bytes),
         static_cast<unsigned long long>(n.ksets));
  return fflush(stdout) == 0 ? code : kFailed;
} catch (const std::exception& error) {
  fprintf(stderr, "pcached: %s\n", error.what());
  return kFailed;
}
