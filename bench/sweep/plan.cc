// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/plan.h"

#include <algorithm>
#include <random>

namespace pcache::sweep {

std::vector<Measurement> make_plan(const Spec& spec, size_t builds) {
  std::vector<Measurement> plan;
  std::mt19937_64 random(spec.seed);
  std::vector<Measurement> round;
  for (uint32_t repeat = 0; repeat < spec.repeats; repeat++) {
    if (repeat % 2 == 1) {
      std::ranges::reverse(round);
      for (Measurement& what : round) what.repeat = repeat;
      plan.insert(plan.end(), round.begin(), round.end());
      continue;
    }
    round.clear();
    for (size_t i = 0; i < spec.cases.size(); i++) {
      const std::string& engine = spec.cases[i].values.at("engine");
      const bool ours = engine == "pcache" || engine == "bound";
      for (size_t build = 0; build < (ours ? builds : 1); build++)
        round.push_back({0, i, build, repeat});
    }
    // Not std::shuffle, whose order is the library's own affair.
    for (size_t left = round.size(); left > 1; left--)
      std::swap(round[left - 1], round[random() % left]);
    plan.insert(plan.end(), round.begin(), round.end());
  }
  for (size_t i = 0; i < plan.size(); i++) plan[i].number = i;
  std::erase_if(plan,
                [&](const auto& what) { return !spec.cases[what.case_index].left_out.empty(); });
  return plan;
}

}  // namespace pcache::sweep
