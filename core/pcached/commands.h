// SPDX-License-Identifier: GPL-2.0-or-later
// BackendCommands: what the commands of a control socket do with a backend. CONTROL.md has the
// list.
#pragma once

#include <string>

#include "backend/loop.h"
#include "control/server.h"
#include "pcached/ending.h"

namespace pcache {

class BackendCommands final : public ControlServer::Commands {
 public:
  struct Places {
    std::string cache_path, disk_path;  // as the user has given them
    std::string socket;                 // at which the disk is served; empty: at none
  };
  // The parts outlive it.
  BackendCommands(const Backend& backend, const BackendLoop& loop, const Doorbell& bell,
                  Ending& ending, const Places& places);

  Result<std::string> run(std::string_view line) override;
  Status drain(const std::atomic<bool>& given_up) override;
  void give_up_drain(bool) override {}

 private:
  std::string status() const;
  std::string offer() const;
  Status end();

  const Backend& backend_;
  const BackendLoop& loop_;
  const Doorbell& bell_;
  Ending& ending_;
  const Places places_;  // the paths are absolute
  const std::string info_;
};

}  // namespace pcache
