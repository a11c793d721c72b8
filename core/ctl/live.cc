// SPDX-License-Identifier: GPL-2.0-or-later
// pcachectl list, flush, drain, stats and metrics, and what status and set do with a cache that is
// attached.
#include "ctl/live.h"

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <map>
#include <thread>
#include <vector>

#include "base/one_line.h"
#include "control/socket.h"
#include "ctl/metrics.h"
#include "ctl/sides.h"

namespace pcache::ctl {

namespace {

bool is_readonly(const Json& info) {
  const auto at = info.find("readonly");
  return at != info.end() && at->is_boolean() && at->get<bool>();
}

Error no_front(const std::string& cache) {
  return make_error(EINVAL, "%s: only its backend is there, no front: see pcachectl status",
                    cache.c_str());
}

struct Attached {
  std::string socket;
  ControlClient client;
  Json info;
};

// One that many others ask may drop a client that has not asked yet: it is asked again.
constexpr int kTries = 5;

// Nothing: it has ended.
Result<std::optional<Attached>> attached_at(const std::string& socket) {
  Error error;
  for (int tries = 0; tries < kTries; tries++) {
    auto client = ControlClient::connect(socket);
    if (!client && (client.error().code == ECONNREFUSED || client.error().code == ENOENT))
      return std::optional<Attached>();
    if (!client) return client.error();
    auto info = ask_json(&client.value(), "info");
    if (info) return std::optional<Attached>({socket, client.take(), info.take()});
    error = info.error();
    if (error.code != ECONNRESET) break;
  }
  return error;
}

// All that answer; what does not is said on stderr, but for what has ended.
std::vector<Attached> all_attached() {
  std::vector<Attached> all;
  for (const std::string& socket : all_sockets()) {
    auto attached = attached_at(socket);
    if (!attached)
      (void)fail(attached.error());
    else if (attached.value())
      all.push_back(std::move(*attached.value()));
  }
  return all;
}

int run_list(bool json) {
  std::vector<Attached> all = all_attached();
  Json listed = Json::array();
  for (Attached& attached : all) {
    attached.info["socket"] = attached.socket;
    listed.push_back(attached.info);
  }
  if (json) {
    print({{"attached", listed}});
    return kDone;
  }
  for (const Json& info : listed)
    printf("%s, backing device %s: %s (pid %" PRId64 ")%s\n", text_in(info, "cache").c_str(),
           text_in(info, "backing").c_str(), text_in(info, "program").c_str(), pid_in(info),
           is_readonly(info)  ? ", readonly"
           : is_backend(info) ? ", backend"
                              : "");
  if (all.empty())
    fprintf(stderr, "pcachectl: no attached cache is found; looked in %s\n",
            runtime_folders_text().c_str());
  return kDone;
}

int run_command(const Image& image, const char* command, const char* done) {
  auto client = require_live(image.cache);
  if (!client) return fail(client.error());
  const auto answer = client.value().ask(command, kNoTimeout);
  if (!answer) return fail(answer.error());
  if (image.json)
    print({{command, true}});
  else
    printf("%s\n", done);
  return kDone;
}

CacheMetrics metrics_of(const std::string& cache, const Json& info, Json status) {
  // Several may have it attached then.
  return {cache, is_readonly(info) ? std::to_string(pid_in(info)) : "", std::move(status)};
}

int run_metrics(const std::vector<std::string>& caches, MetricsFormat format) {
  std::vector<CacheMetrics> all;
  const auto add = [&](CacheMetrics metrics) {
    const bool is_there = std::any_of(all.begin(), all.end(), [&](const CacheMetrics& other) {
      return other.cache == metrics.cache && other.pid == metrics.pid;
    });
    if (!is_there) all.push_back(std::move(metrics));
  };
  if (caches.empty())
    for (Attached& attached : all_attached()) {
      if (is_backend(attached.info)) continue;  // the front's are the cache's
      auto status = ask_json(&attached.client, "status");
      if (status)
        add(metrics_of(text_in(attached.info, "cache"), attached.info, status.take()));
      else if (status.error().code != ECONNRESET)  // it has ended meanwhile
        (void)fail(status.error());
    }
  for (const std::string& cache : caches) {
    auto client = require_live(cache);
    if (!client) return fail(client.error());
    const auto info = ask_json(&client.value(), "info");
    if (!info) return fail(info.error());
    if (is_backend(info.value())) return fail(no_front(cache));
    auto status = ask_json(&client.value(), "status");
    if (!status) return fail(status.error());
    add(metrics_of(text_in(info.value(), "cache"), info.value(), status.take()));
  }
  const std::string text = metrics_text(all, format);
  fwrite(text.data(), 1, text.size(), stdout);
  return kDone;
}

double percent(double part, double all) { return all > 0 ? 100 * part / all : 0; }

// Why requests wait, or what background work does: the one thing that is most worth knowing.
std::string state_of(const Json& status) {
  if (number_in(status, "backing", "waiting_for_server") > 0)
    return "waits for the server of the backing device: " +
           text_in(status, "backing", "why_not_connected");
  if (text_in(status, "writeback", "state") == "failing")
    return "failing: " + text_in(status, "writeback", "last_error");
  const std::string reclaim = text_in(status, "reclaim", "state");
  if (reclaim != "ok") return "reclaim: " + reclaim;
  if (number_in(status, "requests", "waiting_for_device") > 0) return "writes through";
  if (number_in(status, "requests", "waiting_for_space") > 0) return "waits for the backing device";
  if (flag_in(status, "writeback", "cleaning")) return "cleaning";
  return "ok";
}

// ---- status --watch ----

// Of two statuses, what happened between them.
class Interval {
 public:
  Interval(const Json& before, const Json& now, double seconds)
      : before_(before),
        now_(now),
        seconds_(seconds),
        reset_(number_in(before, "time", "counted_since_unix_ms") !=
               number_in(now, "time", "counted_since_unix_ms")) {}
  // Of a counter; after a reset, since then.
  double more(const char* object, const char* name) const {
    const double n = number_in(now_, object, name), was = number_in(before_, object, name);
    return reset_ ? n : std::max(n - was, 0.0);
  }
  double rate(const char* object, const char* name) const {
    return seconds_ > 0 ? more(object, name) / seconds_ : 0;
  }
  // In microseconds, of one of the histograms; 0: nothing was timed.
  double latency_us(const char* name, double part) const {
    std::map<double, double> counts = buckets(now_, name);  // by upper end
    if (!reset_)
      for (const auto& [upper, n] : buckets(before_, name))
        counts[upper] = std::max(counts[upper] - n, 0.0);
    double all = 0, seen = 0;
    for (const auto& [upper, n] : counts) all += n;
    for (const auto& [upper, n] : counts)
      if ((seen += n) >= part * all && n > 0) return upper / 1000;
    return 0;
  }

 private:
  static std::map<double, double> buckets(const Json& status, const char* name) {
    std::map<double, double> counts;
    const auto latency = status.find("latency");
    if (latency == status.end() || !latency->is_object() || !latency->contains(name)) return counts;
    for (const auto& [upper_ns, n] : buckets_of(latency->at(name)))
      counts[static_cast<double>(upper_ns)] = static_cast<double>(n);
    return counts;
  }
  const Json& before_;
  const Json& now_;
  const double seconds_;
  const bool reset_;
};

constexpr double kMega = 1 << 20;

struct Column {
  const char* title;
  int width, decimals;
  double (*value)(const Interval&, const Json& now);
};
constexpr Column kColumns[] = {
    {"r/s", 9, 0, [](const Interval& i, const Json&) { return i.rate("requests", "reads"); }},
    {"w/s", 9, 0, [](const Interval& i, const Json&) { return i.rate("requests", "writes"); }},
    {"f/s", 7, 0, [](const Interval& i, const Json&) { return i.rate("requests", "flushes"); }},
    {"rMiB/s", 8, 1,
     [](const Interval& i, const Json&) { return i.rate("requests", "read_bytes") / kMega; }},
    {"wMiB/s", 8, 1,
     [](const Interval& i, const Json&) { return i.rate("requests", "write_bytes") / kMega; }},
    {"hit%", 6, 1,
     [](const Interval& i, const Json&) {
       return percent(i.more("requests", "read_hits"), i.more("requests", "reads"));
     }},
    {"r99us", 8, 1, [](const Interval& i, const Json&) { return i.latency_us("read_hit", 0.99); }},
    {"m99us", 8, 1, [](const Interval& i, const Json&) { return i.latency_us("read_miss", 0.99); }},
    {"w99us", 8, 1, [](const Interval& i, const Json&) { return i.latency_us("write", 0.99); }},
    {"dirtyMiB", 9, 1,
     [](const Interval&, const Json& now) {
       return number_in(now, "dirty", "live_bytes") / kMega;
     }},
    {"used%", 6, 1,
     [](const Interval&, const Json& now) {
       return percent(number_in(now, "segments", "used"), number_in(now, "segments", "total"));
     }},
    {"wbMiB/s", 8, 1,
     [](const Interval& i, const Json&) { return i.rate("writeback", "written_bytes") / kMega; }},
    {"waits/s", 8, 0,
     [](const Interval& i, const Json&) { return i.rate("events", "waits_on_full"); }},
};
constexpr uint64_t kRowsPerTitle = 20;

void print_titles() {
  for (const Column& column : kColumns) printf("%*s", column.width, column.title);
  printf("  state\n");
}

void print_row(const Interval& interval, const Json& now) {
  for (const Column& column : kColumns)
    printf("%*.*f", column.width, column.decimals, column.value(interval, now));
  printf("  %s\n", state_of(now).c_str());
}

Json row_of(const Interval& interval, const Json& now) {
  Json row;
  for (const Column& column : kColumns) row[column.title] = column.value(interval, now);
  row["state"] = state_of(now);
  return row;
}

}  // namespace

std::string text_in(const Json& json, const char* name) {
  const auto at = json.find(name);
  if (at == json.end() || !at->is_string()) return "?";
  std::string text = at->get<std::string>();
  make_one_line(text.data());
  return text;
}

int64_t pid_in(const Json& info) {
  const auto at = info.find("pid");
  return at != info.end() && at->is_number_integer() ? at->get<int64_t>() : 0;
}

double number_in(const Json& status, const char* object, const char* name) {
  const auto at = status.find(object);
  if (at == status.end() || !at->is_object()) return 0;
  const auto value = at->find(name);
  return value != at->end() && value->is_number() ? value->get<double>() : 0;
}

std::string text_in(const Json& status, const char* object, const char* name) {
  const auto at = status.find(object);
  return at != status.end() && at->is_object() ? text_in(*at, name) : "?";
}

bool flag_in(const Json& status, const char* object, const char* name) {
  const auto at = status.find(object);
  if (at == status.end() || !at->is_object()) return false;
  const auto value = at->find(name);
  return value != at->end() && value->is_boolean() && value->get<bool>();
}

Result<std::optional<ControlClient>> find_live(const std::string& path) {
  const auto socket = find_socket(path);
  if (!socket) return std::optional<ControlClient>();  // of no file that is wrong the others tell
  auto client = ControlClient::connect(socket.value());
  if (client) return std::optional<ControlClient>(client.take());
  if (client.error().code == ECONNREFUSED || client.error().code == ENOENT)
    return std::optional<ControlClient>();
  return client.error();
}

Result<ControlClient> require_live(const std::string& path) {
  const auto socket = find_socket(path);
  if (!socket) return socket.error();
  auto client = ControlClient::connect(socket.value());
  if (!client && client.error().code == ECONNREFUSED)
    return make_error(ENOENT, "%s: no process has it attached: the one that had has ended",
                      path.c_str());
  return client;
}

Result<Json> ask_json(ControlClient* client, const char* command, int timeout_ms) {
  const auto answer = client->ask(command, timeout_ms);
  if (!answer) return answer.error();
  Json json = Json::parse(answer.value(), nullptr, false);
  if (!json.is_object())
    return make_error(EPROTO, "the answer to %s is no JSON object: what answers is no cache",
                      command);
  return json;
}

int run_live_status(ControlClient client, const Image& image, bool line) {
  if (line) {
    const auto asked = ask_json(&client, "info");
    if (asked && is_backend(asked.value())) return fail(no_front(image.cache));
    const auto answer = client.ask("line");
    if (!answer) return fail(answer.error());
    if (image.json)
      print({{"line", answer.value()}});
    else
      printf("%s\n", answer.value().c_str());
    return kDone;
  }
  const auto info = ask_json(&client, "info");
  if (!info) return fail(info.error());
  const auto status = ask_json(&client, "status");
  if (!status) return fail(status.error());
  const Json& s = status.value();
  const std::optional<Json> backend =
      text_in(s, "sides", "role") == "front" ? backend_status(image.cache) : std::nullopt;
  if (image.json) {
    Json all = {{"attached", info.value()}};
    all.update(s);
    if (backend) all["backend"] = *backend;
    print(all);
    return kDone;
  }
  if (is_backend(info.value())) {
    print_backend_alone(info.value(), s);
    return kDone;
  }
  const Json& i = info.value();
  const auto bytes = [&](const char* object, const char* name) {
    return bytes_text(static_cast<uint64_t>(number_in(s, object, name)));
  };
  const auto seconds_since = [&](const char* name) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const std::chrono::duration<double> seconds = now;
    return std::max(seconds.count() - number_in(s, "time", name) / 1000, 0.0);
  };
  printf("cache:     %s, attached by %s (pid %" PRId64 ") for %.0f s%s\n",
         text_in(i, "cache").c_str(), text_in(i, "program").c_str(), pid_in(i),
         seconds_since("attached_unix_ms"), is_readonly(i) ? ", readonly" : "");
  printf("pmem:      %s, persist %s\n", text_in(s, "cache", "pmem_kind").c_str(),
         text_in(s, "cache", "persist").c_str());
  printf("backing:   %s, \"%s\", %s, %s\n", text_in(i, "backing").c_str(),
         text_in(s, "backing", "identity").c_str(), bytes("backing", "bytes").c_str(),
         text_in(s, "backing", "io_mode").c_str());
  printf("segments:  %.0f of %.0f in use (%.0f log, %.0f data), gc_percent %.0f, %s\n",
         number_in(s, "segments", "used"), number_in(s, "segments", "total"),
         number_in(s, "segments", "log"), number_in(s, "segments", "data"),
         number_in(s, "cache", "gc_percent"), text_in(s, "cache", "mode").c_str());
  printf("dirty:     %s; cached: %s\n", bytes("dirty", "live_bytes").c_str(),
         bytes("index", "mapped_bytes").c_str());
  printf(
      "counted:   for %.0f s: %.0f reads (%.1f %% hits), %.0f writes, %.0f flushes, %.0f errors, "
      "%.0f waits for space\n",
      seconds_since("counted_since_unix_ms"), number_in(s, "requests", "reads"),
      percent(number_in(s, "requests", "read_hits"), number_in(s, "requests", "reads")),
      number_in(s, "requests", "writes"), number_in(s, "requests", "flushes"),
      number_in(s, "requests", "errors"), number_in(s, "events", "waits_on_full"));
  printf("writeback: %s written, %s superseded before that\n",
         bytes("writeback", "written_bytes").c_str(),
         bytes("writeback", "superseded_bytes").c_str());
  if (text_in(s, "sides", "role") == "front") print_backend(s, backend ? &*backend : nullptr);
  printf("state:     %s\n", state_of(s).c_str());
  return kDone;
}

int run_watch(const Image& image, uint64_t seconds, uint64_t count) {
  auto client = require_live(image.cache);
  if (!client) return fail(client.error());
  using Clock = std::chrono::steady_clock;
  auto asked_at = Clock::now();
  const auto info = ask_json(&client.value(), "info");
  if (info && is_backend(info.value())) return fail(no_front(image.cache));
  auto before = ask_json(&client.value(), "status");
  if (!before) return fail(before.error());
  if (!image.json) print_titles();
  if (fflush(stdout) != 0) return kFailed;  // main() says so
  for (uint64_t row = 0; row < count; row++) {
    const auto last = asked_at;
    std::this_thread::sleep_until(last + std::chrono::seconds(seconds));
    asked_at = Clock::now();
    auto now = ask_json(&client.value(), "status");
    if (!now && now.error().code == ECONNRESET) {
      fprintf(stderr, "pcachectl: %s is not attached any more\n", image.cache.c_str());
      return kDone;
    }
    if (!now) return fail(now.error());
    const std::chrono::duration<double> elapsed = asked_at - last;
    const Interval interval(before.value(), now.value(), elapsed.count());
    if (image.json) {
      print(row_of(interval, now.value()));
    } else {
      if (row > 0 && row % kRowsPerTitle == 0) print_titles();
      print_row(interval, now.value());
    }
    if (fflush(stdout) != 0) return kFailed;
    before = std::move(now);
  }
  return kDone;
}

int run_live_set(ControlClient client, const Image& image, const std::string& name,
                 const std::string& value) {
  for (const std::string* word : {&name, &value})
    if (word->empty() || word->find_first_of(" \t\r\n\v\f") != std::string::npos)
      return fail(make_error(EINVAL,
                             "set: a name and a value without blanks are expected, found "
                             "\"%s\" and \"%s\"",
                             name.c_str(), value.c_str()));
  const auto answer = client.ask("set " + name + " " + value);
  if (!answer) return fail(answer.error());
  if (image.json)
    print({{name, value}});
  else
    printf("%s: %s\n", name.c_str(), value.c_str());
  return kDone;
}

void add_list(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand("list", "Names the caches that are attached");
  command->footer("Examples:\n  pcachectl list");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "one JSON object");
  command->callback([=] { *exit_code = run_list(*json); });
}

void add_live_commands(CLI::App& app, int* exit_code) {
  const auto add = [&](CLI::App* to, const char* name, const char* help, const char* footer,
                       const char* asked, const char* done) {
    auto* command = to->add_subcommand(name, help);
    command->footer(footer);
    auto image = std::make_shared<Image>();
    add_image(command, image.get(), Backing::kNone);
    command->callback([=] { *exit_code = run_command(*image, asked, done); });
  };
  add(&app, "flush", "Makes all that is complete durable, in a cache that is attached",
      "Examples:\n  pcachectl flush /dev/pmem0", "flush", "flushed");
  add(&app, "drain", "Writes all dirty data back, of a cache that is attached",
      "Examples:\n  pcachectl drain /dev/pmem0", "drain", "drained: all is on the backing device");
  auto* stats = app.add_subcommand("stats", "Sets back what an attached cache counts");
  stats->footer("Examples:\n  pcachectl stats reset /dev/pmem0");
  stats->require_subcommand(1);
  add(stats, "reset", "What is counted begins at 0", "", "reset", "counted from now on");

  auto* metrics = app.add_subcommand(
      "metrics", "Prints the metrics of attached caches, for Prometheus and its like");
  metrics->footer(
      "Examples:\n  pcachectl metrics /dev/pmem0\n"
      "  pcachectl metrics --format prometheus > pcache.new && mv pcache.new pcache.prom");
  auto caches = std::make_shared<std::vector<std::string>>();
  auto format = std::make_shared<std::string>("openmetrics");
  metrics->add_option("CACHE", *caches, "their cache devices or sockets; none: all");
  metrics->add_option(
      "--format", *format,
      "openmetrics (1.0; the default), or prometheus (text 0.0.4, as node_exporter's "
      "textfile collector reads it)");
  metrics->callback([=] {
    const bool is_open = *format == "openmetrics";
    if (!is_open && *format != "prometheus")
      *exit_code = fail(make_error(EINVAL,
                                   "metrics: --format: expected openmetrics or prometheus, "
                                   "found %s",
                                   format->c_str()));
    else
      *exit_code =
          run_metrics(*caches, is_open ? MetricsFormat::kOpenMetrics : MetricsFormat::kPrometheus);
  });
}

}  // namespace pcache::ctl
