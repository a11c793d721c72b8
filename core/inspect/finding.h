// SPDX-License-Identifier: GPL-2.0-or-later
// Findings: what was found in an image, for people (text) and for programs (code).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pcache {

enum class Severity {
  kNote,     // a sound image may have it; worth knowing
  kFinding,  // wrong, but nothing is lost
  kLost,     // data is lost, or the image cannot be attached
};
const char* severity_name(Severity severity);

struct Finding {
  Severity severity = Severity::kNote;
  std::string code;   // stable: "torn-replica"
  std::string where;  // "segment 3 generation at 50343936"
  std::string text;   // what was expected and found, what follows from it
};

class Findings {
 public:
  static constexpr uint64_t kMostOfACode = 100;  // so many are kept, the others counted

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
