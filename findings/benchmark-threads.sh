#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/benchmark-threads.sh   Google Benchmark divides a latency by the number of threads
#
# Expected: user guide, "Multithreaded Benchmarks": "you may want to use real-time ("wallclock")
# measurements for latency comparisons". An iteration that sleeps 10 ms takes 10 ms, in one thread
# or in four at the same time.
# Seen: ->Threads(4)->UseRealTime() reports 2.5 ms. "real_time" is the wall time over the iterations
# of all threads.
# Hurts: four threads look four times as fast where each waits as long as before; real contention is
# hidden by the same factor.
# Guard: no micro-benchmark of ours uses Threads(); what threads do to latency is measured with fio
# (configs/).
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages libbenchmark-dev=1.7.1-1
cat >sleep.cc <<'END'
#include <benchmark/benchmark.h>
#include <time.h>
static void Sleep(benchmark::State& state) {
  const timespec ten_ms{0, 10'000'000};
  for (auto _ : state) nanosleep(&ten_ms, nullptr);
}
BENCHMARK(Sleep)->Iterations(50)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Sleep)->Iterations(50)->UseRealTime()->Unit(benchmark::kMillisecond)->Threads(4);
BENCHMARK_MAIN();
END
compiled sleep.cc -lbenchmark -lpthread
./program --benchmark_out=out.json 2>/dev/null
seen=$(python3 - <<'END'
import json
one, four = (run["real_time"] for run in json.load(open("out.json"))["benchmarks"])
print(f"1 thread: {'10 ms or more' if one >= 10 else 'less'}; "
      f"4 threads: {'10 ms or more' if four >= 10 else 'less'}")
END
)
judge "1 thread: 10 ms or more; 4 threads: 10 ms or more" "1 thread: 10 ms or more; 4 threads: less" "$seen"
