// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/trace.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <optional>
#include <span>

#include "sweep/parameter.h"
#include "sweep/text_lines.h"

namespace pcache::sweep {

namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kMostRequestBytes = 64 << 20;
constexpr uint64_t kEnd = uint64_t{1} << 62;  // of all offsets and numbers: sums of two do not wrap
constexpr size_t kMostShown = 40;
constexpr const char* kFormats =
    "`R|W OFFSET LENGTH`, a block's number, or `fio version 2 iolog` or 3";

std::optional<uint64_t> number_of(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value >= kEnd)
    return std::nullopt;
  return value;
}

// As much of a line as fits into a message.
std::string shown(std::string_view text) {
  std::string out(text.substr(0, kMostShown));
  for (char& c : out)
    if (!std::isprint(static_cast<unsigned char>(c))) c = '?';
  return "`" + out + (text.size() > kMostShown ? "...`" : "`");
}

class Parser {
 public:
  Parser(const std::string& file, uint64_t most) : lines_(file), most_(most) { trace_.file = file; }

  Trace parse() {
    std::string_view line;
    while (next_with_words(&line)) {
      if (form_ == Form::kUnknown && find_form(line)) continue;
      if (most_ > 0 && trace_.accesses.size() == most_) {
        trace_.is_cut = true;
        break;
      }
      if (trace_.accesses.size() == kMostAccesses)
        throw Wrong(trace_.file + ": has more than " + std::to_string(kMostAccesses) +
                    " requests; `requests:` takes the first so many");
      add(line);
    }
    if (trace_.reads + trace_.writes == 0) throw Wrong(trace_.file + ": has no request");
    return std::move(trace_);
  }

 private:
  enum class Form { kUnknown, kBytes, kBlocks, kIolog2, kIolog3 };

  [[noreturn]] void fail(std::string_view found, const std::string& expected) const {
    throw Wrong(trace_.file + ":" + std::to_string(lines_.number()) + ": found " + shown(found) +
                ", expected " + expected);
  }

  bool next_with_words(std::string_view* line) {
    while (lines_.next(line)) {
      words_ = 0;
      for (size_t at = 0; words_ < word_.size();) {
        const size_t begin = line->find_first_not_of(" \t", at);
        if (begin == line->npos) break;
        at = std::min(line->find_first_of(" \t", begin), line->size());
        word_[words_++] = line->substr(begin, at - begin);
      }
      if (words_ > 0 && word_[0][0] != '#') return true;
    }
    return false;
  }

  // True: the line only says which it is.
  bool find_form(std::string_view line) {
    if (line.starts_with("fio version 2 iolog")) return form_ = Form::kIolog2, true;
    if (line.starts_with("fio version 3 iolog")) return form_ = Form::kIolog3, true;
    if (is_direction(word_[0]))
      form_ = Form::kBytes;
    else if (words_ == 1 && number_of(word_[0]))
      form_ = Form::kBlocks;
    else
      fail(line, std::string("the first line of a trace: ") + kFormats);
    trace_.of_blocks = form_ == Form::kBlocks;
    return false;
  }

  static bool is_direction(std::string_view word) {
    return word == "R" || word == "W" || word == "r" || word == "w";
  }

  void add(std::string_view line) {
    if (form_ == Form::kIolog2 || form_ == Form::kIolog3) return add_iolog(line);
    if (form_ == Form::kBytes) {
      if (words_ != 3 || !is_direction(word_[0])) fail(line, "`R|W OFFSET LENGTH`, in bytes");
      const bool reads = word_[0] == "R" || word_[0] == "r";
      return add_bytes(reads ? Access::Op::kRead : Access::Op::kWrite, word_[1], word_[2]);
    }
    const auto block = number_of(word_[0]);
    if (words_ != 1 || !block) fail(line, "a block's number, below 2^62, as in the lines before");
    push({Access::Op::kRead, *block, 1});
  }

  // "NAME ACTION [OFFSET LENGTH]"; with a time before it in version 3.
  void add_iolog(std::string_view line) {
    const size_t first = form_ == Form::kIolog3 ? 1 : 0;
    const std::string expected =
        std::string(first ? "`TIME FILE ACTION" : "`FILE ACTION") +
        " [OFFSET LENGTH]`, an action being add, open, close, read, write, sync, datasync, trim" +
        (first ? "" : " or wait");
    if (words_ < first + 2 || (first && !number_of(word_[0]))) fail(line, expected);
    const std::string_view name = word_[first], action = word_[first + 1];
    const bool has_place = words_ == first + 4;
    if (action == "wait" && !first) return;
    if (device_.empty()) device_ = name;
    if (name != device_)
      fail(name, "the device of the lines before, " + shown(device_) +
                     ": give each device a trace of its own");
    if (action == "add" || action == "open" || action == "close") return;
    if (!has_place) fail(line, expected);
    if (action == "read")
      add_bytes(Access::Op::kRead, word_[first + 2], word_[first + 3]);
    else if (action == "write")
      add_bytes(Access::Op::kWrite, word_[first + 2], word_[first + 3]);
    else if (action == "sync" || action == "datasync")
      push({Access::Op::kFlush, 0, 0});
    else if (action == "trim")
      trace_.trims++;
    else
      fail(action, expected);
  }

  void add_bytes(Access::Op op, std::string_view off_text, std::string_view len_text) {
    const auto off = number_of(off_text), len = number_of(len_text);
    if (!off || *off % kSectorBytes != 0) fail(off_text, "an offset: a multiple of 512 below 2^62");
    if (!len || *len % kSectorBytes != 0 || *len == 0 || *len > kMostRequestBytes)
      fail(len_text, "a length: a multiple of 512 from 512 to " + size_of(kMostRequestBytes));
    push({op, *off, *len});
  }

  void push(const Access& access) {
    trace_.accesses.push_back(access);
    trace_.reads += access.op == Access::Op::kRead;
    trace_.writes += access.op == Access::Op::kWrite;
  }

  TextLines lines_;
  const uint64_t most_;
  Form form_ = Form::kUnknown;
  std::array<std::string_view, 6> word_;  // of the line; no format has so many
  size_t words_ = 0;
  std::string device_;
  Trace trace_;
};

// FNV-1a.
std::string hash_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  uint64_t hash = 0xcbf29ce484222325;
  std::array<char, 64 << 10> chunk;
  while (in.read(chunk.data(), chunk.size()), in.gcount() > 0)
    for (const char c : std::span(chunk).first(static_cast<size_t>(in.gcount())))
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  char text[17];
  snprintf(text, sizeof text, "%016lx", static_cast<unsigned long>(hash));
  return text;
}

}  // namespace

Trace read_trace(const std::string& file, uint64_t most) {
  Trace trace = Parser(file, most).parse();
  trace.hash = hash_of(file);
  return trace;
}

}  // namespace pcache::sweep
