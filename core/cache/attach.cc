// SPDX-License-Identifier: GPL-2.0-or-later
// Cache: the steps of an attach, in their order.
#include <time.h>

#include <algorithm>
#include <bit>

#include "base/mutants.h"
#include "cache/cache.h"

namespace pcache {

namespace {

// As many stripes as there can be: threads with regions of their own share none up to 2 GiB. For
// each stripe a FLUSH looks at two cache lines, and closes a kset if one is open.
constexpr uint32_t kStripes = Stripes::kMost;

// To which the backing device may grow while it is attached: that costs 17 GiB of address space for
// each TiB, twice that with data_crc, and no memory.
uint64_t most_backing_bytes(uint64_t bytes) {
  constexpr uint64_t kTimes = 4, kAtLeast = uint64_t{1} << 40;
  return std::max(bytes <= UINT64_MAX / kTimes ? kTimes * bytes : bytes, kAtLeast);
}

BackingIdentity identity_of(const BlockDevice& device) {
  return {device.identity().text, device.size_bytes(), device.identity().unique};
}

}  // namespace

Status Cache::probe() {
  auto state = probe_device(*devices_.pmem);
  if (!state) return state.error();
  blank_ = state.value() == DeviceState::kBlank;
  if (blank_ && options_.readonly)
    return make_error(EINVAL,
                      "cache device is blank, and readonly=1 formats nothing: attach it without "
                      "readonly first, or name the cache that you mean");
  return {};
}

// A file is created, or made longer, only for a new cache.
Status Cache::check_cache_size() {
  const uint64_t asked = options_.pmem.create_bytes;
  if (asked == 0) return {};
  const uint64_t bytes = devices_.pmem->size_bytes();
  if (blank_ && asked < bytes)
    messages_.print(LogLevel::kNotice,
                    "option cache_size: the cache file has %llu bytes already, more than %llu: all "
                    "of it is used",
                    static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(asked));
  if (blank_) return {};
  media::Superblock sb;
  if (!devices_.pmem->load(&sb, MediaOff{media::kSuperblockOff}, sizeof sb))
    return make_error(EIO, "superblock at 4096: media error (the only copy)");
  const uint32_t segments = segments_of_device(asked);
  if (segments > sb.seg_num)
    return make_error(EINVAL,
                      "option cache_size: %llu bytes are %u segments of 16 MiB, the cache was "
                      "formatted with %u; leave the option out, or make the cache larger with "
                      "pcachectl resize",
                      static_cast<unsigned long long>(asked), segments, sb.seg_num);
  if (segments < sb.seg_num)
    messages_.print(LogLevel::kNotice,
                    "option cache_size: %llu bytes are %u segments of 16 MiB, the cache has %u: it "
                    "is used as it is, and never made smaller",
                    static_cast<unsigned long long>(asked), segments, sb.seg_num);
  return {};
}

// A front knows no disk, only what its backend serves: that has to be as large.
Status Cache::check_front() const {
  if (blank_)
    return make_error(EINVAL,
                      "cache device is blank, and role=front formats nothing: pcachectl format, "
                      "and start the backend");
  const auto identity = load_identity(*devices_.pmem);
  if (!identity) return identity.error();
  const uint64_t served = devices_.backing->size_bytes();
  if (!identity.value())
    return make_error(EXDEV,
                      "the cache does not say which disk it belongs to: pcachectl identity set "
                      "does");
  if (identity.value()->backing_bytes == served) return {};
  return make_error(EXDEV,
                    "the cache belongs to a backing device of %llu bytes, the server's has %llu: "
                    "name the server of that one, or if it has grown attach once with role=both",
                    static_cast<unsigned long long>(identity.value()->backing_bytes),
                    static_cast<unsigned long long>(served));
}

Status Cache::check_identity() {
  if (options_.front) return check_front();
  Pmem& pmem = *devices_.pmem;
  const BackingIdentity backing = identity_of(*devices_.backing);
  const auto to_write = [&] {
    new_identity_ = make_identity(backing, static_cast<uint64_t>(time(nullptr)));
    return Status();
  };
  const bool made_later = pmem.size_bytes() < media::kSuperblockOff;  // so it reads as zeros
  const FirstPage page = made_later ? FirstPage::kZeros : first_page(pmem);
  first_page_is_ours_ = page == FirstPage::kZeros || page == FirstPage::kOurs;
  if (page == FirstPage::kForeign) {
    messages_.print(LogLevel::kNotice,
                    "the first 4 KiB hold something that is not ours (a partition table, a file "
                    "system?): left as it is, and the cache taken as belonging to %s without a "
                    "record of that; pcachectl identity set overwrites it",
                    backing.text.c_str());
    return {};
  }
  auto identity = made_later ? std::optional<media::Identity>() : load_identity(pmem);
  if (!identity) {
    const bool writes = first_page_is_ours_ && !options_.readonly;
    if (!options_.force)
      return make_error(identity.error().code,
                        "%s; force=1 to attach all the same, if %s is the cache's backing device",
                        identity.error().text.c_str(), backing.text.c_str());
    messages_.print(LogLevel::kWarning, "%s: %s (force)", identity.error().text.c_str(),
                    writes ? "written anew" : "attached all the same, and not written");
    return writes ? to_write() : Status();
  }
  if (!identity.value()) {
    if (!blank_)
      messages_.print(LogLevel::kNotice,
                      "the cache has no identity block (made by the kernel target?): taken as "
                      "belonging to %s",
                      backing.text.c_str());
    return to_write();
  }
  auto same = compare_identity(*identity.value(), backing);
  if (same || hazard(Hazard::kNoIdentity)) return {};
  const bool grown = has_grown(*identity.value(), backing);
  if (grown && backing.unique) {
    messages_.print(LogLevel::kNotice,
                    "the backing device has grown from %llu to %llu bytes: all of it is used",
                    static_cast<unsigned long long>(identity.value()->backing_bytes),
                    static_cast<unsigned long long>(backing.size_bytes));
    // A first attach records a size unsynced: it asks nothing of a device, which may fail or hang.
    if (!options_.readonly)
      if (auto synced = devices_.backing->sync_size(); !synced) return synced;
    new_identity_ = with_size(*identity.value(), backing.size_bytes);
    return {};
  }
  if (!options_.force)
    return make_error(
        same.error().code, "%s; %s", same.error().text.c_str(),
        grown ? "if it is the same one, and has grown: pcachectl identity set"
              : "force=1 to attach all the same (what it holds then goes to this disk)");
  messages_.print(LogLevel::kWarning, "%s: attached all the same (force)",
                  same.error().text.c_str());
  return to_write();
}

Status Cache::load_frame_and_options() {
  if (blank_) {
    frame_ = frame_of_blank(devices_.pmem->size_when_ready(), format_options());
  } else {
    auto frame = load_frame(*devices_.pmem, messages_);
    if (!frame) return frame.error();
    frame_ = frame.take();
  }
  PCACHE_CHECK(frame_.chain.size() == frame_.info.n_segs && frame_.info.n_segs <= frame_.seg_num);
  const std::string unused = unused_text(devices_.pmem->size_when_ready(), frame_.info.n_segs);
  if (!unused.empty()) messages_.print(LogLevel::kWarning, "%s", unused.c_str());
  if (options_.data_crc && *options_.data_crc != frame_.info.data_crc)
    return make_error(
        EINVAL,
        "option data_crc: %d was asked for, the cache was formatted with %d; leave the option "
        "out or format anew",
        *options_.data_crc, frame_.info.data_crc);
  if (options_.gc_percent) frame_.info.gc_percent = *options_.gc_percent;
  if (options_.mode) frame_.info.mode = *options_.mode;
  mode_.set(frame_.info.mode);
  return {};
}

FormatOptions Cache::format_options() const {
  FormatOptions format;
  format.data_crc = options_.data_crc.value_or(false);
  format.gc_percent = options_.gc_percent.value_or(media::kGcPercentDefault);
  format.mode = options_.mode.value_or(CacheMode::kWriteback);
  return format;
}

Status Cache::recover_log() {
  recovery_.device_bytes = devices_.backing->size_bytes();
  recovery_.most_bytes = most_backing_bytes(recovery_.device_bytes);
  recovery_.block_bytes = devices_.backing->logical_block_bytes();
  recovery_.stripes = kStripes;
  recovery_.log_reserve = log_reserve_segments(frame_.info.n_segs);
  recovery_.most_segments = segments_of_device(devices_.pmem->most_bytes());
  recovery_.verify_data = options_.check_at_attach;
  recovery_.threads = recovery_threads(*devices_.pmem);
  recovery_.flush_seen = !options_.readonly;  // begin_log() has the fence
  if (blank_) return recover_blank(*devices_.pmem, frame_, recovery_, &recovered_);
  if (auto done = recover(*devices_.pmem, frame_, recovery_, messages_, &recovered_); !done)
    return done;
  if (options_.front && recovered_.dirty_tail_guessed)
    return make_error(
        EUCLEAN,
        "dirty_tail's newest record is lost, and so what is written back: attach once "
        "with role=both, which writes all of it again");
  return accept_copied_kset();
}

// To write back the older data, or to reclaim, would lose what export --force can still find.
Status Cache::accept_copied_kset() const {
  const std::string& copied = recovered_.copied_kset;
  if (copied.empty()) return {};
  if (!options_.readonly && !options_.force)
    return make_error(EUCLEAN,
                      "%s; take what is there with readonly=1 or pcachectl export --force, or "
                      "force=1 to attach all the same; see pcachectl check",
                      copied.c_str());
  messages_.print(LogLevel::kError, "%s; see pcachectl check", copied.c_str());
  return {};
}

uint64_t Cache::kept_bytes(uint32_t segments, uint32_t gc_percent) {
  const uint32_t percent = std::max<uint32_t>(gc_percent, policy::kLeastCapacityPercent);
  return gc_threshold_segments(segments, percent) * media::kSegmentBytes;
}

Status Cache::wire() {
  PCACHE_CHECK(recovered_.segments && recovered_.index);
  // check_range() takes a remainder by these bits.
  PCACHE_CHECK(std::has_single_bit(devices_.backing->logical_block_bytes()) &&
               devices_.backing->size_bytes() % devices_.backing->logical_block_bytes() == 0);
  const LogMark head{recovered_.replayed.head, recovered_.replayed.dirty_ksets,
                     recovered_.replayed.dirty_bytes};
  log_ =
      std::make_unique<KeyLog>(*devices_.pmem, *recovered_.segments, head,
                               options_.readonly ? KeyLog::Use::kReadOnly : KeyLog::Use::kAppend);
  stripes_ = std::make_unique<Stripes>(kStripes, *log_);
  // What is attached readonly keeps what it has.
  retention_ = std::make_unique<policy::Retention>(
      options_.readonly ? policy::PolicyKind::kFifo : options_.policy,
      devices_.pmem->size_when_ready(), kept_bytes(frame_.info.n_segs, frame_.info.gc_percent),
      devices_.pmem->most_bytes());
  zeros_ = std::make_unique<ZeroBacklog>(uint64_t{frame_.info.n_segs} * media::kSegDataBytes,
                                         recovered_.replayed.dirty_zero_bytes);
  parts_ = std::make_unique<const Parts>(
      Parts{.pmem = *devices_.pmem,
            .segments = *recovered_.segments,
            .index = *recovered_.index,
            .log = *log_,
            .stripes = *stripes_,
            .tails = recovered_.tails,
            .backing = *devices_.backing,
            .retention = *retention_,
            .messages = messages_,
            .data_crc = frame_.info.data_crc,
            .readonly = options_.readonly,
            .follows = options_.front,
            .logical_bytes = devices_.backing->size_bytes(),
            .block_bytes = devices_.backing->logical_block_bytes(),
            .max_extent_bytes = frame_.info.data_crc ? kCrcExtentBytes : kRangeBytes,
            .zeros = zeros_.get(),
            .mode = &mode_});
  requests_ = std::make_unique<RequestState>(*parts_, data_heads(frame_.info.n_segs));
  requests_->set_seq_cutoff_bytes(options_.seq_cutoff_bytes);
  requests_->set_read_ahead_bytes(options_.read_ahead_bytes);
  requests_->deferred().set_to_device(mode_.answers().acks_on_device);
  return wire_background();
}

// Connects background, which frees segments, and request, which waits for them.
Status Cache::wire_background() {
  Writeback::Options writing;
  writing.strict = options_.strict_order;
  if (!options_.readonly)
    writing.threads = WriteOuts::threads_for(devices_.pmem->kind(), *devices_.backing);
  writing.progress = [this](uint64_t bytes) {
    requests_->pace().grant(bytes);
    requests_->deferred().run_writes();
  };
  writing.data_lost = [this](int error) {
    media_errors_.data_lost();
    requests_->data_lost(error);
  };
  writing.waits = &requests_->acks();
  auto writeback = Writeback::create(*parts_, writing);
  if (!writeback) return writeback.error();
  writeback_ = writeback.take();
  reclaim_ = std::make_unique<Reclaim>(*parts_);
  Worker::Options working;
  working.flush_delay = Worker::Milliseconds{options_.flush_delay_ms};
  working.writeback_interval = Worker::Milliseconds{options_.writeback_interval_ms};
  working.gc_percent = frame_.info.gc_percent;
  working.dirty_limits = dirty_limits_of(options_.dirty).value();
  working.waiting_requests = [this] { return requests_->deferred().count(); };
  working.waits_for_writeback = [this] { return requests_->deferred().waits_for_writeback(); };
  working.retry_requests = [this] { requests_->deferred().run(); };
  working.fail_requests = [this](int error) { requests_->deferred().fail_all(error); };
  working.set_pace = [this](bool on) { requests_->pace().set(on); };
  working.waits = &requests_->acks();
  if (options_.front) doorbell_ = std::make_unique<Doorbell>(Doorbell::Side::kFront);
  working.bell = doorbell_.get();
  Executor& main = *devices_.executor;
  Executor& write = devices_.writeback_executor ? *devices_.writeback_executor : main;
  worker_ = std::make_unique<Worker>(*parts_, *writeback_, *reclaim_, main, write, working);
  requests_->deferred().set_wake([this] { worker_->request_waits(); });
  requests_->acks().set_wake([this] { worker_->device_awaited(); });
  recovered_.segments->set_events(
      {[this](SegId seg) {
         retention_->forget_marks(recovered_.segments->media({seg, 0}), media::kSegDataBytes);
         worker_->space_taken();
       },
       [this] { worker_->space_freed(); },
       [this](SegId seg, MediaOff at) { media_errors_.segment_retired(seg, at); }});
  if (options_.readonly) return {};
  worker_->prepare();
  devices_.executor->every(SpaceWatch::kLook, [this] {
    if (attached_.load(std::memory_order_acquire))
      space_watch_.look(sample_space(worker_->state()));
  });
  return {};
}

// The last step that can be refused, but for a blank device: the next ones undo nothing.
Status Cache::make_ready() {
  if (options_.readonly) return {};
  if (auto ready = devices_.pmem->make_ready(blank_); !ready) return ready;
  if (!blank_)
    if (auto begun = begin_log(); !begun) return begun;
  devices_.pmem->keep();
  return {};
}

// If this fails nothing was stored but zeros over the header at the log head, which was no kset.
Status Cache::begin_log() {
  PCACHE_CHECK(!options_.readonly && !attached_.load());
  log_->clear_head();
  if (log_->failed()) {
    const CachePos head = log_->head();
    return make_error(EIO,
                      "log at segment %u:%u: media error: the log cannot go on; take what is there "
                      "with pcachectl export",
                      head.seg.v, head.off);
  }
  // Called in an attached cache. Writes that are done at once do not look at the log, so this ends
  // them all.
  log_->set_on_failed([this](const Error& error) {
    requests_->deferred().close();
    worker_->request_waits();
    worker_->device_awaited();
    media_errors_.log_failed(error);
  });
  return {};
}

Status Cache::format_if_blank() {
  if (!blank_) return {};
  PCACHE_CHECK(!options_.readonly && recovered_.replayed.ksets == 0);
  if (auto formatted = format_device(*devices_.pmem, format_options()); !formatted)
    return formatted;
  return load_formatted(*devices_.pmem, &frame_, recovery_, &recovered_);
}

Status Cache::write_attached() {
  Pmem& pmem = *devices_.pmem;
  if (blank_)
    if (auto begun = begin_log(); !begun) return begun;
  // The cache can go on without each of the records here.
  const auto warn = [this](const Status& written) {
    if (!written) messages_.print(LogLevel::kWarning, "%s", written.error().text.c_str());
  };
  // A fresh format stays as the kernel target leaves it. These records are the backend's.
  if (!blank_ && !options_.front) {
    clear_format_mark(pmem);
    warn(write_cache_info(pmem, frame_));
  }
  if (new_identity_) warn(write_identity(pmem, *new_identity_));
  recovered_.segments->persist_raised();
  return {};
}

// If a test has set the device's methods there is nothing to choose.
void Cache::choose_persist() try {
  PCACHE_CHECK(!attached_.load());  // no other thread stores yet
  Pmem& pmem = *devices_.pmem;
  if (options_.pmem.persist != kPersistAuto || pmem.kind() == PmemKind::kSimulated ||
      pmem.kind() == PmemKind::kBlock)
    return;
  calibration_ = load_calibration(pmem);
  if (!calibration_) {
    constexpr unsigned kRounds = 8;
    auto measured = pmem.calibrate(kRounds);
    if (!measured)
      return messages_.print(LogLevel::kWarning, "persist=auto: not measured: %s",
                             measured.error().text.c_str());
    calibration_ = measured.take();
    const auto stored =
        first_page_is_ours_ && !options_.front
            ? store_calibration(pmem, *calibration_, static_cast<uint64_t>(time(nullptr)))
            : make_error(EEXIST, "the first 4 KiB are not ours to write to");
    if (!stored && !options_.front)  // whose backend has that page
      messages_.print(LogLevel::kWarning, "persist=auto: %s: not remembered",
                      stored.error().text.c_str());
    messages_.print(LogLevel::kNotice, "persist=auto: measured on this memory: %s",
                    calibration_->text().c_str());
  }
  pmem.use(calibration_->chosen());
} catch (const std::bad_alloc&) {
  calibration_.reset();  // keeps the method that it was opened with
  messages_.print(LogLevel::kWarning, "persist=auto: not measured: out of memory");
}

}  // namespace pcache
