// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/spec.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "sweep/fio_job.h"
#include "sweep/fio_value.h"
#include "sweep/host_name.h"

namespace pcache::sweep {

namespace {

constexpr size_t kMostCases = 100000;

// A list of values for each parameter; all combinations are cases.
using Axis = std::pair<const Parameter*, std::vector<std::string>>;
using Matrix = std::vector<Axis>;

class Parser {
 public:
  explicit Parser(std::string file) : file_(std::move(file)) {}

  Spec parse(const std::string& text) {
    const YAML::Node root = document(text);
    if (!root.IsMap()) fail(root.Mark(), "expected `key: value` lines; see configs/README.md");
    Spec spec;
    spec.text = text;
    Matrix common;
    std::vector<Matrix> matrices;
    for (const auto& item : each_once(root)) {
      const auto key = item.first.as<std::string>();
      const YAML::Node& value = item.second;
      if (key == "name")
        spec.name = name(value);
      else if (key == "title")
        spec.title = scalar(value, "a line of text");
      else if (key == "runtime")
        spec.runtime_s = seconds(value, 0.1);
      else if (key == "warmup")
        spec.warmup_s = seconds(value, 0);
      else if (key == "repeats")
        spec.repeats = static_cast<uint32_t>(integer(value, 1, 1000));
      else if (key == "seed")
        spec.seed = static_cast<uint64_t>(integer(value, 0, INT64_MAX));
      else if (key == "hosts")
        spec.hosts = hosts(value);
      else if (key == "server")
        spec.server = scalar(value, "a command");
      else if (key == "common")
        common = matrix(value);
      else if (key == "matrix")
        matrices = list_of_matrices(value);
      else
        fail(item.first.Mark(), "unknown key `" + key +
                                    "`; there are name, title, runtime, warmup, repeats, seed, "
                                    "hosts, server, common, matrix");
    }
    const auto need = [&](bool there, const char* key) {
      if (!there) fail(root.Mark(), std::string("`") + key + ":` is missing");
    };
    need(!spec.name.empty(), "name");
    need(spec.repeats > 0, "repeats");
    need(!matrices.empty(), "matrix");
    std::set<Values> seen;
    for (const Matrix& matrix : matrices) expand(with_common(common, matrix), &spec, &seen);
    const bool of_traces = std::ranges::all_of(
        spec.cases, [](const Case& one) { return one.values.contains("trace"); });
    need(spec.runtime_s > 0 || of_traces, "runtime");
    name_cases(&spec);
    return spec;
  }

 private:
  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& text) const {
    throw Wrong(file_ + ":" + std::to_string(std::max(mark.line, 0) + 1) + ": " + text);
  }

  YAML::Node document(const std::string& text) const {
    need_utf8(text);
    std::vector<YAML::Node> documents;
    try {
      documents = YAML::LoadAll(text);
    } catch (const YAML::Exception& error) {
      need_no_tab_before_a_key(text);
      fail(error.mark, error.msg);
    }
    if (documents.size() > 1)
      fail(documents[1].Mark(), "a second document; expected one, without `---` behind it");
    return documents.empty() ? YAML::Node() : documents[0];
  }

  // Of which yaml-cpp says something else.
  void need_no_tab_before_a_key(const std::string& text) const {
    std::istringstream lines(text);
    YAML::Mark mark;
    for (std::string line; std::getline(lines, line); mark.line++) {
      const size_t begin = line.find_first_not_of(" \t");
      if (begin != line.npos && line.substr(0, begin).find('\t') != line.npos)
        fail(mark, "a tab before the text; YAML wants blanks there");
    }
  }

  // It becomes part of run.json, which must be.
  void need_utf8(const std::string& text) const {
    std::istringstream lines(text);
    int number = 0;
    for (std::string line; std::getline(lines, line); number++) try {
        (void)nlohmann::json(line).dump();
      } catch (const nlohmann::json::exception&) {
        throw Wrong(file_ + ":" + std::to_string(number + 1) +
                    ": expected UTF-8, found other bytes");
      }
  }

  // yaml-cpp keeps the first of two equal keys and says nothing.
  std::vector<std::pair<YAML::Node, YAML::Node>> each_once(const YAML::Node& map) const {
    std::vector<std::pair<YAML::Node, YAML::Node>> items;
    std::set<std::string> seen;
    for (const auto& item : map) {
      if (!item.first.IsScalar()) fail(item.first.Mark(), "expected a name before the colon");
      if (!seen.insert(item.first.as<std::string>()).second)
        fail(item.first.Mark(), "`" + item.first.as<std::string>() + "` is given twice");
      items.emplace_back(item.first, item.second);
    }
    return items;
  }

  std::string scalar(const YAML::Node& node, const char* expected) const {
    if (!node.IsScalar()) fail(node.Mark(), std::string("expected ") + expected);
    return node.as<std::string>();
  }

  // It becomes part of paths.
  std::string name(const YAML::Node& node) const {
    const std::string text = scalar(node, "a name");
    const bool good = !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
      return std::isalnum(c) || c == '-' || c == '_';
    });
    if (!good) fail(node.Mark(), "name `" + text + "`: expected letters, digits, - and _");
    return text;
  }

  std::vector<std::string> hosts(const YAML::Node& node) const {
    std::vector<std::string> hosts;
    const auto add = [&](const YAML::Node& one) {
      const std::string text = scalar(one, "a host or a list of hosts");
      if (const std::string why = why_no_host(text); !why.empty())
        fail(one.Mark(), "hosts: `" + text + "`: " + why);
      if (std::ranges::find(hosts, host_of(text), host_of) != hosts.end())
        fail(one.Mark(), "hosts: `" + text + "` is there twice; expected one server of each host");
      hosts.push_back(text);
    };
    if (node.IsSequence())
      for (const YAML::Node& one : node) add(one);
    else
      add(node);
    if (hosts.empty()) fail(node.Mark(), "hosts: an empty list: expected a host");
    return hosts;
  }

  double seconds(const YAML::Node& node, double least) const {
    const std::string text = scalar(node, "a time, such as 5s");
    std::istringstream in(text);
    double value = -1;
    std::string unit;
    const bool is_number = static_cast<bool>(in >> value);
    in >> unit >> std::ws;
    const double scale = unit.empty() || unit == "s" ? 1
                         : unit == "ms"              ? 0.001
                         : unit == "m"               ? 60
                                                     : -1;
    if (scale < 0 || !is_number || !in.eof() || !(value * scale >= least) || value * scale > 86400)
      fail(node.Mark(), "`" + text + "`: expected a time from " + (least > 0 ? "0.1s" : "0s") +
                            " to 1440m, such as 500ms, 5s or 2m");
    return value * scale;
  }

  int64_t integer(const YAML::Node& node, int64_t least, int64_t most) const {
    const std::string text = scalar(node, "a number");
    int64_t value = 0;
    try {
      size_t end = 0;
      value = std::stoll(text, &end);
      if (end != text.size()) throw std::out_of_range("");
    } catch (const std::exception&) {
      fail(node.Mark(), "`" + text + "`: expected a number");
    }
    if (value < least || value > most)
      fail(node.Mark(), "`" + text + "`: expected a number from " + std::to_string(least) + " to " +
                            std::to_string(most));
    return value;
  }

  std::vector<Matrix> list_of_matrices(const YAML::Node& node) const {
    std::vector<Matrix> matrices;
    if (node.IsSequence())
      for (const YAML::Node& one : node) matrices.push_back(matrix(one));
    else
      matrices.push_back(matrix(node));
    if (matrices.empty()) fail(node.Mark(), "the matrix is empty: there is nothing to measure");
    return matrices;
  }

  Matrix matrix(const YAML::Node& node) const {
    if (!node.IsMap() || node.size() == 0)
      fail(node.Mark(), "the matrix is empty: expected lines such as `bs: [4k, 64k]`");
    Matrix matrix;
    for (const auto& item : each_once(node)) {
      const auto key = item.first.as<std::string>();
      const Parameter* parameter = find_parameter(key);
      if (!parameter)
        fail(item.first.Mark(),
             "unknown parameter `" + key + "`; pcache-sweep parameters lists them");
      if (std::ranges::any_of(matrix, [&](const Axis& axis) { return axis.first == parameter; }))
        fail(item.first.Mark(), "`" + key + "`: " + parameter->name +
                                    " is given by another name, too; expected one of them");
      matrix.emplace_back(parameter, values(*parameter, item.second));
    }
    return matrix;
  }

  std::vector<std::string> values(const Parameter& parameter, const YAML::Node& node) const {
    std::vector<std::string> values;
    const auto add = [&](const YAML::Node& one) {
      const std::string text = scalar(one, "a value or a list of values");
      if (const std::string why = taken_for_another(text); !why.empty())
        fail(one.Mark(),
             std::string(parameter.name) + ": `" + text + "`: fio, in its job file, " + why);
      const auto normal = parameter.normal(text);
      if (!normal)
        fail(one.Mark(),
             std::string(parameter.name) + ": `" + text + "`: expected " + parameter.allowed);
      if (std::ranges::find(values, *normal) != values.end())
        fail(one.Mark(), std::string(parameter.name) + ": `" + text + "` is there twice");
      values.push_back(*normal);
    };
    if (node.IsSequence())
      for (const YAML::Node& one : node) add(one);
    else
      add(node);
    if (values.empty())
      fail(node.Mark(),
           std::string(parameter.name) + ": an empty list: there is nothing to measure");
    return values;
  }

  static Matrix with_common(const Matrix& common, Matrix matrix) {
    for (const Axis& axis : common)
      if (std::ranges::none_of(matrix, [&](const Axis& own) { return own.first == axis.first; }))
        matrix.push_back(axis);
    return matrix;
  }

  static bool looks_at(const std::string& engine, bool of_trace, const Parameter& parameter) {
    if (parameter.of == (of_trace ? Parameter::kPattern : Parameter::kTrace)) return false;
    if (!parameter.engines) return true;
    std::istringstream in(parameter.engines);
    for (std::string name; in >> name;)
      if (name == engine) return true;
    return false;
  }

  void finish_pattern(Values* of) const {
    Values& values = *of;
    if (values["rw"] != "rw" && values["rw"] != "randrw") values.erase("rwmixread");
    if (values["numjobs"] == "1") values["ranges"] = "shared";
    if (range_bytes_of({"", values}) == 0)
      throw Wrong(file_ + ": ranges: own: a working set of " +
                  size_of(working_set_bytes_of({"", values})) + " has no request of " +
                  values["bs"] + " for each of " + values["numjobs"] +
                  " threads; give more working_set");
  }

  void finish_trace(Values* of) const {
    const std::string engine = of->at("engine");
    if (engine == "bound" || engine == "libpmem")
      throw Wrong(file_ + ": engine " + engine +
                  " keeps no data of a device, and replays no trace; expected pcache, uring or "
                  "path:/DEVICE");
    // By the share, or there is no cache.
    if (engine != "pcache" || of->at("cache_share") != kNoTrace) of->erase("cache_size");
    if (engine == "pcache" && of->at("cache_share") == kNoTrace) of->erase("cache_share");
  }

  // All combinations; what an engine does not look at makes no difference and so no case.
  void expand(const Matrix& matrix, Spec* spec, std::set<Values>* seen) const {
    std::vector<size_t> at(matrix.size(), 0);
    for (;;) {
      Values given;
      for (size_t i = 0; i < matrix.size(); i++)
        given[matrix[i].first->name] = matrix[i].second[at[i]];
      Values values;
      const auto engine =
          given.contains("engine") ? given["engine"] : find_parameter("engine")->fallback;
      const bool of_trace = given.contains("trace") && given["trace"] != kNoTrace;
      for (const Parameter& parameter : parameters())
        if (looks_at(engine, of_trace, parameter))
          values[parameter.name] =
              given.contains(parameter.name) ? given[parameter.name] : parameter.fallback;
      if (of_trace)
        finish_trace(&values);
      else
        finish_pattern(&values);
      if (seen->insert(values).second) spec->cases.push_back({"", values});
      if (spec->cases.size() > kMostCases)
        throw Wrong(file_ + ": more than " + std::to_string(kMostCases) + " cases");
      size_t i = matrix.size();
      while (i > 0 && ++at[i - 1] == matrix[i - 1].second.size()) at[--i] = 0;
      if (i == 0) break;
    }
    for (const Axis& axis : matrix)
      if (axis.second.size() > 1 &&
          std::ranges::find(spec->axes, axis.first->name) == spec->axes.end())
        spec->axes.emplace_back(axis.first->name);
  }

  static std::string file_name_of(const std::string& path) {
    return std::filesystem::path(path).filename();
  }

  static bool tell_traces_apart_by_name(const Spec& spec) {
    std::set<std::string> paths, names;
    for (const Case& one : spec.cases)
      if (const auto trace = one.values.find("trace"); trace != one.values.end()) {
        paths.insert(trace->second);
        names.insert(file_name_of(trace->second));
      }
    return paths.size() == names.size();
  }

  // By what differs between cases, whether one list says so or several matrices do; in the order of
  // the file.
  static void name_cases(Spec* spec) {
    for (const Parameter& parameter : parameters())
      if (std::ranges::find(spec->axes, parameter.name) == spec->axes.end())
        spec->axes.emplace_back(parameter.name);
    std::erase_if(spec->axes, [&](const std::string& axis) {
      std::set<std::string> values;
      for (const Case& one : spec->cases)
        if (const auto value = one.values.find(axis); value != one.values.end())
          values.insert(value->second);
      return values.size() < 2;
    });
    const bool short_traces = tell_traces_apart_by_name(*spec);
    for (Case& one : spec->cases) {
      for (const std::string& axis : spec->axes)
        if (const auto value = one.values.find(axis); value != one.values.end())
          one.id.append(one.id.empty() ? "" : " ")
              .append(axis)
              .append("=")
              .append(axis == "trace" && short_traces ? file_name_of(value->second)
                                                      : value->second);
      if (one.id.empty()) one.id = "the only case";
    }
  }

  const std::string file_;
};

}  // namespace

Spec parse_spec(const std::string& text, const std::string& file) {
  return Parser(file).parse(text);
}

}  // namespace pcache::sweep
