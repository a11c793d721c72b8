// SPDX-License-Identifier: GPL-2.0-or-later
// pcache_prove: tries every crash of many workloads and prints what it has tried, as one line of
// JSON. See scripts/prove, which runs all of it.
//
// A failure is one line on stderr that begins with "FAIL" and ends with the command that shows it
// again; exit status 1. A crash of the tested code, or SIGTERM, prints that command, too.
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "prove/damage.h"
#include "prove/recorded_crashes.h"
#include "prove/schedules.h"
#include "prove/two_sides.h"
#include "prove/workload.h"

namespace pcache {
namespace {

using Clock = std::chrono::steady_clock;

// For a sequence of more than one operation; a format alone has more points.
constexpr size_t kMostPoints = 32;

// The file for the hashes of the images, for `distinct`; empty: none.
std::string g_hashes;
// How this program was called; and the case that runs now, for the signal handler.
std::string g_program;
std::string g_case;

void on_fatal(int signal) {
  const std::string line =
      std::string("FAIL ") + strsignal(signal) + "; again: " + g_program + " " + g_case + "\n";
  (void)!write(STDERR_FILENO, line.data(), line.size());
  _exit(1);
}

[[noreturn]] void fail(const Failure& failure, const std::string& again) {
  fprintf(stderr, "FAIL %s; again: %s %s\n", failure.what(), g_program.c_str(), again.c_str());
  fflush(stderr);
  _exit(1);
}

std::string case_name(const Base& base, uint64_t seed, std::span<const size_t> sequence) {
  std::string name = "replay " + base.name + " " + std::to_string(seed) + " ";
  for (size_t i = 0; i < sequence.size(); i++)
    name.append(i ? "," : "").append(operations()[sequence[i]].name);
  return name;
}

// Every state of the sequence's last operation; with `whole` of all operations and the first
// attach. The first failure ends the program.
void run_case(Base& base, uint64_t seed, std::span<const size_t> sequence, bool whole,
              Totals* totals) {
  g_case = case_name(base, seed, sequence) + (whole ? " --whole" : "");
  try {
    Workload workload(base, seed, totals);
    for (size_t i = 0; i < sequence.size(); i++) {
      if (!whole && i + 1 == sequence.size()) workload.look_from_here();
      workload.run(sequence[i]);
    }
    workload.examine(sequence.size() == 1 ? SIZE_MAX : kMostPoints);
    totals->sequences++;
  } catch (const Failure& failure) {
    fail(failure, g_case);
  }
}

void print(const Totals& totals,
           const nlohmann::ordered_json& more = nlohmann::ordered_json::object()) {
  nlohmann::ordered_json out = {{"sequences", totals.sequences},
                                {"points", totals.points},
                                {"images", totals.images},
                                {"again", totals.again},
                                {"faults", totals.faults}};
  out.update(more);
  printf("%s\n", out.dump().c_str());
  if (g_hashes.empty()) return;
  const std::vector<uint64_t> hashes(totals.distinct.begin(), totals.distinct.end());
  FILE* file = fopen(g_hashes.c_str(), "ab");
  const size_t written = file ? fwrite(hashes.data(), sizeof hashes[0], hashes.size(), file) : 0;
  if (!file || fclose(file) != 0 || written != hashes.size())
    throw CLI::FileError("--hashes " + g_hashes + ": " + strerror(errno));
}

// Counts the different images of several processes.
void distinct(const std::vector<std::string>& files) {
  std::vector<uint64_t> all;
  for (const std::string& name : files) {
    FILE* file = fopen(name.c_str(), "rb");
    if (!file) throw CLI::FileError(name + ": " + strerror(errno));
    uint64_t some[1024];
    while (const size_t n = fread(some, sizeof some[0], std::size(some), file))
      all.insert(all.end(), some, some + n);
    fclose(file);
  }
  std::sort(all.begin(), all.end());
  const auto end = std::unique(all.begin(), all.end());
  print({}, {{"distinct", end - all.begin()}});
}

class Deadline {
 public:
  explicit Deadline(double seconds)
      : end_(Clock::now() +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds))) {}
  bool passed() const { return passed_by() >= 0; }
  double passed_by() const {  // seconds
    return std::chrono::duration<double>(Clock::now() - end_).count();
  }

 private:
  const Clock::time_point end_;
};

struct Common {
  double seconds = 60;
  uint64_t seed = 1;
  unsigned part = 0, parts = 1;
};

std::vector<std::unique_ptr<Base>> all_bases() {
  std::vector<std::unique_ptr<Base>> bases;
  for (const std::string& name : base_names())
    for (const bool strict : {true, false})
      for (const bool data_crc : {false, true}) bases.push_back(make_base(name, data_crc, strict));
  return bases;
}

// All sequences of one operation, then of two, of three. Those of the last length come in an order
// that visits all kinds early, for short runs.
void sequences(const Common& common, size_t longest, size_t to_the_end) {
  Totals totals;
  const Deadline deadline(common.seconds);
  auto bases = all_bases();
  const size_t n = operations().size();
  std::vector<uint64_t> done_of_length, all_of_length;
  for (size_t length = 1; length <= longest; length++) {
    uint64_t count = bases.size();
    for (size_t i = 0; i < length; i++) count *= n;
    uint64_t stride = 7919;  // prime to the count, so it visits all
    while (std::gcd(stride, count) != 1) stride += 2;
    uint64_t mine = 0, done = 0;
    for (uint64_t i = common.part; i < count; i += common.parts) {
      mine++;
      if (deadline.passed() && length > to_the_end) continue;
      uint64_t number = i * stride % count;
      Base& base = *bases[number % bases.size()];
      number /= bases.size();
      std::vector<size_t> sequence(length);
      for (size_t& op : sequence) {
        op = number % n;
        number /= n;
      }
      run_case(base, common.seed, sequence, length == 1 && sequence[0] == 0, &totals);
      done++;
    }
    done_of_length.push_back(done);
    all_of_length.push_back(mine);
  }
  print(totals, {{"done_of_length", done_of_length}, {"all_of_length", all_of_length}});
}

void random_sequences(const Common& common, size_t length) {
  Totals totals;
  const Deadline deadline(common.seconds);
  auto bases = all_bases();
  uint64_t seed = common.seed + common.part;
  for (; !deadline.passed(); seed += common.parts) {
    std::mt19937_64 random(seed);
    // Without the blank bases: sequences() covers their format.
    Base& base = *bases[2 + random() % (bases.size() - 2)];
    std::vector<size_t> sequence(1 + random() % length);
    for (size_t& op : sequence) op = random() % operations().size();
    run_case(base, seed, sequence, true, &totals);
  }
  print(totals, {{"seeds", totals.sequences}});
}

// Every crash of a random sequence on a device that fails, then works again. In some cases the
// device also lies about its flush: nobody can notice what that loses, so it is only counted.
void fault_case(Base& base, uint64_t seed, bool lies, Totals* totals) {
  g_case = "faults --first " + std::to_string(seed);
  std::mt19937_64 random(seed);
  Faults faults(seed, 2 + seed % 4);
  try {
    Workload workload(base, seed, totals, &faults);
    if (lies) workload.let_device_lie();
    const size_t losing = operations().size() - *find_operation("crash");
    for (size_t n = 4 + random() % 12; n > 0; n--)
      workload.run(random() % (operations().size() - losing));
    workload.heal();
    workload.examine(kMostPoints);
    totals->sequences++;
  } catch (const Failure& failure) {
    fail(failure, g_case);
  }
  for (const auto& [kind, n] : faults.counts()) totals->faults[kind] += n;
}

void faults(const Common& common, std::optional<uint64_t> one) {
  Totals totals, lying;
  lying.count_failures = true;
  const Deadline deadline(common.seconds);
  auto bases = all_bases();
  uint64_t seed = one.value_or(common.seed + common.part);
  for (; !deadline.passed(); seed += common.parts) {
    const bool lies = seed % 8 == 0;
    fault_case(*bases[2 + seed % (bases.size() - 2)], seed, lies, lies ? &lying : &totals);
    if (one) break;
  }
  const uint64_t noticed_by_nobody = lying.failures["lost"];
  if (lying.failures.size() > 1)
    fail(Failure("lost: a device that lies has made more go than its own data: " +
                 nlohmann::json(lying.failures).dump()),
         g_case);
  print(totals, {{"seeds", totals.sequences},
                 {"lying_images", lying.images},
                 {"lying_lost", noticed_by_nobody}});
}

// One base after the other, each for its share of the time.
void damage(const Common& common, const std::string& one_base, const std::string& only,
            bool to_the_end) {
  Totals totals;
  const Deadline begun(0);
  Outcomes bits, pages;
  uint64_t all_bits = 0;
  auto bases = all_bases();
  double share = 0;
  for (const auto& base : bases) {
    share++;
    if (!one_base.empty() && base->name != one_base) continue;
    g_case = "damage --seed " + std::to_string(common.seed) + " --base " + base->name;
    Damage image(*base, common.seed);
    all_bits += image.bits();
    const double until = common.seconds * share / static_cast<double>(bases.size());
    Damage::Share mine{common.part, common.parts, only,
                       [&] { return only.empty() && !to_the_end && begun.passed_by() > until; }};
    try {
      image.poison_every_page(mine, &pages);
      image.flip_every_bit(mine, &bits);
    } catch (const Failure& failure) {
      fail(failure, "damage --seed " + std::to_string(common.seed) + " --base " + base->name +
                        " --only '" + image.now() + "'");
    }
  }
  print(totals, {{"bits", bits}, {"all_bits", all_bits}, {"pages", pages}});
}

void schedules(const Common& common, std::optional<uint64_t> one) {
  Totals totals;
  const Deadline deadline(common.seconds);
  auto bases = all_bases();
  uint64_t seed = one.value_or(common.seed + common.part);
  for (; !deadline.passed(); seed += common.parts) {
    g_case = "schedules --first " + std::to_string(seed);
    try {
      run_schedule(*bases[2 + seed % (bases.size() - 2)], seed, &totals);
    } catch (const Failure& failure) {
      fail(failure, g_case);
    }
    if (one) break;
  }
  print(totals, {{"seeds", totals.sequences}});
}

// A front and a backend: see two_sides.h.
void sides(const Common& common, std::optional<uint64_t> one) {
  Totals totals;
  TwoSides::Counts counts;
  const Deadline deadline(common.seconds);
  std::vector<std::unique_ptr<Base>> bases;
  for (const std::string& name : base_names())
    for (int n = 0; n < 8 && name != "blank"; n++)
      bases.push_back(make_two_sides_base(name, n & 1, n & 2, n & 4));
  uint64_t seed = one.value_or(common.seed + common.part);
  for (; !deadline.passed(); seed += common.parts) {
    g_case = "sides --first " + std::to_string(seed);
    try {
      run_two_sides(*bases[seed % bases.size()], seed, &totals, &counts);
    } catch (const Failure& failure) {
      fail(failure, g_case);
    }
    if (one) break;
  }
  print(totals, {{"seeds", totals.sequences},
                 {"interleaved", counts.interleaved},
                 {"stated", counts.stated},
                 {"passed_ksets", counts.passed},
                 {"met", counts.met},
                 {"killed_fronts", counts.killed_fronts},
                 {"killed_backends", counts.killed_backends},
                 {"power_losses", counts.power_losses}});
}

void replay(const std::string& base_name, uint64_t seed, const std::string& names, bool whole,
            bool count) {
  std::string name = base_name;
  const auto cut = [&name](std::string_view suffix) {
    const bool is_there = name.ends_with(suffix);
    if (is_there) name.resize(name.size() - suffix.size());
    return is_there;
  };
  const bool relaxed = cut("+relaxed"), data_crc = cut("+crc");
  const auto known = base_names();
  if (std::find(known.begin(), known.end(), name) == known.end())
    throw CLI::ValidationError("no base " + base_name);
  std::vector<size_t> sequence;
  for (const std::string& op : CLI::detail::split(names, ',')) {
    const auto found = find_operation(op);
    if (!found) throw CLI::ValidationError("no operation " + op);
    sequence.push_back(*found);
  }
  Totals totals;
  totals.count_failures = count;
  const auto base = make_base(name, data_crc, !relaxed);
  run_case(*base, seed, sequence, whole, &totals);
  print(totals, {{"failures", totals.failures}});
}

// Hands each state that is to be judged to whoever started this program: a line of JSON, with the
// image in the file `image`, and it goes on when a line comes back. Without --image: counts alone.
struct Recorded {
  std::string file, image;
  std::vector<size_t> only;
  RecordedCrashes::Options options{};
};

void write_image(const std::string& name, const std::vector<std::byte>& content) {
  FILE* file = fopen(name.c_str(), "wb");
  const size_t written = file ? fwrite(content.data(), 1, content.size(), file) : 0;
  if (!file || fclose(file) != 0 || written != content.size())
    throw CLI::FileError("--image " + name + ": " + strerror(errno));
}

// False: nobody judges any more.
bool hand_over(const Recorded& recorded, const RecordedCrashes::State& state, const char* of,
               const std::vector<std::byte>& content) {
  nlohmann::ordered_json line = {{"state", state.number}, {"of", of},
                                 {"marks", state.marks},  {"background", state.background},
                                 {"event", state.event},  {"subset", state.state}};
  if (content.empty())
    line["failed"] = state.failed;
  else
    write_image(recorded.image, content);
  printf("%s\n", line.dump().c_str());
  fflush(stdout);
  for (int c; (c = getchar()) != '\n';)
    if (c == EOF) return false;
  return true;
}

void recorded_crashes(const Recorded& recorded) {
  auto recording = Recording::read(recorded.file, kProveLogicalBytes, kRecordedBytes);
  if (!recording) throw CLI::FileError(recording.error().text);
  g_case = "recorded " + recorded.file + " --seed " + std::to_string(recorded.options.seed);
  RecordedCrashes crashes(recording.value(), recorded.options);
  size_t states = 0;
  try {
    crashes.replay();
  } catch (const Failure& failure) {
    fail(failure, g_case);
  }
  std::vector<std::byte> device;  // the last that was judged
  const auto& only = recorded.only;
  crashes.visit(
      [&](size_t number) {
        return only.empty() || std::find(only.begin(), only.end(), number) != only.end();
      },
      [&](const RecordedCrashes::State& state) {
        states++;
        if (recorded.image.empty()) return;
        bool goes_on = hand_over(recorded, state, "cache", state.content);
        if (goes_on && recorded.options.strict && device != state.device) {
          device = state.device;
          goes_on = hand_over(recorded, state, "device", device);
        }
        if (!goes_on) throw CLI::FileError("nobody judges any more");
      });
  const RecordedCrashes::Counts& counts = crashes.counts();
  printf("%s\n", nlohmann::ordered_json({{"states", states},
                                         {"events", counts.events},
                                         {"written_back_bytes", counts.written_back},
                                         {"superseded_bytes", counts.superseded},
                                         {"reclaimed_ksets", counts.reclaimed_ksets},
                                         {"freed_segments", counts.freed_segments},
                                         {"log_segments", counts.log_segments}})
                     .dump()
                     .c_str());
}

}  // namespace
}  // namespace pcache

int main(int argc, char** argv) {
  using namespace pcache;
  g_program = argv[0];
  for (const int fatal : {SIGABRT, SIGSEGV, SIGFPE, SIGILL, SIGALRM, SIGTERM})
    signal(fatal, on_fatal);
  // The index advises the kernel to use huge pages: 2 MiB of zeros for every image.
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  // The next image needs the memory of the last one again.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  // A stripe becomes biased with the second write of its thread, so that short sequences have
  // writes with and without a bias.
  BiasedMutex::set_first_streak(0);
  CLI::App app("Tries every crash; see scripts/prove");
  app.require_subcommand(1);
  Common common;
  const auto add_common = [&](CLI::App* command) {
    command->add_option("--seconds", common.seconds, "stop then");
    command->add_option("--seed", common.seed);
    command->add_option("--part", common.part, "of --parts processes, from 0 on");
    command->add_option("--parts", common.parts);
    command->add_option("--hashes", g_hashes, "appends the images' hashes to this file");
    return command;
  };
  size_t length = 3;
  auto* all = add_common(app.add_subcommand("sequences", "all short sequences of operations"));
  all->add_option("--length", length, "up to so many operations");
  size_t to_the_end = 0;
  all->add_option("--to-the-end", to_the_end, "those of up to so many, whatever the time");
  all->callback([&] { sequences(common, length, to_the_end); });
  size_t random_length = 30;
  auto* random = add_common(app.add_subcommand("random", "long random sequences"));
  random->add_option("--length", random_length, "up to so many operations");
  random->callback([&] { random_sequences(common, random_length); });
  std::optional<uint64_t> one;
  auto* failing = add_common(app.add_subcommand("faults", "a backing device that fails"));
  failing->add_option("--first", one, "this seed alone");
  failing->callback([&] { faults(common, one); });
  auto* damaged = add_common(app.add_subcommand("damage", "bits flipped, pages unreadable"));
  std::string one_base, only;
  damaged->add_option("--base", one_base, "this starting image alone");
  damaged->add_option("--only", only, "this record and bit, or page, alone");
  bool whole_damage = false;
  damaged->add_flag("--to-the-end", whole_damage, "all bits, whatever the time");
  damaged->callback([&] { damage(common, one_base, only, whole_damage); });
  auto* threads = add_common(app.add_subcommand("schedules", "many threads, then a crash"));
  threads->add_option("--first", one, "this seed alone");
  threads->callback([&] { schedules(common, one); });
  auto* two =
      add_common(app.add_subcommand("sides", "a front and a backend, killed and restarted"));
  two->add_option("--first", one, "this seed alone");
  two->callback([&] { sides(common, one); });
  std::string base, names;
  bool whole = false, count = false;
  auto* again = app.add_subcommand("replay", "one sequence");
  again->add_option("BASE", base)->required();
  again->add_option("SEED", common.seed)->required();
  again->add_option("OPERATIONS", names, "by name, with commas between")->required();
  again->add_flag("--whole", whole, "the states of all operations, and not of the last alone");
  again->add_flag("--count", count, "counts what fails, by kind, and goes on");
  again->callback([&] { replay(base, common.seed, names, whole, count); });
  std::vector<std::string> files;
  auto* united = app.add_subcommand("distinct", "how many images, of all that --hashes has named");
  united->add_option("FILES", files)->required();
  united->callback([&] { distinct(files); });
  Recorded recorded;
  auto* real = app.add_subcommand("recorded", "crashes of what a file system asks of its device");
  real->add_option("RECORDING", recorded.file, "see tests/ext4_recording.py")->required();
  real->add_option("--image", recorded.image,
                   "each state: here, and a line of JSON; goes on when a line comes");
  real->add_option("--only", recorded.only, "these states, by number");
  real->add_option("--points", recorded.options.points, "so many crashes, of some states each");
  real->add_option("--seed", recorded.options.seed);
  real->add_flag("--data-crc", recorded.options.data_crc);
  real->add_option("--gc-percent", recorded.options.gc_percent);
  real->add_flag("--fua", recorded.options.fua, "the FLUSHes around a write become its flags");
  real->add_flag("!--relaxed", recorded.options.strict, "the option backing_order");
  real->callback([&] { recorded_crashes(recorded); });
  app.add_subcommand("operations", "the alphabet")->callback([] {
    for (const Operation& op : operations()) printf("%-12s %s\n", op.name, op.what);
  });
  CLI11_PARSE(app, argc, argv);
  return 0;
}
