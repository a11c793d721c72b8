// SPDX-License-Identifier: GPL-2.0-or-later
// pcached: the backend of a cache, see backend/backend.h. It writes back until it is told to end.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>

#include "backend/loop.h"
#include "blockdev/nbd_uri.h"
#include "control/bell_listener.h"
#include "pcached/commands.h"
#include "pcached/disk_server.h"
#include "pcached/ending.h"

namespace {

using pcache::Backend;
using pcache::BackendLoop;

constexpr int kDone = 0, kFailed = 3;

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

// It is of use for one process alone, which has the disk.
pcache::Result<std::unique_ptr<pcache::DiskServer>> begin_serving(const std::string& disk,
                                                                  const std::string& socket) {
  if (pcache::is_nbd_uri(disk))
    return pcache::make_error(EINVAL,
                              "--serve %s: the disk %s is on a server already: leave it out, and "
                              "have the front read there",
                              socket.c_str(), disk.c_str());
  return pcache::DiskServer::start(disk, socket);
}

// Each second: what cannot be started is tried again.
void keep_serving(pcache::DiskServer* server) {
  if (!server) return;
  if (const auto kept = server->keep(); !kept)
    fprintf(stderr, "pcached: %s\n", kept.error().text.c_str());
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
  std::string serve;
  bool until_eof = false;
  int64_t patience_s = 60;
  app.add_option(
      "--serve", serve,
      "serves the disk at this UNIX socket, for reading, by nbdkit: the front takes what "
      "misses from there");
  app.add_flag("--until-eof", until_eof,
               "end with the standard input, once all that the log has is written back; with a "
               "line \"end\" there at once");
  app.add_option("--patience", patience_s,
                 "with --until-eof, at its end: so many seconds without progress are waited for; "
                 "default 60")
      ->check(CLI::Range(int64_t{1}, int64_t{86400}));
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
  pcache::Ending& ending = *new pcache::Ending;
  if (until_eof) ending.watch_input(std::chrono::seconds{patience_s});
  auto backend = Backend::open(options);
  if (!backend) return fail(backend.error());
  std::unique_ptr<pcache::DiskServer> server;
  if (!serve.empty()) {
    auto serving = begin_serving(options.disk.path, serve);
    if (!serving) return fail(serving.error());
    server = serving.take();
  }
  pcache::Doorbell bell(pcache::Doorbell::Side::kBackend);
  pcache::BellFile file(options.pmem.path, bell);
  std::string unheard;  // what was said of the file last
  loop_options.beats = [&] {
    const auto kept = file.keep();
    const std::string text = kept ? std::string() : kept.error().text;
    if (text != unheard && !text.empty())
      fprintf(stderr, "pcached: %s: it looks for what the front has done\n", text.c_str());
    unheard = text;
    keep_serving(server.get());
    bell.beat(pcache::beat_now());
  };
  loop_options.say = [](const std::string& line) {
    fprintf(stderr, "pcached: %s\n", line.c_str());
  };
  BackendLoop loop(*backend.value(), bell, loop_options);
  pcache::BackendCommands commands(*backend.value(), loop, bell, ending,
                                   {.cache_path = options.pmem.path,
                                    .disk_path = options.disk.path,
                                    .socket = server ? server->socket() : ""});
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
