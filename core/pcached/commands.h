// SPDX-License-Identifier: GPL-2.0-or-later
// BackendCommands: what the commands of a control socket do with a backend. CONTROL.md has the
// list.
#pragma once

#include <string>

#include "backend/loop.h"
#include "control/server.h"

namespace pcache {

class BackendCommands final : public ControlServer::Commands {
 public:
  // The paths as the user has given them. All of these outlive it.
  BackendCommands(const Backend& backend, const BackendLoop& loop, const Doorbell& bell,
                  const std::string& cache_path, const std::string& disk_path);

  Result<std::string> run(std::string_view line) override;
  Status drain(const std::atomic<bool>& given_up) override;
  void give_up_drain(bool) override {}

 private:
  std::string status() const;

  const Backend& backend_;
  const BackendLoop& loop_;
  const Doorbell& bell_;
  const std::string info_;
};

}  // namespace pcache
