// SPDX-License-Identifier: GPL-2.0-or-later
#include "backend/backend.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "background/plan.h"
#include "base/mutants.h"
#include "base/range_set.h"
#include "keylog/log_cursor.h"
#include "recovery/recover.h"
#include "segment/identity.h"

namespace pcache {

namespace {

// Of data as appended: so much may be written again after a crash.
constexpr uint64_t kBatchBytes = 8 << 20;
// A front stores a kset in microseconds: what looks damaged for so many looks is.
constexpr uint32_t kMostBadLooks = 1000;

// The log up to where it ends now. What it gives is durable.
class SeenKsets final : public KsetSource {
 public:
  SeenKsets(const Pmem& pmem, SegmentTable& segments, CachePos from, const Bounds& bounds)
      : pmem_(pmem), segments_(segments), bounds_(bounds), cursor_(pmem, segments, from) {}
  Result<LogItem> next() override {
    auto item = cursor_.next();
    if (!item || item.value().kind == LogItem::Kind::kEnd) return item;
    const LogItem& kset = item.value();
    for (const media::Key& key : kset.keys)
      if (Status fits = check(key, kset.pos); !fits) return fits.error();
    const size_t bytes = sizeof(media::KsetHeader) + kset.keys.size_bytes();
    pmem_.persist_seen(segments_.media(kset.pos), bytes);
    return item;
  }
  // What is behind dirty_tail keeps its segment, so the record is not being changed: it was durable
  // before the key. A record that is lost leaves an older generation.
  bool is_live(const media::Key& key) const override {
    const SegId seg{key.cache_seg_id};
    return key.seg_gen == segments_.generation(seg) ||
           (!hazard(Hazard::kGenerationsNotReloaded) &&
            key.seg_gen >= segments_.reload_generation(seg));
  }

 private:
  const Pmem& pmem_;
  // A disk with larger blocks cannot take what a server with smaller ones has let the front write.
  Status check(const media::Key& key, CachePos pos) const {
    if (Status valid = validate_key(key, bounds_); !valid)
      return make_error(EUCLEAN, "log at segment %u:%u: %s", pos.seg.v, pos.off,
                        valid.error().text.c_str());
    if ((key.off | key.len) % bounds_.block_bytes == 0 || key.flags & media::kKeyClean) return {};
    return make_error(EINVAL,
                      "range %llu+%u cannot be written to a disk with blocks of %u bytes: have the "
                      "server that the front reads by offer blocks of that size",
                      static_cast<unsigned long long>(key.off), key.len, bounds_.block_bytes);
  }

  SegmentTable& segments_;
  const Bounds bounds_;
  LogCursor cursor_;
};

// Whether two keys name one byte of pmem, and so the same data.
bool share_a_place(const media::Key& a, const media::Key& b) {
  return a.cache_seg_id == b.cache_seg_id && a.seg_gen == b.seg_gen &&
         a.cache_seg_off < b.cache_seg_off + b.len && b.cache_seg_off < a.cache_seg_off + a.len;
}

}  // namespace

Result<std::unique_ptr<Backend>> Backend::open(const Options& options) {
  if (is_same_device(options.pmem.path, options.disk.path))
    return make_error(EINVAL, "%s: is given both as the cache device and as the disk",
                      options.pmem.path.c_str());
  auto disk = open_block_device(options.disk, options.log);
  if (!disk) return disk.error();
  PmemOptions pmem_options = options.pmem;
  pmem_options.side = PmemSide::kBackend;
  pmem_options.keep_sparse = true;
  auto pmem = Pmem::open(pmem_options, options.log);
  if (!pmem) return pmem.error();
  auto backend = attach(options, pmem.take(), disk.take());
  if (!backend)
    return make_error(backend.error().code, "%s: %s", options.pmem.path.c_str(),
                      backend.error().text.c_str());
  return backend;
}

Result<std::unique_ptr<Backend>> Backend::attach(const Options& options, std::unique_ptr<Pmem> pmem,
                                                 std::unique_ptr<BlockDevice> disk) {
  std::unique_ptr<Backend> backend(new Backend(options, std::move(pmem), std::move(disk)));
  if (auto loaded = backend->load(); !loaded) return loaded.error();
  return backend;
}

Backend::Backend(const Options& options, std::unique_ptr<Pmem> pmem,
                 std::unique_ptr<BlockDevice> disk)
    : options_(options), pmem_(std::move(pmem)), disk_(std::move(disk)) {}

Status Backend::load() try {
  const auto state = probe_device(*pmem_);
  if (!state) return state.error();
  if (state.value() == DeviceState::kBlank)
    return make_error(EINVAL, "cache device is blank: pcachectl format it, with --backing");
  const auto identity = load_identity(*pmem_);
  if (!identity) return identity.error();
  if (!identity.value())
    return make_error(EXDEV,
                      "the cache does not say which disk it belongs to: pcachectl identity set "
                      "does, if it is this one");
  const BackingIdentity found{disk_->identity().text, disk_->size_bytes()};
  if (auto same = compare_identity(*identity.value(), found); !same)
    return make_error(same.error().code, "%s%s", same.error().text.c_str(),
                      has_grown(*identity.value(), found)
                          ? "; if it is the same one, and has grown: pcachectl identity set"
                          : "");
  auto frame = load_frame(*pmem_, options_.log);
  if (!frame) return frame.error();
  frame_ = frame.take();
  bounds_ = {frame_.info.n_segs, disk_->size_bytes(), disk_->logical_block_bytes()};
  if (auto loaded = tails_.load(*pmem_, bounds_); !loaded) return loaded;
  // A backend that was killed may have left a dirty_tail that is not durable, and the next one is
  // stored over the other. The fence is that of the next kset that is seen.
  flush_records(*pmem_);
  // A front has done the same when it was attached, and stores to it now.
  if (!pmem_->front_is_there())
    if (auto sound = check_image(); !sound) return sound;
  segments_ = std::make_unique<SegmentTable>(*pmem_, SegmentTable::Options{frame_.chain});
  auto out = WriteOuts::create({*pmem_, *segments_, *disk_, frame_.info.data_crc}, {}, 1);
  if (!out) return out.error();
  out_ = out.take();
  at_.pos = tails_.dirty_tail();
  return {};
} catch (const std::bad_alloc&) {
  return out_of_memory();
}

// What replay makes is not kept.
Status Backend::check_image() const {
  RecoverOptions options;
  options.device_bytes = bounds_.device_bytes;
  options.block_bytes = bounds_.block_bytes;
  options.stripes = 64;
  options.threads = recovery_threads(*pmem_);
  Recovered recovered;
  if (auto done = recover(*pmem_, frame_, options, options_.log, &recovered); !done) return done;
  if (recovered.dirty_tail_guessed)
    return make_error(EUCLEAN,
                      "dirty_tail's newest record is lost, and so what is written back: attach "
                      "once with role=both, which writes all of it again");
  if (recovered.copied_kset.empty()) return {};
  return make_error(EUCLEAN, "%s; see pcachectl check", recovered.copied_kset.c_str());
}

// Without what a plan costs: there is nothing at all where the log would go on. All else a cursor
// tells.
bool Backend::log_ends() const {
  static constexpr media::KsetHeader kZeros{};
  media::KsetHeader header;
  return pmem_->load(&header, segments_->media(at_.pos), sizeof header) &&
         memcmp(&header, &kZeros, sizeof header) == 0;
}

void Backend::give_up() {
  out_->give_up(true);
  disk_->give_up();
}

Status Backend::plan(uint64_t end_ksets) {
  SeenKsets log(*pmem_, *segments_, at_.pos, bounds_);
  PlanOptions options;
  options.from = at_;
  options.end_ksets = end_ksets;
  options.batch_bytes = kBatchBytes;
  options.zeros_count = !out_->makes_holes();
  options.strict = options_.strict;
  options.ends_with_log = true;
  return make_plan(log, options, &plan_);
}

// The first key of the plan whose data is damaged and still counts. Of what later keys of the log
// have overwritten dirty_tail passes the damage, as if the disk had it: these are durable then. A
// key that names damaged data again has overwritten nothing.
std::optional<media::Key> Backend::find_damaged(const WrittenBatch& written) {
  const std::vector<media::Key>& keys = plan_.batch.keys();
  RangeSet left;
  for (const DirtyBatch::Piece& piece : plan_.pieces)
    if (std::binary_search(written.bad_keys.begin(), written.bad_keys.end(), piece.key))
      left.add(piece.extent);
  SeenKsets log(*pmem_, *segments_, plan_.end.pos, bounds_);
  while (!left.empty()) {
    const auto item = log.next();
    // What is wrong there a plan meets.
    if (!item || item.value().kind == LogItem::Kind::kEnd) break;
    for (const media::Key& key : item.value().keys) {
      if (key.flags & media::kKeyClean || !log.is_live(key)) continue;
      const bool again = std::any_of(written.bad_keys.begin(), written.bad_keys.end(),
                                     [&](uint32_t bad) { return share_a_place(keys[bad], key); });
      if (!again) left.remove({key.off, key.len});
    }
  }
  for (const uint32_t bad : written.bad_keys)
    for (const auto& [first, end] : left.ranges())
      if (keys[bad].off < end && first < keys[bad].off + keys[bad].len) return keys[bad];
  return std::nullopt;
}

// From dirty_tail up to the kset that has the key.
uint64_t Backend::ksets_in_front_of(const media::Key& key) const {
  LogCursor cursor(*pmem_, *segments_, at_.pos, {.until = plan_.end.pos});
  for (uint64_t ksets = 0;;) {
    const auto item = cursor.next();
    if (!item || item.value().kind == LogItem::Kind::kEnd) return 0;
    for (const media::Key& each : item.value().keys)
      if (memcmp(&each, &key, sizeof key) == 0) return ksets;
    ksets += item.value().kind == LogItem::Kind::kKeys;
  }
}

// All that the log has, or one batch of it; where data is damaged, what is in front of that.
Status Backend::write_up_to_damage() {
  std::optional<media::Key> damaged;
  if (auto written = write(&damaged); !written || !damaged) return written;
  const uint64_t ksets = ksets_in_front_of(*damaged);
  std::optional<media::Key> more;
  if (ksets == 0) {
    stuck_at_ = at_.ksets;
  } else {
    if (auto planned = plan(at_.ksets + ksets); !planned) return planned;
    if (auto written = write(&more); !written || !more) return written;
    damaged = more;
  }
  return make_error(
      EIO,
      "the data of range %llu+%u is damaged (segment %u:%u), is not written to the disk, and keeps "
      "what is behind it: overwrite it; or end the front, and attach with role=both, which goes on",
      static_cast<unsigned long long>(damaged->off), damaged->len, damaged->cache_seg_id,
      damaged->cache_seg_off);
}

Status Backend::write(std::optional<media::Key>* damaged) {
  WrittenBatch written = nothing_written(plan_);
  const WriteResult result = write_plan(*out_, plan_, {}, &written);
  if (result.error)
    return error_errno(result.error, "disk %s: writing back failed", options_.disk.path.c_str());
  if (!written.bad_keys.empty()) {
    *damaged = find_damaged(written);
    if (*damaged) return {};
    counters_.overwritten_keys += written.bad_keys.size();
  }
  if (written.unflushed && !hazard(Hazard::kBackendSkipsFlush)) {
    counters_.flushes++;
    out_->begin_flush();
    if (const int error = out_->end_flush())
      return error_errno(error, "disk %s: its flush failed", options_.disk.path.c_str());
  }
  counters_.written_bytes += plan_.planned_bytes;
  return {};
}

// A segment's generations are read anew: those that step() goes by are its own.
Backend::Left Backend::left() const {
  constexpr uint64_t kMostKsets = 1 << 16;
  const SegmentTable segments(*pmem_, SegmentTable::Options{frame_.chain});
  LogCursor cursor(*pmem_, segments, tails_.dirty_tail());
  Left left;
  for (;;) {
    const auto item = cursor.next();
    if (!item || item.value().kind == LogItem::Kind::kEnd) return left;
    if (item.value().kind == LogItem::Kind::kLast) continue;
    if (left.ksets == kMostKsets) {
      left.is_all = false;
      return left;
    }
    left.ksets++;
    for (const media::Key& key : item.value().keys) {
      if (!validate_key(key, bounds_)) return left;
      if (!(key.flags & media::kKeyClean) &&
          key.seg_gen == segments.generation(SegId{key.cache_seg_id}))
        left.bytes += key.len;
    }
  }
}

// To the log's end, as far as it was not seen yet; of a log of gigabytes a part at a time, since
// nothing else is done meanwhile.
void Backend::look_ahead() {
  constexpr int kMostAhead = 1 << 14;
  if (seen_.ksets <= at_.ksets) seen_ = at_;
  LogCursor cursor(*pmem_, *segments_, seen_.pos);
  for (int ksets = 0; ksets < kMostAhead; ksets++) {
    const auto item = cursor.next();
    // What is wrong there a plan meets.
    if (!item || item.value().kind == LogItem::Kind::kEnd) return;
    seen_.pos = item.value().next;
    seen_.ksets += item.value().kind == LogItem::Kind::kKeys;
    if (!item.value().passes) continue;
    passable_ = item.value().passes;
    said_at_ = item.value().pos;
  }
}

// It was said of a dirty_tail that is behind this one: this one was set back since, by hand or with
// an older copy of its record. Of what is between the two the log alone may know.
void Backend::disbelieve(const PassStatement& said, uint64_t ksets) {
  if (counters_.disbelieved++ > 0) return;
  options_.log.print(
      LogLevel::kWarning,
      "log at segment %u:%u: says that %u ksets up to %u:%u need not be written, and from "
      "dirty_tail there are %llu: dirty_tail was set back; all of them are written",
      said_at_.seg.v, said_at_.off, said.ksets, said.end.seg.v, said.end.off,
      static_cast<unsigned long long>(ksets));
}

// The keys that supersede what is passed were durable before that kset was stored. A position that
// is not met on the way there is behind dirty_tail: another one of its name may come.
Result<bool> Backend::pass() try {
  if (log_ends()) return false;
  look_ahead();
  const auto said = std::exchange(passable_, std::nullopt);
  if (!said || said->end == at_.pos) return false;
  LogMark at = at_;
  LogCursor cursor(*pmem_, *segments_, at_.pos, {.until = said_at_});
  while (at.pos != said->end && !hazard(Hazard::kStalePassTaken)) {
    const auto item = cursor.next();
    if (!item || item.value().kind == LogItem::Kind::kEnd) return false;
    at.pos = item.value().next;
    at.ksets += item.value().kind == LogItem::Kind::kKeys;
  }
  if (const uint64_t ksets = at.ksets - at_.ksets;
      ksets > said->ksets && !hazard(Hazard::kSetBackTailPassed)) {
    disbelieve(*said, ksets);
    return false;
  }
  at.pos = said->end;
  if (auto moved = tails_.set_dirty_tail(*pmem_, at.pos); !moved) {
    counters_.errors++;
    return moved.error();
  }
  counters_.passed_ksets += at.ksets - at_.ksets;
  at_ = at;
  return true;
} catch (const std::bad_alloc&) {
  return out_of_memory();
}

Result<Backend::Step> Backend::step() try {
  if (log_ends()) {
    bad_looks_ = 0;
    return Step::kNothing;
  }
  const auto passed = pass();
  if (!passed) return passed.error();
  if (passed.value()) return Step::kPassed;
  // What is behind damage is not written again and again.
  const bool is_stuck = stuck_at_ == at_.ksets;
  if (auto planned = plan(is_stuck ? at_.ksets + 1 : UINT64_MAX); !planned) {
    // What of a segment's former life stands there looks valid to who knows its former generation.
    segments_->load_generations();
    if (planned.error().code == EUCLEAN && ++bad_looks_ < kMostBadLooks) return Step::kUnclear;
    counters_.errors++;
    return planned.error();
  }
  bad_looks_ = 0;
  if (plan_.empty()) {
    at_.pos = plan_.end.pos;  // the log has gone on to another segment, and has nothing there yet
    return Step::kNothing;
  }
  if (auto written = write_up_to_damage(); !written) {
    counters_.errors++;
    return written.error();
  }
  if (auto moved = tails_.set_dirty_tail(*pmem_, plan_.end.pos); !moved) {
    counters_.errors++;
    return moved.error();
  }
  if (hazard(Hazard::kBackendMovesKeyTail)) (void)tails_.set_key_tail(*pmem_, plan_.end.pos);
  counters_.batches++;
  counters_.ksets += plan_.end.ksets - plan_.begin.ksets;
  counters_.keys += plan_.batch.keys().size();
  at_ = plan_.end;
  return Step::kMoved;
} catch (const std::bad_alloc&) {
  counters_.errors++;
  return out_of_memory();
}

}  // namespace pcache
