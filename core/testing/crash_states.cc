// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/crash_states.h"

#include <algorithm>

#include "base/check.h"

namespace pcache {

namespace {

void add(const Journal& journal, Trace* trace) {
  using Kind = TraceEvent::Kind;
  uint32_t process = 0;
  for (const PmemEvent& event : journal) {
    const uint64_t off = event.off.v;
    if (event.killed)
      trace->add(Kind::kKilled, 0, nullptr, 0, 0, process++);
    else if (event.fence)
      trace->add(Kind::kFence, 0, nullptr, 0, 0, process);
    else if (event.flushed_bytes > 0)
      trace->add(Kind::kFlush, off, nullptr, event.flushed_bytes, 0, process);
    else
      trace->add(event.unflushed ? Kind::kUnflushed : Kind::kStore, off, event.bytes.data(),
                 event.bytes.size(), 0, process);
  }
}

uint64_t end_of(const Journal& journal) {
  uint64_t end = kPageBytes;
  for (const PmemEvent& event : journal) end = std::max(end, event.off.v + event.bytes.size());
  return end;
}

}  // namespace

void for_each_crash_state(const Journal& journal, const CrashOptions& options,
                          const CrashVisit& visit) {
  Trace trace;
  add(journal, &trace);
  // PowerLoss relies on that order, too.
  PCACHE_CHECK(missing_order(trace).empty());
  UndoMemory memory((end_of(journal) + kPageBytes - 1) / kPageBytes * kPageBytes);
  std::vector<KeptStore> kept;
  PowerLoss(memory, trace, {}, options).walk(0, [&](const CrashPoint& point) {
    kept.clear();
    memory.each_change([&](uint64_t off, size_t len) {
      kept.push_back({MediaOff{off}, {memory.data() + off, len}});
    });
    visit(kept, "in front of event " + std::to_string(point.event) + ", state " +
                    std::to_string(point.state));
  });
}

void for_each_killed_process(const MemoryPmem& before, const Journal& journal,
                             const CrashOptions& options, const std::function<void(Pmem&)>& next,
                             const KilledVisit& visit) {
  for (size_t killed_at = 0; killed_at <= journal.size(); killed_at++) {
    const auto memory = before.crash_image({});
    for (size_t i = 0; i < killed_at; i++) {
      const PmemEvent& event = journal[i];
      if (event.fence)
        memory->pmem().fence();
      else
        PCACHE_CHECK(memory->pmem().store(event.off, event.bytes.data(), event.bytes.size()));
    }
    memory->kill_process();
    next(memory->pmem());
    for_each_crash_state(memory->journal(), options, [&](auto kept, const std::string& what) {
      visit(*memory->crash_image(kept),
            "killed in front of event " + std::to_string(killed_at) + ", then " + what);
    });
  }
}

size_t find_store(const Journal& journal, MediaOff at, size_t from) {
  for (size_t i = from; i < journal.size(); i++)
    if (journal[i].covers(at)) return i;
  return journal.size();
}

bool all_durable(const Journal& journal) {
  bool pending = false;
  for (const PmemEvent& event : journal) {
    if (event.unflushed) return false;
    pending = !event.fence;
  }
  return !pending;
}

size_t count_fences(const Journal& journal, size_t from, size_t end) {
  size_t n = 0;
  for (size_t i = from; i < std::min(end, journal.size()); i++) n += journal[i].fence;
  return n;
}

}  // namespace pcache
