// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/judge.h"

#include <algorithm>

#include "inspect/check.h"

namespace pcache {

namespace {

// A crash may leave this, and it costs nothing: a record that the crash tore.
bool left_by_a_crash(const Finding& finding, bool log_is_closed) {
  return finding.code == "torn-replica" || (finding.code == "torn-tail" && !log_is_closed);
}

std::string differing(const Oracle::Found& before, const Oracle::Found& after) {
  for (const auto& [sector, version] : before)
    if (const auto now = after.find(sector); now == after.end() || now->second != version)
      return "sector " + std::to_string(sector) + " held version " + std::to_string(version) +
             ", now " + (now == after.end() ? "?" : std::to_string(now->second));
  return {};
}

}  // namespace

bool Judge::check_image_as_it_is(bool drained) const {
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark mark = memory.mark();
  const auto pmem = base_.pmem->make_pmem();
  CheckOptions options;
  options.backing = prove_backing();
  const CheckReport report = check_image(*pmem, options);
  if (memory.mark() != mark) throw Failure("lost: check has stored something");
  if (!report.attaches && report.findings.all().empty()) throw Failure("lost: it does not attach");
  for (const Finding& finding : report.findings.all())
    if (finding.severity != Severity::kNote && !left_by_a_crash(finding, drained))
      throw Failure(std::string(report.attaches ? "lost" : "refused") + ": check: " + finding.code +
                    ": " + finding.where + ": " + finding.text);
  return !report.frame.blank;
}

std::unique_ptr<Session> Judge::attach(const Sectors& device, Trace* trace) const {
  auto session = Session::attach(
      *base_.pmem, device, {.trace = trace, .strict = base_.strict, .data_crc = base_.data_crc});
  if (!session) throw Failure("refused: " + session.error().text);
  return session.take();
}

Oracle::Found Judge::read_all(Session& session) const {
  Oracle::Found found;
  for (const Extent& extent : extents_of(sectors_))
    if (const std::string wrong = session.read(extent, &found).text(extent); !wrong.empty())
      throw Failure(wrong);
  return found;
}

Oracle::Found Judge::recover(const Sectors& device, Trace* trace) const {
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark mark = memory.mark();
  Oracle::Found found;
  {
    const auto session = attach(device, trace);
    session->stop_tracing();  // reading and closing are not traced
    found = read_all(*session);
  }
  memory.rollback(mark);
  return found;
}

bool Judge::recovered(const CrashPoint& point, Oracle::Found* found) {
  totals_.images++;
  totals_.distinct.insert(point.hash);
  const Recoveries::Recovered* known = base_.recoveries.find(point.hash, sectors_);
  if (!known) {
    Recoveries::Recovered now{check_image_as_it_is(false), {}};
    for (const auto& [sector, version] : recover(point.device)) now.held.push_back(version);
    base_.recoveries.add(point.hash, sectors_, std::move(now));
    known = base_.recoveries.find(point.hash, sectors_);
  }
  for (size_t i = 0; i < sectors_.size(); i++) (*found)[sectors_[i]] = known->held[i];
  return known->formatted;
}

// The known sectors and those that changed, without those that the base changed.
std::vector<uint64_t> Judge::device_sectors(const Sectors& device) const {
  std::vector<uint64_t> sectors = sectors_;
  for (const auto& [sector, bytes] : device)
    if (!base_.device.contains(sector) &&
        !std::binary_search(sectors_.begin(), sectors_.end(), sector))
      sectors.push_back(sector);
  return sectors;
}

void Judge::look(const CrashPoint& point, const Oracle& oracle) {
  const auto time = static_cast<Oracle::Time>(point.event);
  Oracle::Found on_device;
  std::string wrong = read_device(point.device, device_sectors(point.device), &on_device);
  // Under backing_order=relaxed only the cache and the device together are in order.
  if (wrong.empty() && base_.strict) wrong = oracle.judge_device(on_device, time);
  if (wrong.empty()) wrong = oracle.judge_on_device(on_device, time);
  if (!wrong.empty()) throw Failure(wrong);
  bool formatted = false;
  Oracle::Found found;
  try {
    formatted = recovered(point, &found);
  } catch (const Failure& failure) {
    if (failure.kind() == "refused" && oracle.may_be_refused(time)) return;
    throw;
  }
  wrong = oracle.judge(found, time);
  if (!wrong.empty()) throw Failure(wrong);
  // Blank, or from before a format; the oracle knows no more about it.
  if (!formatted || oracle.not_formatted_yet(found, time)) return;
  const uint64_t die = random_() % 1024;
  if (die < 16) return crash_in_recovery(point, found, 2);
  if (die < 32) return go_on(point, found, oracle);
  if (die < 80) return drain(point.device, found);
  if (die < 81) return others_are_untouched(point.device);
}

void Judge::others_are_untouched(const Sectors& device) const {
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark mark = memory.mark();
  {
    const auto session = attach(device, nullptr);
    constexpr uint64_t kStep = 1 << 20;
    for (uint64_t off = 0; off < kProveLogicalBytes; off += kStep) {
      Oracle::Found found;
      if (const std::string wrong = session->read({off, kStep}, &found).text({off, kStep});
          !wrong.empty())
        throw Failure(wrong);
      for (const auto& [sector, version] : found) {
        const bool has_content = base_.device.contains(sector);
        if (version != (has_content ? kEarlierLife : 0) &&
            !std::binary_search(sectors_.begin(), sectors_.end(), sector))
          throw Failure("resurrected: sector " + std::to_string(sector) + " holds version " +
                        std::to_string(version) + ", and was never written");
      }
    }
  }
  memory.rollback(mark);
}

void Judge::crash_in_recovery(const CrashPoint& at, const Oracle::Found& found, int depth) {
  Trace trace;
  recover(at.device, &trace);
  PowerLoss::Options options;
  options.hash = at.hash;
  options.seed = random_();
  options.samples = 3;
  options.most_points = 5;
  options.exhaustive_stores = 3;
  PowerLoss loss(base_.pmem->memory(), trace, at.device, options);
  const UndoMemory::Mark mark = base_.pmem->memory().mark();
  loss.walk(0, [&](const CrashPoint& point) {
    totals_.again++;
    Oracle::Found now;
    recovered(point, &now);
    const std::string wrong = differing(found, now);
    if (!wrong.empty()) throw Failure("lost: after a crash in recovery " + wrong);
    if (depth > 1 && random_() % 16 == 0) crash_in_recovery(point, found, depth - 1);
  });
  base_.pmem->memory().rollback(mark);
}

// One more life after the crash: what it writes must be there after the next crash.
void Judge::go_on(const CrashPoint& at, const Oracle::Found& found, const Oracle& before) {
  const Sectors& device = at.device;
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark start = memory.mark();
  Trace trace;
  Oracle oracle = before;
  oracle.collapse(found, static_cast<Oracle::Time>(at.event));
  {
    const auto session = Session::attach(*base_.pmem, device,
                                         {.trace = &trace,
                                          .oracle = &oracle,
                                          .strict = base_.strict,
                                          .data_crc = base_.data_crc})
                             .take();
    for (int i = 0; i < 2; i++) {
      const uint64_t sector = sectors_[random_() % sectors_.size()];
      if (const int error = session->write({sector * kSectorBytes, kSectorBytes}, PCACHE_REQ_FUA))
        throw Failure("lost: a write after recovery failed: " + std::to_string(error));
    }
    session->stop_tracing();
  }
  memory.rollback(start);
  PowerLoss::Options options;
  options.hash = at.hash;
  options.seed = random_();
  options.samples = 3;
  options.most_points = 5;
  options.exhaustive_stores = 3;
  PowerLoss loss(memory, trace, device, options);
  loss.walk(0, [&](const CrashPoint& point) {
    totals_.again++;
    Oracle::Found now;
    recovered(point, &now);
    const auto time = static_cast<Oracle::Time>(point.event);
    Oracle::Found on_device;
    std::string wrong = read_device(point.device, device_sectors(point.device), &on_device);
    if (wrong.empty() && base_.strict) wrong = oracle.judge_device(on_device, time);
    if (wrong.empty()) wrong = oracle.judge_on_device(on_device, time);
    if (wrong.empty()) wrong = oracle.judge(now, time);
    if (!wrong.empty()) throw Failure(wrong + " (after recovery and a second crash)");
  });
  memory.rollback(start);
}

void Judge::drain(const Sectors& device, const Oracle::Found& found) {
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark mark = memory.mark();
  {
    const auto session = attach(device, nullptr);
    if (const Status drained = session->cache().drain(); !drained)
      throw Failure("lost: drain: " + drained.error().text);
    Oracle::Found on_device;
    std::string wrong = read_device(session->device_sectors(), sectors_, &on_device);
    if (wrong.empty()) wrong = differing(found, on_device);
    if (!wrong.empty()) throw Failure("lost: drained, on the device: " + wrong);
    PCACHE_CHECK(session->cache().set_gc_percent(0).ok());
    session->advance(0);
    wrong = differing(found, read_all(*session));
    if (!wrong.empty()) throw Failure("lost: reclaimed: " + wrong);
    if (const Status closed = session->close(); !closed)
      throw Failure("lost: close: " + closed.error().text);
    check_image_as_it_is(true);
  }
  memory.rollback(mark);
}

}  // namespace pcache
