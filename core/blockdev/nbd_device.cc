// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/nbd_device.h"

#include <cinttypes>
#include <utility>
#include <vector>

#include "blockdev/nbd_queue.h"
#include "blockdev/nbd_uri.h"

namespace pcache {

namespace {

constexpr int64_t kOpenTimeoutNs = 10'000'000'000, kOpenQueueNs = 1'000'000'000;
constexpr size_t kLongestName = 400;  // what the identity block has room for, with the words before

class NbdDevice final : public BlockDevice {
 public:
  NbdDevice(std::unique_ptr<NbdServer> server, std::shared_ptr<NbdConnection> first)
      : server_(std::move(server)), identity_{"nbd " + server_->name(), true} {
    connections_.push_back(std::move(first));
  }

  uint64_t size_bytes() const override { return server_->device().size_bytes; }
  // It tells each connection once, and those that are there would not go beyond.
  Result<uint64_t> measure_again() override {
    return make_error(EOPNOTSUPP,
                      "backing device %s: a server of NBD tells its size when it is connected to: "
                      "attach the cache again",
                      server_->name().c_str());
  }
  uint32_t logical_block_bytes() const override { return server_->device().block_bytes; }
  const DeviceIdentity& identity() const override { return identity_; }
  const char* io_mode_name() const override { return "nbd"; }
  bool makes_holes() const override {
    return server_->device().makes_zeros && server_->device().trims;
  }
  // It would have to be asked, and the answer waited for.
  bool is_hole(uint64_t, uint64_t* end) const override {
    *end = size_bytes();
    return false;
  }

  std::optional<BlockLink> link() const override EXCLUDES(mu_) {
    BlockLink link;
    link.lost = server_->lost_connections();
    MutexLock lock(mu_);
    for (const auto& connection : connections_) {
      link.connections++;
      connection->add_to(&link);
    }
    return link;
  }
  void give_up() override EXCLUDES(mu_) {
    server_->give_up();
    MutexLock lock(mu_);
    for (const auto& connection : connections_) connection->wake();
  }

  Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) override EXCLUDES(mu_) {
    auto connection = connection_for_queue();
    if (!connection) return connection.error();
    auto queue = NbdQueue::open(*server_, connection.take(), depth);
    if (!queue) return queue.error();
    return std::unique_ptr<BlockQueue>(queue.take());
  }

 private:
  // One that no queue has, if each may have its own.
  Result<std::shared_ptr<NbdConnection>> connection_for_queue() EXCLUDES(mu_) {
    MutexLock lock(mu_);
    if (!server_->device().multi_conn) return connections_.front();
    for (const auto& connection : connections_)
      if (connection.use_count() == 1) return connection;
    auto opened = NbdConnection::open(*server_, &NbdQueue::on_finished);
    if (!opened) return opened.error();
    connections_.push_back(opened.take());
    // A server that is away is waited for by the requests.
    (void)connections_.back()->wait_for_export(kOpenQueueNs);
    return connections_.back();
  }

  const std::unique_ptr<NbdServer> server_;
  const DeviceIdentity identity_;
  mutable Mutex mu_{LockRank::kPath};
  std::vector<std::shared_ptr<NbdConnection>> connections_ GUARDED_BY(mu_);  // never empty
};

Status check_options(const BlockDeviceOptions& options, const std::string& name) {
  if (options.io_mode != IoMode::kAuto)
    return make_error(EINVAL,
                      "backing device %s: is on a server of NBD, which takes no io_uring and no "
                      "threads: leave io_mode out",
                      name.c_str());
  if (name.size() <= kLongestName) return {};
  return make_error(EINVAL,
                    "backing device %s: its address has %zu characters: expected %zu at most",
                    name.c_str(), name.size(), kLongestName);
}

}  // namespace

Result<std::unique_ptr<BlockDevice>> open_nbd_device(const BlockDeviceOptions& options,
                                                     const Log& log) {
  if (Status address = check_nbd_uri(options.path); !address) return address.error();
  const std::string name = nbd_device_name(options.path);
  if (Status fits = check_options(options, name); !fits) return fits.error();
  auto server = std::make_unique<NbdServer>(options.path, name, options.read_only, log);
  auto first = NbdConnection::open(*server, &NbdQueue::on_finished);
  if (!first) return first.error();
  std::shared_ptr<NbdConnection> connection = first.take();
  auto device = connection->wait_for_export(kOpenTimeoutNs);
  if (!device) return device.error();
  server->set_device(device.value());
  if (device.value().size_bytes != device.value().raw_bytes)
    log.print(LogLevel::kWarning,
              "backing device %s: its size %" PRIu64
              " is no multiple of its block of %u bytes; the last %" PRIu64 " bytes are not used",
              name.c_str(), device.value().raw_bytes, device.value().block_bytes,
              device.value().raw_bytes - device.value().size_bytes);
  return std::unique_ptr<BlockDevice>(
      std::make_unique<NbdDevice>(std::move(server), std::move(connection)));
}

}  // namespace pcache
