// SPDX-License-Identifier: GPL-2.0-or-later
// Findings: what a look at an image has turned up, for people (text) and for programs (code).
#pragma once

#include <map>
#include <string>
#include <vector>

namespace pcache {

enum class Severity {
  kNote,     // as it may be in a sound image; worth knowing
  kFinding,  // wrong, and nothing is lost by it
  kLost,     // data is lost, or the image cannot be attached
};
const char* severity_name(Severity severity);

struct Finding {
  Severity severity = Severity::kNote;
  std::string code;   // stable: "torn-replica"
  std::string where;  // "segment 3 generation at 50343936"
  std::string text;   // what was expected, what was found, what follows from it
};

class Findings {
 public:
  static constexpr uint64_t kMostOfACode = 100;  // are kept; the rest is counted

  [[gnu::format(printf, 5, 6)]] void add(Severity severity, const char* code, std::string where,
                                         const char* format, ...);
  const std::vector<Finding>& all() const { return all_; }
  bool has(const std::string& code) const { return counts_.contains(code); }
  uint64_t count(Severity severity) const { return by_severity_[static_cast<size_t>(severity)]; }
  uint64_t omitted() const { return omitted_; }  // counted, not kept
  Severity worst() const;

 private:
  std::vector<Finding> all_;
  std::map<std::string, uint64_t> counts_;
  uint64_t by_severity_[3] = {};
  uint64_t omitted_ = 0;
};

}  // namespace pcache
