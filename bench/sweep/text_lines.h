// SPDX-License-Identifier: GPL-2.0-or-later
// TextLines: the lines of a file of text, plain or packed by xz, whichever its first bytes say.
#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

namespace pcache::sweep {

class TextLines {
 public:
  // Throws Wrong: it is no regular file, is empty, cannot be read, or is packed otherwise.
  explicit TextLines(const std::string& path);
  ~TextLines();

  // Without what ends it; good until the next call. False: there is none. Throws Wrong: what is
  // packed is damaged, or a line is longer than any of a trace.
  bool next(std::string_view* line);
  uint64_t number() const { return number_; }  // of the line that next() gave, from 1 on

 private:
  class Xz;
  void read_more();

  const std::string path_;
  std::ifstream in_;
  std::unique_ptr<Xz> xz_;  // nullptr: it is plain
  std::string text_;        // that was read, and is not given yet from at_ on
  size_t at_ = 0;
  bool ended_ = false;
  uint64_t number_ = 0;
};

}  // namespace pcache::sweep
