// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/recover.h"

#include <algorithm>
#include <map>

#include "base/crew.h"
#include "keylog/kset_search.h"
#include "recovery/kset_copies.h"
#include "segment/media_crc.h"

namespace pcache {

using media::Key;

namespace {

Result<std::unique_ptr<Index>> create_index(const RecoverOptions& options,
                                            const DeviceFrame& frame) {
  return Index::create({.device_bytes = options.device_bytes,
                        .stripes = options.stripes,
                        .with_crc = frame.info.data_crc,
                        .most_bytes = options.most_bytes});
}

Status replay_into(Pmem& pmem, const DeviceFrame& frame, const RecoverOptions& options,
                   const Bounds& bounds, bool raise, Recovered* out) {
  out->segments = std::make_unique<SegmentTable>(
      pmem, SegmentTable::Options{frame.chain, options.log_reserve, true, options.most_segments});
  auto index = create_index(options, frame);
  if (!index) return index.error();
  out->index = index.take();
  if (raise)
    if (auto raised = raise_generations(pmem, *out->segments, out->tails, bounds); !raised)
      return raised;
  auto replayed = replay(pmem, *out->segments, *out->index, out->tails, bounds, options.threads,
                         options.flush_seen);
  if (!replayed) return replayed.error();
  out->replayed = replayed.take();
  return {};
}

// Keys of a generation that nobody has made durable would look as if its record had been lost.
void flush_generations(const Pmem& pmem, const DeviceFrame& frame) {
  for (const uint32_t physical : frame.chain) {
    const MediaOff records = segment_gen_place(physical).base;
    if (pmem.readable(records, 2 * sizeof(media::SegmentGen)))
      pmem.flush_seen(records, 2 * sizeof(media::SegmentGen));
  }
}

// Reports the bytes that a user must restore from elsewhere: attach serves the backing device's.
void tell_lost(const ReplayResult& replayed, bool dirty_tail_known, const Log& messages) {
  if (replayed.lost.empty()) return;
  const auto& [first, end] = *replayed.lost.ranges().begin();
  messages.print(LogLevel::kError,
                 "%llu dirty keys behind %s are of a generation that is gone: %llu bytes in %zu "
                 "ranges%s lost, "
                 "the first is %llu+%llu; pcachectl check names them",
                 static_cast<unsigned long long>(replayed.dead_dirty_keys),
                 dirty_tail_known ? "dirty_tail" : "key_tail",
                 static_cast<unsigned long long>(replayed.lost.bytes()), replayed.lost.size(),
                 dirty_tail_known ? " are" : ", if they had not been written back, are",
                 static_cast<unsigned long long>(first),
                 static_cast<unsigned long long>(end - first));
}

void tell_torn_tail(const Pmem& pmem, const Recovered& recovered, const Log& messages) {
  const CachePos end = recovered.replayed.head;
  if (const auto further = kset_behind_garbage(pmem, *recovered.segments, end))
    messages.print(
        LogLevel::kError,
        "the log ends at segment %u:%u in something that no crash leaves, and valid ksets "
        "follow at %u: left from an earlier life of the segment, or acknowledged and lost; "
        "see pcachectl check",
        end.seg.v, end.off, further->off);
  else
    messages.print(LogLevel::kNotice,
                   "the log ends in a torn kset at segment %u:%u, as a crash leaves it", end.seg.v,
                   end.off);
}

// Whether the kset's data is sound. That of damaged keys, which writeback appends again, is not.
// Without a crc a bad page that was cleared looks sound, so one key alone counts as appended again.
bool is_over_sound_data(const Pmem& pmem, const SegmentTable& segments, std::span<const Key> keys,
                        bool with_crc) {
  if (!with_crc && keys.size() == 1) return false;
  bool live = false;
  for (const Key& key : keys) {
    const CachePos pos{SegId{key.cache_seg_id}, key.cache_seg_off};
    if (key.seg_gen != segments.generation(pos.seg)) continue;
    const auto crc = media_crc(pmem, segments, pos, key.len);
    if (with_crc && crc == key.data_crc) return true;
    if (!with_crc && !crc) return false;
    live = true;
  }
  return live && !with_crc;
}

std::string text_of(CachePos pos) {
  return std::to_string(pos.seg.v) + ":" + std::to_string(pos.off);
}

// Replay takes the copy's keys in log order, as export --force does, so all that could be read
// before can be read. The kset under the copy is lost, and ksets between the two may be newer than
// the copy.
std::string find_copy(const Pmem& pmem, const Recovered& recovered, bool with_crc) {
  const std::vector<uint64_t>& repeated = recovered.replayed.repeated;
  if (repeated.empty()) return {};
  std::map<uint64_t, CachePos> first;  // by print
  LogCursor cursor(pmem, *recovered.segments, recovered.tails.key_tail());
  for (auto next = cursor.next(); next && next.value().kind != LogItem::Kind::kEnd;
       next = cursor.next()) {
    const LogItem& item = next.value();
    const uint64_t print = KsetCopies::print_of(item.crc, item.keys);
    if (item.keys.empty() || !std::binary_search(repeated.begin(), repeated.end(), print)) continue;
    const auto [at, is_new] = first.emplace(print, item.pos);
    if (is_new || !is_over_sound_data(pmem, *recovered.segments, item.keys, with_crc)) continue;
    return "log at segment " + text_of(item.pos) + ": the kset from " + text_of(at->second) +
           " stands here again: what it was copied over is lost, and older data is in its place";
  }
  return {};
}

}  // namespace

unsigned recovery_threads(const Pmem& pmem) {
  return pmem.kind() == PmemKind::kSimulated ? 1 : Crew::cpus();
}

Status recover_blank(Pmem& pmem, const DeviceFrame& frame, const RecoverOptions& options,
                     Recovered* out) {
  PCACHE_CHECK(!out->segments && !out->index);
  out->segments = std::make_unique<SegmentTable>(
      pmem, SegmentTable::Options{frame.chain, options.log_reserve, false, options.most_segments});
  auto index = create_index(options, frame);
  if (!index) return index.error();
  out->index = index.take();
  out->replayed.head = CachePos{};
  out->replayed.dirty_tail_met = true;
  out->segments->replay_log_segment(out->replayed.head.seg);
  return {};
}

Status load_formatted(Pmem& pmem, DeviceFrame* frame, const RecoverOptions& options,
                      Recovered* out) {
  PCACHE_CHECK(out->segments && out->segments->size() == frame->info.n_segs);
  if (!frame->info_record.load(pmem))
    return make_error(EIO, "cache_info: cannot be read after it was formatted");
  out->segments->load_generations();
  return out->tails.load(pmem, Bounds{frame->info.n_segs, options.device_bytes});
}

Status recover(Pmem& pmem, const DeviceFrame& frame, const RecoverOptions& options,
               const Log& messages, Recovered* out) {
  PCACHE_CHECK(!out->segments && !out->index);
  const Bounds bounds{frame.info.n_segs, options.device_bytes, options.block_bytes};
  if (auto loaded = out->tails.load(pmem, bounds); !loaded) return loaded;
  if (options.flush_seen) flush_records(pmem);
  if (auto done = replay_into(pmem, frame, options, bounds, false, out); !done) return done;
  if (options.flush_seen) flush_generations(pmem, frame);
  if (out->replayed.generations_lost) {
    messages.print(LogLevel::kWarning,
                   "a segment's newest generation record is lost; taken from the log instead");
    if (auto done = replay_into(pmem, frame, options, bounds, true, out); !done) return done;
    PCACHE_CHECK(!out->replayed.generations_lost);
  }
  const bool dirty_tail_known = out->replayed.dirty_tail_met;
  if (!dirty_tail_known) {
    messages.print(LogLevel::kWarning,
                   "dirty_tail's newest record is lost and the other stands before key_tail: "
                   "everything counts as dirty");
    out->tails.take_all_as_dirty();
    out->dirty_tail_guessed = true;
    if (auto done = replay_into(pmem, frame, options, bounds, true, out); !done) return done;
    PCACHE_CHECK(out->replayed.dirty_tail_met);
  }
  // The next header goes there.
  PCACHE_CHECK(out->replayed.head.off <= media::kSegDataBytes - sizeof(media::KsetHeader));
  tell_lost(out->replayed, dirty_tail_known, messages);
  if (out->replayed.torn_tail) tell_torn_tail(pmem, *out, messages);
  out->copied_kset = find_copy(pmem, *out, frame.info.data_crc);
  if (!frame.info.data_crc || !options.verify_data) return {};
  auto verified = verify_replayed(pmem, *out->segments, *out->index, out->tails, messages,
                                  options.threads, options.verify_progress);
  if (!verified) return verified.error();
  out->verified = verified.take();
  return {};
}

}  // namespace pcache
