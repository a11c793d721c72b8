// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/fio_value.h"

#include <nlohmann/json.hpp>

#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

constexpr const char* kKeywords[] = {"$pagesize", "$mb_memory", "$ncpus"};
constexpr size_t kMostBytes = 4095;  // PATH_MAX, of which fio and the kernel keep one for the end

bool is_control(unsigned char c) { return c < 0x20 || c == 0x7f; }

// fio's JSON, and run.json, hold it too.
bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

}  // namespace

std::string taken_for_another(const std::string& value) {
  for (const char c : value) {
    if (c == '#' || c == ';') return std::string("cuts it at `") + c + "`";
    if (is_control(static_cast<unsigned char>(c))) return "does not keep a control character";
  }
  if (const size_t at = value.find("${"); at != value.npos && value.find('}', at) != value.npos)
    return "puts a variable of the environment in place of `${...}`";
  for (const char* keyword : kKeywords)
    if (value.find(keyword) != value.npos)
      return std::string("puts a number in place of `") + keyword + "`";
  if (value.starts_with(' ') || value.ends_with(' ')) return "drops the blanks around it";
  if (value.size() > kMostBytes)
    return "takes no more than " + std::to_string(kMostBytes) + " bytes";
  if (!is_utf8(value)) return "would report it in JSON, which is UTF-8, and it is not";
  return {};
}

void need_whole(const std::string& what, const std::string& value, const std::string& below) {
  std::string why = taken_for_another(value + below);
  if (why.empty() && (value + below).find("\\:") != std::string::npos) why = "takes `\\:` for `:`";
  if (!why.empty())
    throw Wrong(what + " " + value + ": fio, in its job file, " + why +
                "; give it by another path, such as a symbolic link");
}

// Unlike the others, a colon can be escaped.
std::string one_of_files(const std::string& path) {
  std::string escaped;
  for (const char c : path) escaped.append(c == ':' ? "\\" : "").push_back(c);
  return escaped;
}

}  // namespace pcache::sweep
