// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/runner.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "sweep/host.h"

namespace pcache::sweep {

using nlohmann::ordered_json;

namespace {

// Starting fio, filling, and ending it; a guess until one has been timed.
constexpr double kOverheadSeconds = 1;
constexpr double kReplayedBytesPerSecond = 1e9, kFilledBytesPerSecond = 1e9;

std::atomic<pid_t> g_child{0};
std::atomic<bool> g_interrupted{false};

constexpr int kPatienceSeconds = 5;

constexpr const char* kIolog = ".iolog";  // of a trace, in raw/ while it is replayed

// Also each second behind that, by the alarm: fio does not hear all that comes before it has its
// jobs.
void on_signal(int signal) {
  static std::atomic<int> alarms{0};
  g_interrupted = true;
  if (signal == SIGALRM) alarms++;
  if (const pid_t child = g_child) kill(-child, alarms < kPatienceSeconds ? SIGTERM : SIGKILL);
  alarm(1);
}

// While it lives, SIGINT and SIGTERM wait.
class SignalsWait {
 public:
  SignalsWait() {
    sigset_t ours;
    sigemptyset(&ours);
    for (const int signal : {SIGINT, SIGTERM, SIGALRM}) sigaddset(&ours, signal);
    sigprocmask(SIG_BLOCK, &ours, &before_);
  }
  ~SignalsWait() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  // In a child: for what it will run.
  void back_to_default() {
    for (const int signal : {SIGINT, SIGTERM, SIGALRM}) ::signal(signal, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t before_;
};

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string last_line(const std::string& text) {
  const size_t end = text.find_last_not_of(" \n");
  if (end == text.npos) return {};
  const size_t begin = text.rfind('\n', end);
  return text.substr(begin == text.npos ? 0 : begin + 1,
                     end - (begin == text.npos ? 0 : begin + 1) + 1);
}

// The engine's own line if there is one: fio's last says only that a job failed.
std::string why(const std::string& err) {
  for (const char* mark : {"pcache: ", "fio: "})
    if (const size_t at = err.find(mark); at != err.npos)
      return err.substr(at, err.find('\n', at) - at);
  return last_line(err);
}

// As fio, which stands in raw/, is told of it: so that where the folder is does not matter to fio.
std::string in_raw(const std::string& path) { return std::filesystem::path(path).filename(); }

// Since the attach: of a case that is filled first, of that, too.
ordered_json backing_metrics(const Case& one, const nlohmann::json& status) {
  ordered_json metrics = {{"requested_bytes", status.at("requests").at("write_bytes")},
                          {"written_bytes", status.at("writeback").at("written_bytes")}};
  // Where only reads are measured, it was the filling that has waited.
  if (const std::string& rw = one.values.at("rw"); rw != "read" && rw != "randread") {
    metrics["writes"] = status.at("requests").at("writes");
    metrics["waited_for_space"] = status.at("events").at("waits_on_full");
  }
  return metrics;
}

// Of the last minute; 0: the kernel does not say.
double load_average() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

}  // namespace

std::string clock_of(double seconds) {
  char text[32];
  const auto s = static_cast<long>(std::ceil(seconds - 1e-3));  // what is left of sums is no second
  if (s >= 3600)
    snprintf(text, sizeof text, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  else
    snprintf(text, sizeof text, "%ld:%02ld", s / 60, s % 60);
  return text;
}

void watch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGALRM, &action, nullptr);
}

Runner::Runner(const Spec& spec, const Place& place, RunFolder& folder, bool quiet)
    : spec_(spec),
      place_(place),
      folder_(folder),
      builds_(folder.builds()),
      quiet_(quiet),
      tty_(isatty(STDERR_FILENO)) {}

double Runner::expected_s(const Spec& spec, const Case& one) {
  if (one.replay)
    return kOverheadSeconds +
           static_cast<double>(one.replay->layout->requested_bytes()) / kReplayedBytesPerSecond;
  const double run = one.values.at("volume") == "0" ? spec.runtime_s + spec.warmup_s : 1;
  const bool fills = one.values.at("fill") != "empty" && one.values.at("engine") != "uring";
  const double filled = fills ? static_cast<double>(working_set_bytes_of(one)) : 0;
  return run + kOverheadSeconds + filled / kFilledBytesPerSecond;
}

double Runner::expected_s(const Spec& spec, const std::vector<Measurement>& plan) {
  double seconds = 0;
  for (const Measurement& what : plan) seconds += expected_s(spec, spec.cases[what.case_index]);
  return seconds;
}

void Doubts::add(const ordered_json& result) {
  measured++;
  const ordered_json& metrics = result.at("metrics");
  if (metrics.contains("backing") && metrics.at("backing").contains("waited_for_space")) {
    writing++;
    if (metrics.at("backing").at("waited_for_space").get<uint64_t>() > 0) waited++;
  }
  const double load = result.at("load_average");
  most_load = std::max(most_load, load);
  if (load > static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN))) overloaded++;
}

size_t Runner::run() {
  const auto plan = make_plan(spec_, builds_.size());
  size_t done = 0, failed = 0;
  left_s_ = 0;
  for (const Measurement& what : plan) {
    if (folder_.is_done(what.number))
      done++;
    else
      left_s_ += expected_s(spec_, spec_.cases[what.case_index]);
  }
  uint32_t round = 0;  // which has the file that is there from the start
  for (const Measurement& what : plan) {
    if (folder_.is_done(what.number)) continue;
    if (what.repeat != std::exchange(round, what.repeat)) place_.begin_round();
    const Case& one = spec_.cases[what.case_index];
    show(done, plan.size(), one.id);
    const double start = now_s(), expected = expected_s(spec_, one);
    const ordered_json result = measure(what);
    if (g_interrupted) throw Interrupted();
    folder_.add(result);
    spent_s_ += now_s() - start;
    expected_s_ += expected;
    left_s_ -= expected;
    done++;
    if (result.at("ok")) {
      doubts_.add(result);
      continue;
    }
    failed++;
    fprintf(stderr, "%spcache-sweep: %s: %s\n", tty_ ? "\r\033[K" : "", one.id.c_str(),
            result.at("error").get<std::string>().c_str());
  }
  show(done, plan.size(), "done");
  if (tty_ && !quiet_) fputc('\n', stderr);
  return failed;
}

ordered_json Runner::measure(const Measurement& what) {
  const Case& one = spec_.cases[what.case_index];
  const Build& build = builds_[what.build];
  const std::string series = folder_.raw(what.number, "");
  ordered_json result = {{"number", what.number},
                         {"case", what.case_index},
                         {"build", build.label},
                         {"repeat", what.repeat},
                         {"ok", false}};
  const auto run = [&](const std::string& text, const std::string& part) {
    const std::string err = folder_.raw(what.number, part + ".err");
    const int status = run_fio(folder_.raw(what.number, part + ".fio"), text,
                               folder_.raw(what.number, part + ".json"), err);
    const std::string said = read_file(err);
    if (said.empty()) std::filesystem::remove(err);
    if (status != 0)
      throw Wrong(said.empty() ? "fio ended with status " + std::to_string(status) : why(said));
  };
  const double load = load_average();
  try {
    if (const uint64_t bytes = cache_bytes_of(one)) place_.blank_cache(bytes);
    const std::string iolog = folder_.raw(what.number, kIolog);
    if (one.replay) write_file(iolog, one.replay->layout->iolog());
    const FioJob job =
        one.replay ? make_replay_job(one, place_, build, what.repeat, in_raw(series), in_raw(iolog))
                   : make_job(spec_, one, place_, build, what.repeat, in_raw(series));
    if (!job.fill.empty()) run(job.fill, ".fill");
    const double start = now_s();
    run(job.measure, "");
    const auto fio = nlohmann::json::parse(read_file(folder_.raw(what.number, ".json")));
    result["seconds"] = now_s() - start;
    result["load_average"] = load;
    result["metrics"] = metrics_of(one, spec_.runtime_s, fio);
    const nlohmann::json status = status_of(what);
    if (one.replay) result["metrics"]["replay"] = replay_metrics(*one.replay, status);
    if (!one.replay && !status.is_null())
      result["metrics"]["backing"] = backing_metrics(one, status);
    if (const std::string csv = series_of(series); !csv.empty())
      write_file(folder_.raw(what.number, ".csv"), csv);
    result["ok"] = true;
  } catch (const Wrong& wrong) {
    result["error"] = wrong.what();
  } catch (const nlohmann::json::exception& error) {
    result["error"] = std::string("fio's output: ") + error.what();
  }
  // What the CSV sums up, and what the trace says again.
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path() + "/raw"))
    if (entry.path().extension() == ".log" || entry.path().extension() == kIolog)
      std::filesystem::remove(entry.path());
  return result;
}

// At the end of fio's run; null: of an engine without a cache.
nlohmann::json Runner::status_of(const Measurement& what) const {
  if (spec_.cases[what.case_index].values.at("engine") != "pcache") return nullptr;
  return nlohmann::json::parse(read_file(folder_.raw(what.number, ".status")));
}

int Runner::run_fio(const std::string& job, const std::string& text, const std::string& out,
                    const std::string& err) {
  if (g_interrupted) throw Interrupted();  // between the fill and the measurement
  write_file(job, text);
  const std::string output = "--output=" + in_raw(out), file = in_raw(job);
  const char* const arguments[] = {"fio", "--output-format=json", output.c_str(), file.c_str(),
                                   nullptr};
  const int log = open(err.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (log < 0) throw Wrong("cannot write " + err + ": " + strerror(errno));
  const pid_t child = start(arguments, log);
  const int error = errno;
  close(log);
  if (child < 0) throw Wrong(std::string("cannot fork: ") + strerror(error));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  g_child = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// A signal that comes meanwhile is neither lost in the child, before it is fio, nor here, before
// it is known whom to end.
pid_t Runner::start(const char* const arguments[], int log) {
  // fio makes files for its own state where it stands.
  const std::string folder = folder_.path() + "/raw";
  SignalsWait wait;
  if (g_interrupted) {
    close(log);
    throw Interrupted();
  }
  const pid_t parent = getpid(), child = fork();
  if (child == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // or a resumed run would write beside it
    if (getppid() != parent) _exit(127);
    dup2(log, STDERR_FILENO);
    dup2(log, STDOUT_FILENO);
    wait.back_to_default();
    if (chdir(folder.c_str()) == 0) execvp(arguments[0], const_cast<char* const*>(arguments));
    dprintf(STDERR_FILENO, "fio: cannot be run: %s; scripts/setup installs it\n", strerror(errno));
    _exit(127);
  }
  if (child > 0) {
    setpgid(child, child);
    g_child = child;
  }
  return child;
}

void Runner::show(size_t done, size_t all, const std::string& what) {
  if (quiet_) return;
  const double pace = expected_s_ > 0 ? spent_s_ / expected_s_ : 1;
  const size_t percent = done * 100 / std::max<size_t>(1, all);
  if (!tty_) {
    if (done > 0 && done < all && percent < shown_percent_ + 10) return;
    shown_percent_ = percent;
    fprintf(stderr, "pcache-sweep: %zu of %zu, %s left\n", done, all,
            clock_of(left_s_ * pace).c_str());
    return;
  }
  constexpr size_t kWidth = 30;
  std::string bar(kWidth * done / std::max<size_t>(1, all), '#');
  bar.resize(kWidth, '.');
  fprintf(stderr, "\r\033[K[%s] %zu/%zu  %s left  %.60s", bar.c_str(), done, all,
          clock_of(left_s_ * pace).c_str(), what.c_str());
  fflush(stderr);
}

}  // namespace pcache::sweep
