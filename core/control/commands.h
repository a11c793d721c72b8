// SPDX-License-Identifier: GPL-2.0-or-later
// CacheCommands: what the commands of a control socket do with a cache. CONTROL.md has the list.
#pragma once

#include "cache/cache.h"
#include "control/server.h"

namespace pcache {

class CacheCommands final : public ControlServer::Commands {
 public:
  // `cache_path`, `backing_path`: as the program has given them. The cache outlives it.
  CacheCommands(Cache& cache, const std::string& cache_path, const std::string& backing_path);

  Result<std::string> run(std::string_view line) override;
  Status drain(const std::atomic<bool>& given_up) override { return cache_.drain(&given_up); }
  void give_up_drain(bool on) override { cache_.give_up_writeback(on); }

 private:
  Cache& cache_;
  const std::string info_;
};

}  // namespace pcache
