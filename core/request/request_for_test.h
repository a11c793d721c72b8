// SPDX-License-Identifier: GPL-2.0-or-later
// Everything a request needs, over memory. The test is the only thread unless it makes more.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "keylog/log_cursor.h"
#include "request/queue.h"
#include "testing/image.h"
#include "testing/memory_device.h"

namespace pcache {

struct RequestOptions {
  uint32_t segments = 8;
  uint32_t log_reserve = 1;
  bool data_crc = false;
  bool readonly = false;
  uint32_t block_bytes = 512;
  uint64_t logical_bytes = 32 << 20;
  uint64_t max_index_blocks = 0;
  uint32_t log_head = 0;  // in segment 0; near its end the log is soon full
};

class RequestTest : public ::testing::Test {
 protected:
  using Bytes = std::vector<std::byte>;

  // Once more: over a new image.
  void start(const RequestOptions& o = {}) {
    stop();
    image_ = std::make_unique<Image>(o.segments, FormatOptions{o.data_crc});
    device_ = std::make_unique<MemoryDevice>(o.logical_bytes, o.block_bytes);
    table_ = image_->table(o.log_reserve);
    const SegId log_segment = *table_->take_for_log();
    index_ = Index::create({o.logical_bytes, 4, o.data_crc, o.max_index_blocks}).take();
    log_ = std::make_unique<KeyLog>(image_->pmem(), *table_,
                                    LogMark{CachePos{log_segment, o.log_head}});
    log_start_ = log_->head();
    stripes_ = std::make_unique<Stripes>(4, *log_);
    messages_ = lines_.log();
    zeros_ = std::make_unique<ZeroBacklog>(uint64_t{o.segments} * media::kSegDataBytes);
    state_ = std::make_unique<RequestState>(
        Parts{.pmem = image_->pmem(),
              .segments = *table_,
              .index = *index_,
              .log = *log_,
              .stripes = *stripes_,
              .tails = tails_,
              .backing = *device_,
              .retention = retention_,
              .messages = messages_,
              .data_crc = o.data_crc,
              .readonly = o.readonly,
              .logical_bytes = o.logical_bytes,
              .block_bytes = o.block_bytes,
              .max_extent_bytes = o.data_crc ? kCrcExtentBytes : kRangeBytes,
              .zeros = zeros_.get(),
              .mode = &mode_},
        1);
    queue_ = make_queue();
    image_->memory().checkpoint();
  }
  std::unique_ptr<Queue> make_queue(uint32_t depth = 16) {
    return Queue::create(*state_, set_, depth).take();
  }
  void stop() {
    queue_.reset();
    state_.reset();
    stripes_.reset();
    log_.reset();
  }
  void TearDown() override { stop(); }

  // Requests that must complete in submit().
  int submit_now(pcache_request request) {
    EXPECT_EQ(queue_->submit(&request), 1);
    return request.result;
  }
  int write(uint64_t off, const Bytes& data, uint32_t flags = 0) {
    return submit_now({PCACHE_OP_WRITE, flags, off, data.size(),
                       const_cast<std::byte*>(data.data()), 0, 0, nullptr});
  }
  // As Cache::set_mode(), which keeps it on the media besides.
  void set_mode(CacheMode mode) {
    mode_.set(mode);
    state_->deferred().set_to_device(answers_of(mode).acks_on_device);
  }
  int flush() { return submit_now({PCACHE_OP_FLUSH, 0, 0, 0, nullptr, 0, 0, nullptr}); }

  struct Read {
    pcache_request request{};
    Bytes data;
    int submitted = -1;
  };
  std::unique_ptr<Read> submit_read(Queue& queue, uint64_t off, uint64_t len) {
    auto read = std::make_unique<Read>();
    read->data.assign(len, std::byte{0xdd});
    read->request = {PCACHE_OP_READ, 0, off, len, read->data.data(), 1, 0, nullptr};
    read->submitted = queue.submit(&read->request);
    return read;
  }
  std::unique_ptr<Read> submit_read(uint64_t off, uint64_t len) {
    return submit_read(*queue_, off, len);
  }
  // How many came out, without waiting.
  static int reap(Queue& queue) {
    pcache_request* done[64];
    return queue.reap(done, 0, 64, 0);
  }
  // A read from start to end, with the device free to complete.
  Bytes read(uint64_t off, uint64_t len, int expected = 0) {
    auto read = submit_read(off, len);
    if (read->submitted == 0) {
      pcache_request* done = nullptr;
      EXPECT_EQ(queue_->reap(&done, 1, 1, -1), 1);
      EXPECT_EQ(done, &read->request);
    }
    EXPECT_EQ(read->request.result, expected);
    return read->data;
  }

  static Bytes filled(uint64_t len, int value) { return Bytes(len, std::byte(value)); }
  static Bytes device_bytes(uint64_t off, uint64_t len) { return MemoryDevice::pattern(off, len); }
  // As a string of one digit a sector: the value written there, 'd' for the device's, '?' for
  // neither.
  static std::string sectors(uint64_t off, const Bytes& data) {
    std::string text;
    for (size_t at = 0; at < data.size(); at += kSectorBytes) {
      const Bytes sector(data.begin() + at, data.begin() + at + kSectorBytes);
      if (sector == device_bytes(off + at, kSectorBytes))
        text += 'd';
      else if (sector == filled(kSectorBytes, int(sector[0])) && int(sector[0]) < 10)
        text += static_cast<char>('0' + int(sector[0]));
      else
        text += '?';
    }
    return text;
  }
  std::string read_sectors(uint64_t off, uint64_t len) { return sectors(off, read(off, len)); }
  // What a lookup shows, one letter a sector: . miss, C clean, D dirty, f fill.
  std::string mapped(uint64_t off, uint64_t len) {
    std::string text;
    for (uint64_t at = off; at < off + len; at += kSectorBytes) {
      const Piece piece = lookup({at, kSectorBytes});
      text += piece.kind == Piece::Kind::kMiss   ? '.'
              : piece.kind == Piece::Kind::kFill ? 'f'
              : piece.clean                      ? 'C'
                                                 : 'D';
    }
    return text;
  }
  Piece lookup(const Extent& extent) {
    Piece piece;
    Index::Snapshot snapshot;
    index_->lookup(extent, {&piece, 1}, &snapshot);
    return piece;
  }
  // As writeback and reclaim do it.
  void forget(const Extent& extent) {
    const Piece piece = lookup(extent);
    StripeLock lock(stripes_->of(extent.off));
    index_->mark_clean(extent, piece.pos);
    EXPECT_EQ(index_->remove(extent, piece.pos), extent.len);
  }
  // All keys of the log on media, in order.
  std::vector<media::Key> logged_keys() {
    std::vector<media::Key> keys;
    LogCursor cursor(image_->pmem(), *table_, log_start_);
    for (;;) {
      const auto item = cursor.next();
      EXPECT_TRUE(item.ok());
      if (!item.ok() || item.value().kind == LogItem::Kind::kEnd) return keys;
      keys.insert(keys.end(), item.value().keys.begin(), item.value().keys.end());
    }
  }

  LogLines lines_;
  Log messages_;
  policy::Retention retention_{policy::PolicyKind::kFifo, 1, 1};
  std::unique_ptr<Image> image_;
  std::unique_ptr<MemoryDevice> device_;
  std::unique_ptr<SegmentTable> table_;
  std::unique_ptr<Index> index_;
  std::unique_ptr<KeyLog> log_;
  CachePos log_start_;
  Tails tails_;  // never loaded: no request looks at them
  std::unique_ptr<Stripes> stripes_;
  std::unique_ptr<ZeroBacklog> zeros_;
  ModeSwitch mode_;
  std::unique_ptr<RequestState> state_;
  QueueSet set_;
  std::unique_ptr<Queue> queue_;
};

}  // namespace pcache
