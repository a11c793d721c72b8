// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/session.h"

#include <cstring>

#include "testing/lent_device.h"

namespace pcache {

namespace {

constexpr char kBackingText[] = "prove serial=1";

}  // namespace

BackingIdentity prove_backing() { return {kBackingText, kProveLogicalBytes, true}; }

std::unique_ptr<BlockDevice> Session::make_device(const Sectors& sectors) {
  if (options_.disk) {
    device_ = options_.disk;
    return std::make_unique<LentDevice>(*device_);
  }
  auto backing = std::make_unique<MemoryDevice>(kProveLogicalBytes);
  backing->set_identity(prove_backing().text, prove_backing().unique);
  for (const auto& [sector, bytes] : sectors) {
    backing->poke(sector * kSectorBytes, {bytes, kSectorBytes});
    changed_[sector].assign(bytes, bytes + kSectorBytes);
  }
  if (options_.fate) backing->set_fate(options_.fate);
  // Requests that no wait() has released are still in flight.
  backing->hold();
  backing->set_release_on_wait(true);
  backing->set_on_change([this](const MemoryDevice::Change& change) {
    if (options_.trace) options_.trace->add(change);
    for (size_t at = 0; at < change.bytes.size(); at += kSectorBytes) {
      auto* from = change.bytes.data() + at;
      changed_[(change.off + at) / kSectorBytes].assign(from, from + kSectorBytes);
    }
  });
  device_ = backing.get();
  return backing;
}

Result<std::unique_ptr<Session>> Session::attach(PmemSim& pmem, const Sectors& device,
                                                 const Options& options) {
  std::unique_ptr<Session> session(new Session(pmem, options));
  auto backing = session->make_device(device);
  auto executor = std::make_unique<SteppedExecutor>();
  session->executor_ = executor.get();
  session->trace_pmem(options.trace);
  pcache::Options attaching;
  attaching.data_crc = options.data_crc;
  attaching.strict_order = options.strict;
  attaching.front = options.disk != nullptr;
  attaching.policy = policy::PolicyKind::kSecondChance;  // what was read is moved by reclaim
  attaching.log = Log([](LogLevel, const char*) {});
  auto cache = Cache::attach(
      {pmem.make_pmem(options.process), std::move(backing), std::move(executor)}, attaching);
  if (!cache) {
    session->trace_pmem(nullptr);
    return cache.error();
  }
  session->cache_ = cache.take();
  session->queue_ = session->cache_->create_queue(16).take();
  return session;
}

void Session::stop_tracing() {
  trace_pmem(nullptr);
  options_.trace = nullptr;
  options_.oracle = nullptr;
}

Session::~Session() {
  queue_.reset();
  cache_.reset();
  trace_pmem(nullptr);
}

Oracle::Time Session::mark() {
  if (!options_.trace) return 0;
  options_.trace->add(TraceEvent::Kind::kMark);
  return static_cast<Oracle::Time>(options_.trace->now());
}

int Session::run(pcache_request* request) {
  if (queue_->submit(request) == 1) return request->result;
  pcache_request* done[1];
  if (request->op == PCACHE_OP_READ) {
    PCACHE_CHECK(queue_->reap(done, 1, 1, -1) == 1);
    return request->result;
  }
  constexpr int kMostPasses = 50;
  for (int i = 0; options_.pass_time && i < kMostPasses; i++) {
    options_.pass_time();
    advance(1000);
    if (queue_->reap(done, 0, 1, 0) == 1) return request->result;
  }
  for (int ms : {0, 1000, 20000}) {
    advance(ms);
    if (queue_->reap(done, 0, 1, 0) == 1) return request->result;
    if (!options_.fate) break;
  }
  queue_.reset();  // cancels it
  queue_ = cache_->create_queue(16).take();
  return -ETIMEDOUT;
}

int Session::write(const Extent& extent, uint32_t flags, uint32_t op) {
  const Oracle::Time before = mark();
  Oracle::Covered covered = 0;
  VersionId version = 1;
  const bool on_device = answers_of(cache_->mode()).acks_on_device;
  if (options_.oracle) {
    covered = options_.oracle->covers();
    version = options_.oracle->begin_write(extent, before, flags & PCACHE_REQ_PREFLUSH,
                                           op != PCACHE_OP_WRITE);
  }
  std::vector<std::byte> data = Oracle::content(version, extent.off, extent.len);
  pcache_request request{op, flags, extent.off, extent.len, data.data(), 0, 0, nullptr};
  const int result = run(&request);
  if (result == 0 && options_.oracle) {
    const Oracle::Time after = mark();
    if (flags & PCACHE_REQ_PREFLUSH) options_.oracle->end_flush(covered, after);
    options_.oracle->end_write(version, flags & PCACHE_REQ_FUA, after, on_device);
  }
  return -result;
}

int Session::flush() {
  mark();
  const Oracle::Covered covered = options_.oracle ? options_.oracle->covers() : 0;
  pcache_request request{PCACHE_OP_FLUSH, 0, 0, 0, nullptr, 0, 0, nullptr};
  const int result = run(&request);
  if (result == 0 && options_.oracle) options_.oracle->end_flush(covered, mark());
  return -result;
}

int Session::submit(pcache_request* request) {
  mark();
  const int result = run(request);
  mark();
  return result;
}

std::string Session::ReadResult::text(const Extent& extent) const {
  if (error)
    return "lost: a read of " + std::to_string(extent.off) + "+" + std::to_string(extent.len) +
           " failed: " + strerror(error);
  return wrong.empty() ? wrong : "lost: " + wrong;
}

Session::ReadResult Session::read(const Extent& extent, Oracle::Found* found) {
  std::vector<std::byte> data(extent.len);
  pcache_request request{PCACHE_OP_READ, 0, extent.off, extent.len, data.data(), 0, 0, nullptr};
  if (const int result = run(&request)) return {-result, {}};
  for (uint64_t at = 0; at < extent.len; at += kSectorBytes) {
    const uint64_t sector = (extent.off + at) / kSectorBytes;
    const auto version = Oracle::version_of(sector, data.data() + at);
    if (!version) return {0, "sector " + std::to_string(sector) + " is no whole version"};
    if (found) (*found)[sector] = *version;
  }
  return {};
}

Status Session::close() {
  queue_.reset();
  return cache_->close();
}

Sectors Session::device_sectors() {
  Sectors sectors;
  for (const auto& [sector, bytes] : changed_) sectors[sector] = bytes.data();
  return sectors;
}

std::string read_device(const Sectors& device, const std::vector<uint64_t>& sectors,
                        Oracle::Found* found) {
  for (const uint64_t sector : sectors) {
    const auto changed = device.find(sector);
    if (changed == device.end()) {
      (*found)[sector] = 0;
      continue;
    }
    const auto version = Oracle::version_of(sector, changed->second);
    if (!version)
      return "lost: the device's sector " + std::to_string(sector) + " is no whole version";
    (*found)[sector] = *version;
  }
  return {};
}

std::vector<Extent> extents_of(const std::vector<uint64_t>& sectors) {
  std::vector<Extent> extents;
  for (const uint64_t sector : sectors) {
    const uint64_t off = sector * kSectorBytes;
    if (!extents.empty() && extents.back().end() == off)
      extents.back().len += kSectorBytes;
    else
      extents.push_back({off, kSectorBytes});
  }
  return extents;
}

}  // namespace pcache
