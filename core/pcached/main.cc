// SPDX-License-Identifier: GPL-2.0-or-later
// pcached: the backend of a cache, see backend/backend.h. It writes back until it is told to end.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "backend/loop.h"
#include "control/bell_listener.h"
#include "pcached/commands.h"

namespace {

using pcache::Backend;
using pcache::BackendLoop;

constexpr int kDone = 0, kFailed = 3;

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
      if (loop_) loop_->stop();
    }).detach();
  }
  // It ends then.
  pcache::Status run(BackendLoop& loop) {
    const Watched watched(*this, loop);
    return loop.run();
  }

 private:
  // Also of a loop that throws nothing is kept.
  class Watched {
   public:
    Watched(Ending& ending, BackendLoop& loop) : ending_(ending) { ending_.watch(&loop); }
    ~Watched() { ending_.watch(nullptr); }
    Watched(const Watched&) = delete;
    Watched& operator=(const Watched&) = delete;

   private:
    Ending& ending_;
  };
  // nullptr: it is gone.
  void watch(BackendLoop* loop) {
    const std::lock_guard lock(mu_);
    loop_ = loop;
    if (loop && begun_) loop->stop();
  }
  static bool is_ignored(int number) {
    struct sigaction action = {};
    return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
  }

  std::mutex mu_;
  BackendLoop* loop_ = nullptr;
  bool begun_ = false;
};

int fail(const pcache::Error& error) {
  fprintf(stderr, "pcached: %s\n", error.text.c_str());
  return kFailed;
}

// It is of use without.
pcache::Result<std::unique_ptr<pcache::ControlServer>> begin_control(
    const std::string& cache_path, pcache::BackendCommands& commands) {
  const auto path = pcache::backend_socket(cache_path);
  if (!path) return path.error();
  auto socket = pcache::ControlSocket::listen(path.value(), true);
  if (!socket) return socket.error();
  return pcache::ControlServer::start(socket.take(), commands);
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app("Writes back for a cache whose front, in another process, has role=front.",
               "pcached");
  app.set_version_flag("--version", "pcached " PCACHE_VERSION);
  app.footer("Example:\n  pcached /dev/dax0.0 --backing /dev/sdb");
  Backend::Options options;
  std::string order = "strict";
  BackendLoop::Options loop_options;
  int64_t interval_ms = loop_options.interval.count();
  app.add_option("CACHE", options.pmem.path, "cache device or file")->required();
  app.add_option("--backing", options.disk.path, "the disk, which the cache belongs to")
      ->required();
  app.add_flag("--emulate-pmem", options.pmem.emulate,
               "the cache device may be a file that is not on a DAX file system");
  app.add_option("--backing-order", order,
                 "strict (default): the disk alone is at any moment a state that the barriers "
                 "allow; relaxed: only with the cache, in longer batches")
      ->check(CLI::IsMember({"strict", "relaxed"}));
  app.add_option("--interval-ms", interval_ms,
                 "how long it waits for the front to say that something is to be written back, "
                 "before it looks; default 100")
      ->check(CLI::Range(int64_t{1}, int64_t{3600000}));
  app.add_flag("--once", loop_options.once, "end when all that the log has is written back");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    fprintf(stderr, "pcached: %s; see pcached --help\n", error.what());
    return kFailed;
  }
  options.strict = order == "strict";
  loop_options.interval = BackendLoop::Milliseconds{interval_ms};
  options.log = pcache::Log(
      [](pcache::LogLevel, const char* line) { fprintf(stderr, "pcached: %s\n", line); });
  Ending& ending = *new Ending;  // its thread outlives main()
  auto backend = Backend::open(options);
  if (!backend) return fail(backend.error());
  pcache::Doorbell bell(pcache::Doorbell::Side::kBackend);
  pcache::BellFile file(options.pmem.path, bell);
  std::string unheard;  // what was said of the file last
  loop_options.beats = [&] {
    const auto kept = file.keep();
    const std::string text = kept ? std::string() : kept.error().text;
    if (text != unheard && !text.empty())
      fprintf(stderr, "pcached: %s: it looks for what the front has done\n", text.c_str());
    unheard = text;
    bell.beat(pcache::beat_now());
  };
  loop_options.say = [](const std::string& line) {
    fprintf(stderr, "pcached: %s\n", line.c_str());
  };
  BackendLoop loop(*backend.value(), bell, loop_options);
  pcache::BackendCommands commands(*backend.value(), loop, bell, options.pmem.path,
                                   options.disk.path);
  auto control = begin_control(options.pmem.path, commands);
  if (!control)
    fprintf(stderr, "pcached: control socket: %s: no pcachectl finds this backend\n",
            control.error().text.c_str());
  printf("pcached: %s has the disk %s\n", options.pmem.path.c_str(), options.disk.path.c_str());
  if (fflush(stdout) != 0) return kFailed;
  const auto done = ending.run(loop);
  if (control) control.value().reset();
  file.leave();
  if (!done) (void)fail(done.error());
  const Backend::Counters& n = backend.value()->counters();
  printf("pcached: wrote %llu bytes of %llu ksets\n",
         static_cast<unsigned long long>(n.written_bytes),
         static_cast<unsigned long long>(n.ksets));
  return fflush(stdout) == 0 && done ? kDone : kFailed;
} catch (const std::exception& error) {
  fprintf(stderr, "pcached: %s\n", error.what());
  return kFailed;
}
