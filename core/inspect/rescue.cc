// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/rescue.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "inspect/new_file.h"
#include "segment/media_crc.h"

namespace pcache {

namespace {

constexpr uint64_t kChunkBytes = kRangeBytes;  // a lookup must not cross one

struct FreeDeleter {
  void operator()(std::byte* p) const { free(p); }
};
using Buffer = std::unique_ptr<std::byte, FreeDeleter>;

bool all_zero(const std::byte* p, size_t n) {
  return n == 0 || (p[0] == std::byte{0} && memcmp(p, p + 1, n - 1) == 0);
}

// Writes zeros for the parts that are skipped.
class Stream {
 public:
  Stream(int fd, const std::string& name) : fd_(fd), name_(name) {}

  Status write(uint64_t off, const std::byte* data, size_t len_bytes) {
    PCACHE_CHECK(off >= at_);
    if (auto padded = pad(off); !padded) return padded;
    at_ += len_bytes;
    while (len_bytes > 0) {
      const ssize_t n = ::write(fd_, data, len_bytes);
      if (n < 0 && (errno == EINTR || can_go_on())) continue;
      if (n <= 0) return error_errno(n < 0 ? errno : EIO, "%s: cannot be written", name_.c_str());
      data += n;
      len_bytes -= static_cast<size_t>(n);
    }
    return {};
  }
  Status pad(uint64_t to) {
    static constexpr std::byte kZeros[256 << 10] = {};
    while (at_ < to) {
      const uint64_t n = std::min<uint64_t>(to - at_, sizeof kZeros);
      if (auto written = write(at_, kZeros, n); !written) return written;
    }
    return {};
  }

 private:
  // After a failed write: stdout may be a pipe that is non-blocking. Waits for room in it.
  bool can_go_on() const {
    if (errno != EAGAIN) return false;
    pollfd room{fd_, POLLOUT, 0};
    return poll(&room, 1, -1) > 0 || errno == EINTR;
  }

  const int fd_;
  const std::string& name_;
  uint64_t at_ = 0;
};

class Rescuer {
 public:
  Rescuer(Pmem& pmem, const BackingReader& backing, CheckReport* report,
          const RescueOptions& options)
      : pmem_(pmem), backing_(backing), report_(*report), options_(options) {}

  Result<RescueResult> run() {
    if (report_.frame.other_version || (!options_.force && report_.exit_code() == 2))
      return untrusted();
    if (!options_.force && report_.frame.blank)
      return make_error(EINVAL,
                        "the image is blank, not formatted: --force to export the backing device "
                        "alone");
    if (auto found = find_index(); !found) return found.error();
    result_.lost_bytes += report_.log.lost.bytes();
    if (auto copied = options_.stream >= 0 ? to_stream() : to_file(); !copied)
      return copied.error();
    PCACHE_CHECK(result_.dirty_bytes <= result_.cached_bytes);
    return result_;
  }

 private:
  Status to_file() {
    auto file = NewFile::create(options_.to);
    if (!file) return file.error();
    if (auto sized = file.value().resize(backing_.size_bytes()); !sized) return sized;
    const auto write = [&](uint64_t off, const std::byte* data, size_t len_bytes) {
      return file.value().write(off, data, len_bytes);
    };
    if (auto copied = copy_all(write); !copied) return copied;
    if (auto whole = refuse_loss("nothing is exported"); !whole) return whole;
    return file.value().publish();
  }

  Status to_stream() {
    Stream stream(options_.stream, options_.to);
    const auto write = [&](uint64_t off, const std::byte* data, size_t len_bytes) {
      return stream.write(off, data, len_bytes);
    };
    if (auto copied = copy_all(write); !copied) return copied;
    if (auto padded = stream.pad(backing_.size_bytes()); !padded) return padded;
    return refuse_loss("what was written is not whole");
  }

  Status refuse_loss(const char* result) const {
    if (result_.lost_bytes == 0 || options_.force) return {};
    return make_error(EUCLEAN,
                      "%llu bytes of dirty data cannot be read: %s; --force to take the rest",
                      static_cast<unsigned long long>(result_.lost_bytes), result);
  }

  // The first loss; the wrong device comes before all others, since --force does not help there.
  Error untrusted() const {
    const Finding* first = nullptr;
    for (const Finding& finding : report_.findings.all())
      if (finding.severity == Severity::kLost && (!first || finding.code == "other-backing"))
        first = &finding;
    const std::string why = first ? first->where + ": " + first->text : "see pcachectl check";
    if (report_.frame.other_version) return make_error(EUCLEAN, "%s", why.c_str());
    const uint64_t more = report_.findings.count(Severity::kLost) - (first ? 1 : 0);
    return make_error(
        EUCLEAN, "nothing is exported: %s%s; --force takes what can be had%s", why.c_str(),
        more ? (" (and " + std::to_string(more) + " more, see pcachectl check)").c_str() : "",
        first && first->code == "other-backing" ? ", which may be a mixture" : "");
  }

  // The index of recover(), or one of the sound keys in log order.
  Status find_index() {
    if (report_.frame.blank) return {};
    if (report_.attaches && report_.recovered) {
      index_ = report_.recovered->index.get();
      segments_ = report_.recovered->segments.get();
      with_crc_ = report_.frame.frame.info.data_crc;
      return {};
    }
    if (!report_.log.segments) return {};
    with_crc_ = report_.frame.frame.info.data_crc;
    auto index = Index::create({backing_.size_bytes(), 4, with_crc_});
    if (!index) return index.error();
    own_index_ = index.take();
    Findings again;  // known already
    Status inserted;
    const Bounds bounds{static_cast<uint32_t>(report_.frame.frame.chain.size()),
                        backing_.size_bytes(), kSectorBytes};
    own_log_ = survey_log(pmem_, report_.frame, bounds, &again, [&](const SurveyedKset& kset) {
      for (const SurveyedKey& k : kset.keys)
        if (inserted) inserted = apply(k);
      if (inserted &&
          own_index_->mapped_bytes() > bounds.n_segs * uint64_t{media::kSegDataBytes} + zero_bytes_)
        inserted = make_error(EUCLEAN, "the log's keys name more data than the cache can hold");
    });
    if (!inserted) return inserted;
    index_ = own_index_.get();
    segments_ = own_log_.segments.get();
    return {};
  }

  Status apply(const SurveyedKey& k) {
    const Extent extent{k.key.off, k.key.len};
    const IndexAlone alone;
    switch (k.state) {
      case KeyState::kInvalid:  // its data cannot be found, and older data is wrong
        return lose_range(k);
      case KeyState::kDead:  // its data is newer, and on the backing device
        return own_index_->erase(extent);
      case KeyState::kLive:
        break;
    }
    const CachePos pos{SegId{k.key.cache_seg_id}, k.key.cache_seg_off};
    const bool zeros = k.key.flags & media::kKeyZeros;
    if (zeros && !k.dirty) return own_index_->erase(extent);  // on the backing device
    if (zeros) zero_bytes_ += extent.len;
    return own_index_->insert(extent, Location{pos, !k.dirty, k.key.data_crc, zeros});
  }

  Status lose_range(const SurveyedKey& k) {
    media::Key elsewhere = k.key;  // checks the range alone
    elsewhere.cache_seg_id = elsewhere.cache_seg_off = elsewhere.flags = 0;
    elsewhere.seg_gen = 0;
    if (!validate_key(elsewhere, {1, backing_.size_bytes()})) return {};
    if (k.dirty) {
      result_.lost_bytes += k.key.len;
      report_.findings.add(Severity::kLost, "lost-range", "range",
                           "%llu+%u: its newest key is bad; the backing device's data is put there",
                           static_cast<unsigned long long>(k.key.off), k.key.len);
    }
    const IndexAlone alone;
    return own_index_->erase({k.key.off, k.key.len});
  }

  using Write = std::function<Status(uint64_t off, const std::byte* data, size_t len_bytes)>;

  // The start of the next chunk that the backing file or the cache has data for.
  uint64_t next_content(uint64_t off) {
    if (next_data_ <= off) next_data_ = backing_.next_data(off);
    uint64_t next = next_data_ / kChunkBytes * kChunkBytes;
    const std::set<uint64_t>& ranges = own_index_ ? own_log_.ranges : report_.log.ranges;
    const auto cached = index_ ? ranges.lower_bound(off / kChunkBytes) : ranges.end();
    if (cached != ranges.end()) next = std::min(next, *cached * kChunkBytes);
    return std::max(next, off);
  }

  Status copy_all(const Write& write) {
    buffer_.reset(static_cast<std::byte*>(std::aligned_alloc(kMostDirectIoBytes, kChunkBytes)));
    if (!buffer_) return make_error(ENOMEM, "no memory for a buffer");
    for (uint64_t off = next_content(0); off < backing_.size_bytes();
         off = next_content(off + kChunkBytes)) {
      const Extent chunk{off, std::min(kChunkBytes, backing_.size_bytes() - off)};
      PCACHE_CHECK(chunk.off % kRangeBytes == 0);
      if (auto read = read_backing(chunk); !read) return read;
      if (index_) overlay(chunk);
      if (auto written = write_sparse(write, chunk); !written) return written;
      if (options_.progress) options_.progress(chunk.end(), backing_.size_bytes());
    }
    return {};
  }

  Status read_backing(const Extent& chunk) {
    memset(buffer_.get(), 0, chunk.len);
    if (backing_.next_data(chunk.off) >= chunk.end()) return {};  // a hole
    const uint64_t block = std::max<uint64_t>(kPageBytes, backing_.block_bytes());
    for (uint64_t done = 0, step = chunk.len; done < chunk.len;) {
      const int64_t n =
          backing_.read(chunk.off + done, buffer_.get() + done, std::min(step, chunk.len - done));
      if (n == -EINTR) continue;
      if (n > 0) {
        done += static_cast<uint64_t>(n);
        continue;
      }
      const int error = n < 0 ? static_cast<int>(-n) : EIO;
      const auto at = static_cast<unsigned long long>(chunk.off + done);
      if (!options_.force)
        return error_errno(error, "backing device %s: cannot be read at %llu",
                           backing_.path().c_str(), at);
      if (step > block) {  // block by block from here
        step = block;
        continue;
      }
      report_.findings.add(Severity::kLost, "backing-unreadable", "backing device",
                           "range %llu+%llu cannot be read (errno %d); zeros are put there where "
                           "the cache has nothing",
                           at, static_cast<unsigned long long>(block), error);
      done += block;
    }
    return {};
  }

  void overlay(const Extent& chunk) {
    for (uint64_t at = chunk.off; at < chunk.end();) {
      Piece pieces[64];
      Index::Snapshot snapshot;
      const size_t n = index_->lookup({at, chunk.end() - at}, pieces, &snapshot);
      PCACHE_CHECK(n > 0 && pieces[n - 1].extent.end() > at);
      for (size_t i = 0; i < n; i++)
        if (pieces[i].kind == Piece::Kind::kHit) put(chunk, pieces[i]);
      at = pieces[n - 1].extent.end();
    }
  }

  void put(const Extent& chunk, const Piece& piece) {
    const bool sound = !with_crc_ || piece.zeros ||
                       media_crc(pmem_, *segments_, piece.whole_pos, piece.whole_len) == piece.crc;
    if (!sound) return lose(piece, piece.extent);
    if (take(chunk, piece, piece.extent)) return;
    // A piece merges neighbours: this loses as few sectors as possible.
    for (uint64_t at = piece.extent.off; at < piece.extent.end(); at += kSectorBytes)
      if (const Extent sector{at, kSectorBytes}; !take(chunk, piece, sector)) lose(piece, sector);
  }

  bool take(const Extent& chunk, const Piece& piece, const Extent& part) {
    PCACHE_CHECK(part.off >= chunk.off && part.end() <= chunk.end());
    const CachePos pos = piece.pos + static_cast<uint32_t>(part.off - piece.extent.off);
    spare_.resize(part.len);
    if (piece.zeros)
      memset(spare_.data(), 0, part.len);
    else if (!pmem_.load(spare_.data(), segments_->media(pos), part.len))
      return false;
    memcpy(buffer_.get() + (part.off - chunk.off), spare_.data(), part.len);
    result_.cached_bytes += part.len;
    if (!piece.clean) result_.dirty_bytes += part.len;
    return true;
  }

  void lose(const Piece& piece, const Extent& part) {
    if (piece.clean) return;  // the backing device has it
    result_.lost_bytes += part.len;
    if (report_.attaches) return;  // check has reported it
    const CachePos pos = piece.pos + static_cast<uint32_t>(part.off - piece.extent.off);
    report_.findings.add(Severity::kLost, "bad-dirty-data", "data at segment " + position_text(pos),
                         "range %llu+%llu cannot be read or fails its crc",
                         static_cast<unsigned long long>(part.off),
                         static_cast<unsigned long long>(part.len));
  }

  Status write_sparse(const Write& write, const Extent& chunk) {
    constexpr uint64_t kStep = 64 << 10;
    for (uint64_t done = 0; done < chunk.len; done += kStep) {
      const uint64_t n = std::min(kStep, chunk.len - done);
      if (all_zero(buffer_.get() + done, n)) continue;
      if (auto written = write(chunk.off + done, buffer_.get() + done, n); !written) return written;
    }
    return {};
  }

  Pmem& pmem_;
  const BackingReader& backing_;
  CheckReport& report_;
  const RescueOptions& options_;
  std::unique_ptr<Index> own_index_;
  LogSurvey own_log_;
  const Index* index_ = nullptr;  // nullptr: nothing is cached
  const SegmentTable* segments_ = nullptr;
  bool with_crc_ = false;
  uint64_t zero_bytes_ = 0;  // that keys of zeros name
  uint64_t next_data_ = 0;   // of the backing file
  Buffer buffer_;
  std::vector<std::byte> spare_;
  RescueResult result_;
};

}  // namespace

Result<RescueResult> rescue(Pmem& pmem, const BackingReader& backing, CheckReport* report,
                            const RescueOptions& options) {
  return Rescuer(pmem, backing, report, options).run();
}

}  // namespace pcache
