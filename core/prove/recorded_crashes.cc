// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/recorded_crashes.h"

#include <algorithm>
#include <cstring>

#include "prove/judge.h"
#include "testing/image.h"

namespace pcache {

namespace {

// What the log still has of its segment when the replay begins: it ends in the middle of it.
constexpr uint32_t kLogLeftBytes = 48 << 10;
constexpr uint64_t kBesideBytes = 128 << 10;
constexpr size_t kRequestsBeside = 4;  // of the recording, to one write beside it
constexpr int kMsOfRequest[] = {0, 0, 10, 50, 200};

uint64_t sum_of_generations(const Cache& cache) {
  uint64_t sum = 0;
  for (uint32_t seg = 0; seg < cache.segments().size(); seg++)
    sum += cache.segments().generation(SegId{seg});
  return sum;
}

// A FLUSH, a write and a FLUSH in a row are what the kernel makes of a write with PREFLUSH and FUA
// for a device that has no FUA.
std::vector<Recording::Request> with_fua(const std::vector<Recording::Request>& requests) {
  using Kind = Recording::Kind;
  std::vector<Recording::Request> out;
  for (size_t i = 0; i < requests.size(); i++) {
    out.push_back(requests[i]);
    if (i + 2 >= requests.size() || requests[i].kind != Kind::kFlush ||
        requests[i + 1].kind != Kind::kWrite || requests[i + 2].kind != Kind::kFlush)
      continue;
    out.back() = requests[i + 1];
    out.back().preflush = out.back().fua = true;
    i += 2;
  }
  return out;
}

}  // namespace

RecordedCrashes::RecordedCrashes(const Recording& recording, const Options& options)
    : recording_(recording),
      options_(options),
      random_(options.seed),
      pmem_(device_bytes(kProveSegments)),
      model_(kRecordedBytes) {}

std::unique_ptr<Session> RecordedCrashes::attach(const Sectors& device, Trace* trace) {
  auto session = Session::attach(
      pmem_, device, {.trace = trace, .strict = options_.strict, .data_crc = options_.data_crc});
  if (!session) throw Failure("refused: " + session.error().text);
  return session.take();
}

// Its content is the "earlier life's" everywhere, which no file system takes for its own.
void RecordedCrashes::grow_old() {
  const auto session = attach({}, nullptr);
  const auto write = [&](uint64_t off, uint64_t len, uint32_t flags) {
    auto data = Oracle::content(kEarlierLife, off, len);
    pcache_request request{PCACHE_OP_WRITE, flags, off, len, data.data(), 0, 0, nullptr};
    PCACHE_CHECK(session->submit(&request) == 0);
    pmem_.memory().forget();
  };
  const Cache& cache = session->cache();
  constexpr uint64_t kLong = 1 << 20;
  uint64_t at = 0;
  const auto next = [&at](uint64_t len) {
    const uint64_t off = at % kProveLogicalBytes;
    at += len;
    return off;
  };
  const auto fill_log = [&] {
    while (cache.log().head().off + kLogLeftBytes < media::kSegDataBytes)
      write(next(kSectorBytes), kSectorBytes, PCACHE_REQ_FUA);
  };
  fill_log();
  at = 0;
  for (uint32_t free = UINT32_MAX, now; (now = cache.segments().counts().free) <= free; free = now)
    write(next(kLong), kLong, 0);
  fill_log();  // with data_crc those had many keys
  PCACHE_CHECK(session->cache().drain().ok() && session->close().ok());
  for (const auto& [sector, bytes] : session->device_sectors()) {
    device_bytes_.emplace_back(bytes, bytes + kSectorBytes);
    device_[sector] = device_bytes_.back().data();
  }
}

void RecordedCrashes::replay() {
  grow_old();
  pmem_.memory().forget();
  begun_ = pmem_.memory().mark();
  const auto session = attach(device_, &trace_);
  Cache& cache = session->cache();
  PCACHE_CHECK(cache.set_gc_percent(options_.gc_percent).ok());
  const uint64_t generations = sum_of_generations(cache);
  SegId log = cache.log().head().seg;
  size_t n = 0;
  const std::vector<Recording::Request> requests =
      options_.fua ? with_fua(recording_.requests()) : recording_.requests();
  for (const Recording::Request& request : requests) {
    if (request.kind == Recording::Kind::kMark) {
      if (marks_.empty() && !cache.drain().ok()) throw Failure("lost: drain");
      trace_.add(TraceEvent::Kind::kMark);
      marks_.push_back(trace_.now());
      trace_.add(TraceEvent::Kind::kMark);  // a point
      continue;
    }
    do_request(*session, request);
    if (++n % kRequestsBeside == 0) write_beside(*session);
    pass_time(*session);
    counts_.log_segments += cache.log().head().seg != log;
    log = cache.log().head().seg;
  }
  counts_.events = trace_.now();
  counts_.written_back = cache.writeback().counters().written_bytes;
  counts_.superseded = cache.writeback().counters().superseded_bytes;
  counts_.reclaimed_ksets = cache.reclaim().counters().ksets;
  counts_.freed_segments = sum_of_generations(cache) - generations;
  session->stop_tracing();
  compare(*session, {0, kRecordedBytes});
  if (marks_.empty()) throw Failure("the recording has no mark");
}

void RecordedCrashes::do_request(Session& session, const Recording::Request& request) {
  using Kind = Recording::Kind;
  const Extent& extent = request.extent;
  const auto in_model = model_.begin() + static_cast<ptrdiff_t>(extent.off);
  const uint32_t flags =
      (request.fua ? PCACHE_REQ_FUA : 0u) | (request.preflush ? PCACHE_REQ_PREFLUSH : 0u);
  pcache_request todo{PCACHE_OP_WRITE, flags, extent.off, extent.len, nullptr, 0, 0, nullptr};
  std::vector<std::byte> data(request.data.begin(), request.data.end());
  todo.buf = data.data();
  switch (request.kind) {
    case Kind::kRead:
      return compare(session, extent);
    case Kind::kWrite:
      std::copy(data.begin(), data.end(), in_model);
      break;
    case Kind::kTrim:
    case Kind::kZero:
      todo.op = request.kind == Kind::kTrim ? PCACHE_OP_DISCARD : PCACHE_OP_WRITE_ZEROES;
      std::fill_n(in_model, extent.len, std::byte{0});
      break;
    case Kind::kFlush:
      todo.op = PCACHE_OP_FLUSH;
      break;
    case Kind::kMark:
      PCACHE_CHECK(!"a mark is no request");
  }
  if (const int result = session.submit(&todo))
    throw Failure("lost: a request of the recording failed: " + std::to_string(result));
}

// Reads before anything is written there give the earlier life's data, which the model has not.
void RecordedCrashes::compare(Session& session, const Extent& extent) {
  std::vector<std::byte> data(extent.len);
  pcache_request read{PCACHE_OP_READ, 0, extent.off, extent.len, data.data(), 0, 0, nullptr};
  if (const int result = session.submit(&read))
    throw Failure("lost: a read failed: " + std::to_string(result));
  for (uint64_t at = 0; at < extent.len; at += kSectorBytes) {
    const std::byte* found = data.data() + at;
    if (memcmp(found, model_.data() + extent.off + at, kSectorBytes) == 0) continue;
    const auto never_written = Oracle::content(kEarlierLife, extent.off + at, kSectorBytes);
    if (memcmp(found, never_written.data(), kSectorBytes) == 0 && marks_.empty()) continue;
    throw Failure("lost: sector " + std::to_string((extent.off + at) / kSectorBytes) +
                  " is not as it was written, without a crash");
  }
}

void RecordedCrashes::write_beside(Session& session) {
  constexpr uint64_t kPlaces = (kProveLogicalBytes - kRecordedBytes) / kBesideBytes;
  const uint64_t off = kRecordedBytes + random_() % kPlaces * kBesideBytes;
  auto data = Oracle::content(++beside_, off, kBesideBytes);
  pcache_request request{PCACHE_OP_WRITE, 0, off, kBesideBytes, data.data(), 0, 0, nullptr};
  if (const int result = session.submit(&request))
    throw Failure("lost: a write failed: " + std::to_string(result));
}

void RecordedCrashes::pass_time(Session& session) {
  const size_t begin = trace_.now();
  session.advance(kMsOfRequest[random_() % std::size(kMsOfRequest)]);
  if (trace_.now() > begin) background_.push_back({begin, trace_.now()});
}

bool RecordedCrashes::in_background(size_t event) const {
  const auto behind =
      std::upper_bound(background_.begin(), background_.end(), event,
                       [](size_t e, const Range& range) { return e < range.begin; });
  return behind != background_.begin() && event < std::prev(behind)->end;
}

std::vector<size_t> RecordedCrashes::choose_points() {
  std::vector<size_t> foreground, background, chosen;
  const auto& events = trace_.events();
  for (size_t i = marks_.front(); i < events.size(); i++) {
    using Kind = TraceEvent::Kind;
    const Kind kind = events[i].kind;
    if (kind == Kind::kFence || kind == Kind::kFenceThreads || kind == Kind::kDeviceFlush)
      (in_background(i) ? background : foreground).push_back(i);
  }
  const auto some = [&](const std::vector<size_t>& of, size_t n) {
    std::sample(of.begin(), of.end(), std::back_inserter(chosen), n, random_);
  };
  some(background, options_.points / 2);
  some(marks_, options_.points / 4);
  some(foreground, options_.points - options_.points / 2 - options_.points / 4);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

void RecordedCrashes::recover(const Sectors& device, State* state) {
  UndoMemory& memory = pmem_.memory();
  const UndoMemory::Mark mark = memory.mark();
  state->device = MemoryDevice::pattern(0, kRecordedBytes);
  for (const auto& [sector, bytes] : device)
    if (sector * kSectorBytes < kRecordedBytes)
      memcpy(state->device.data() + sector * kSectorBytes, bytes, kSectorBytes);
  state->content.resize(kRecordedBytes);
  try {
    const auto session = attach(device, nullptr);
    pcache_request read{PCACHE_OP_READ, 0, 0, kRecordedBytes, state->content.data(), 0, 0, nullptr};
    if (const int result = session->submit(&read))
      state->failed = "lost: a read failed: " + std::to_string(result);
  } catch (const Failure& failure) {
    state->failed = failure.what();
  }
  if (!state->failed.empty()) state->content.clear();
  memory.rollback(mark);
}

void RecordedCrashes::visit(const std::function<bool(size_t)>& wanted, const Visit& visit) {
  UndoMemory& memory = pmem_.memory();
  memory.rollback(begun_);
  const std::vector<size_t> points = choose_points();
  PowerLoss::Options options;
  options.exhaustive_words = options.exhaustive_stores = 0;
  options.samples = 2;
  options.each_alone = false;
  options.seed = options_.seed;
  options.wanted = [&](size_t event) {
    return std::binary_search(points.begin(), points.end(), event);
  };
  PowerLoss loss(memory, trace_, device_, options);
  size_t number = 0;
  loss.walk(marks_.front(), [&](const CrashPoint& point) {
    if (point.state != 0 && random_() % 4 != 0) return;
    State state;
    state.number = number++;
    state.event = point.event;
    state.state = point.state;
    if (!wanted(state.number)) return;
    const auto behind = std::upper_bound(marks_.begin(), marks_.end(), point.event);
    state.marks = static_cast<size_t>(behind - marks_.begin());
    state.background = in_background(point.event);
    recover(point.device, &state);
    visit(state);
  });
}

}  // namespace pcache
