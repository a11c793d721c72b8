// SPDX-License-Identifier: GPL-2.0-or-later
// TwoSides: what is judged, and by whom.
#include <algorithm>
#include <cstring>

#include "prove/two_sides.h"
#include "testing/lent_device.h"

namespace pcache {

using namespace media;

namespace {

bool is_in(const ReplicaPlace& place, size_t record_bytes, const TraceEvent& store) {
  for (int i = 0; i < 2; i++) {
    const uint64_t at = place.base.v + static_cast<uint64_t>(i) * place.stride;
    if (at <= store.off && store.off + store.len <= at + record_bytes) return true;
  }
  return false;
}

}  // namespace

std::vector<uint64_t> TwoSides::known_sectors(const Oracle& oracle) {
  std::vector<uint64_t> sectors = oracle.sectors();
  const auto add = [&](const Extent& extent) {
    for (uint64_t at = extent.off; at < extent.end(); at += kSectorBytes)
      sectors.push_back(at / kSectorBytes);
  };
  for (const Extent& extent : kWritten) add(extent);
  add(kMissed);
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  return sectors;
}

// Each record has one writer.
void TwoSides::check_owners() const {
  for (const TraceEvent& event : trace_.events()) {
    if (event.kind != TraceEvent::Kind::kStore && event.kind != TraceEvent::Kind::kUnflushed)
      continue;
    const bool is_allowed =
        backends_.contains(event.process)
            ? is_in(dirty_tail_place(), sizeof(TailPos), event)
            : event.off >= kSegmentsOff || is_in(key_tail_place(), sizeof(TailPos), event);
    if (!is_allowed)
      throw Failure(std::string("lost: the ") +
                    (backends_.contains(event.process) ? "backend" : "front") +
                    " has stored to what is not its own, at " + std::to_string(event.off));
  }
}

UndoMemory& TwoSides::rewind() {
  check();
  take_down();
  check_owners();
  if (const std::string wrong = missing_order(trace_); !wrong.empty())
    throw Failure("lost: " + wrong);
  base_.pmem->memory().rollback(begun_);
  return base_.pmem->memory();
}

void TwoSides::lose_power(PowerLoss::Survive survive) {
  UndoMemory& memory = rewind();
  PowerLoss loss(memory, trace_, device_, {.seed = random_(), .hash = hash_});
  loss.walk(trace_.now() + 1, nullptr);
  Sectors left = loss.lose_power(survive);
  hash_ = loss.hash();
  for (auto& [sector, bytes] : left) {
    device_bytes_.emplace_back(bytes, bytes + kSectorBytes);
    bytes = device_bytes_.back().data();
  }
  device_ = std::move(left);
  const auto time = static_cast<Oracle::Time>(trace_.now());
  trace_.clear();
  eras_.clear();
  begun_ = memory.mark();
  const Oracle::Found found = judge_.recover(device_);
  if (const std::string wrong = oracle_.judge(found, time); !wrong.empty()) throw Failure(wrong);
  oracle_.collapse(found, time);
  base_.pmem->set_trace(&trace_);
  make_disk();
  counts_.power_losses++;
}

Oracle::Found TwoSides::read_all(Session& session) const {
  Oracle::Found found;
  for (const Extent& extent : extents_of(judge_.sectors()))
    if (const std::string wrong = session.read(extent, &found).text(extent); !wrong.empty())
      throw Failure(wrong);
  return found;
}

void TwoSides::settle() {
  disk_fails_ = false;
  start(Side::kFront);
  start(Side::kBackend);
  if (const int error = session_->flush(); error && error != ETIMEDOUT)
    throw Failure("lost: a flush failed: " + std::string(strerror(error)));
  // What reclaim moves is in the log anew.
  for (int i = 0; i < 10; i++) {
    backend_steps(100);
    session_->advance(20000);
    if (session_->cache().dirty().live_bytes == 0) break;
  }
  if (session_->cache().dirty().live_bytes > 0)
    throw Failure("lost: the backend has written all, and the front does not know it");
  Oracle::Found on_disk;
  std::string wrong = read_device(disk_sectors(), judge_.sectors(), &on_disk);
  if (wrong.empty() && on_disk != read_all(*session_))
    wrong = "lost: what is written back is not what the front has";
  for (const auto& [sector, version] : on_disk)
    if (wrong.empty() && !oracle_.may_read(sector, version))
      wrong = "lost: the disk's sector " + std::to_string(sector) + " holds version " +
              std::to_string(version) + ", written was " + std::to_string(oracle_.newest(sector));
  if (!wrong.empty()) throw Failure(wrong);
  disk_fails_ = options_.fault_one_in > 0;
}

const Oracle& TwoSides::oracle_at(size_t event) const {
  for (const Era& era : eras_)
    if (event <= era.end) return era.oracle;
  return oracle_;
}

// The same state by a front and a backend, in either order: nobody may refuse it.
void TwoSides::attach_two_sides(const Sectors& device, const Oracle::Found& found) {
  UndoMemory& memory = base_.pmem->memory();
  const UndoMemory::Mark mark = memory.mark();
  std::map<uint64_t, std::vector<std::byte>> now;
  MemoryDevice disk(kProveLogicalBytes);
  disk.set_identity(prove_backing().text, prove_backing().unique);
  for (const auto& [sector, bytes] : device)
    disk.poke(sector * kSectorBytes, {bytes, kSectorBytes});
  {
    std::unique_ptr<Session> session;
    std::unique_ptr<Backend> backend;
    const auto start_one = [&](bool front) {
      if (front) {
        auto attached = Session::attach(
            *base_.pmem, {}, {.data_crc = base_.data_crc, .disk = &disk, .process = ++processes_});
        if (!attached) throw Failure("refused: by a front: " + attached.error().text);
        session = attached.take();
        return;
      }
      Backend::Options options;
      options.strict = base_.strict;
      options.log = Log([](LogLevel, const char*) {});
      auto attached = Backend::attach(options, base_.pmem->make_pmem(++processes_),
                                      std::make_unique<LentDevice>(disk));
      if (!attached) throw Failure("refused: by a backend: " + attached.error().text);
      backend = attached.take();
    };
    const bool front_first = random_() % 2;
    start_one(front_first);
    start_one(!front_first);
    if (read_all(*session) != found) throw Failure("lost: a front finds something else");
    for (int i = 0; i < 10; i++) {
      for (auto step = backend->step();; step = backend->step()) {
        if (!step) throw Failure("lost: the backend: " + step.error().text);
        if (!Backend::has_moved(step.value())) break;
      }
      session->advance(20000);
      if (session->cache().dirty().live_bytes == 0) break;
    }
    if (session->cache().dirty().live_bytes > 0)
      throw Failure("lost: the backend has written all, and the front does not know it");
    if (read_all(*session) != found)
      throw Failure("lost: written back, a front finds something else");
  }
  for (const uint64_t sector : judge_.sectors()) {
    const auto bytes = disk.peek(sector * kSectorBytes, kSectorBytes);
    if (Oracle::version_of(sector, bytes.data()) != found.at(sector))
      throw Failure("lost: written back, the disk's sector " + std::to_string(sector) +
                    " holds something else");
  }
  memory.rollback(mark);
}

void TwoSides::examine(size_t most_points) {
  UndoMemory& memory = rewind();
  PowerLoss::Options options;
  options.most_points = most_points;
  options.seed = random_();
  options.hash = hash_;
  PowerLoss loss(memory, trace_, device_, options);
  loss.walk(0, [&](const CrashPoint& point) {
    const Oracle& oracle = oracle_at(point.event);
    judge_.look(point, oracle);
    if (random_() % 32 != 0) return;
    totals_.again++;
    attach_two_sides(point.device, judge_.recover(point.device));
  });
  totals_.points += loss.points();
  totals_.sequences++;
  for (const auto& [kind, n] : faults_.counts()) totals_.faults[kind] += n;
}

}  // namespace pcache
