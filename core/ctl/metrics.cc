// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/metrics.h"

#include "cache/status.h"

namespace pcache::ctl {

namespace {

// Of a histogram's bounds: 256 ns to 69 s. They are the same in each status, or a bucket that is
// new would begin with what came before.
constexpr unsigned kFirstPower = 8, kLastPower = 36;

std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) {
    if (c == '\\' || c == '"') text += '\\';
    if (c == '\n')
      text += "\\n";
    else
      text += c;
  }
  return text;
}

void add_label(const char* name, const std::string& value, std::string* labels) {
  labels->append(labels->empty() ? "" : ",").append(name).append("=\"");
  labels->append(escaped(value)).append("\"");
}

std::string labels_of(const CacheMetrics& of) {
  std::string labels;
  add_label("cache", of.cache, &labels);
  if (!of.pid.empty()) add_label("pid", of.pid, &labels);
  return labels;
}

std::string name_of(const StatusField& field) {
  std::string name = "pcache_";
  if (*field.object) name.append(field.object).append("_");
  return name.append(field.name);
}

// nullptr: it has none.
const Json* value_of(const CacheMetrics& of, const char* object, const char* name) {
  const Json* at = &of.status;
  if (*object) {
    const auto member = at->find(object);
    if (member == at->end() || !member->is_object()) return nullptr;
    at = &*member;
  }
  const auto value = at->find(name);
  return value == at->end() ? nullptr : &*value;
}

class Text {
 public:
  explicit Text(MetricsFormat format) : open_(format == MetricsFormat::kOpenMetrics) {}

  // Of all caches: one that has none of it is left out, and so is the family if no cache has any.
  void add(const std::vector<CacheMetrics>& caches, const StatusField& field) {
    if (field.kind == StatusKind::kLatency) return add_latency(caches, field);
    const bool counts = field.kind == StatusKind::kCounter;
    std::string name = name_of(field);
    begin(counts && !open_ ? name + "_total" : name, counts ? "counter" : "gauge", help_of(field));
    if (counts) name += "_total";
    for (const CacheMetrics& of : caches)
      if (const Json* value = value_of(of, field.object, field.name)) {
        if (value->is_boolean()) sample(name, labels_of(of), value->get<bool>() ? "1" : "0");
        if (value->is_number()) sample(name, labels_of(of), value->dump());
      }
  }
  // What is a text and stays as it is.
  void add_info(const std::vector<CacheMetrics>& caches) {
    begin(open_ ? "pcache" : "pcache_info", open_ ? "info" : "gauge",
          "what never changes while a cache is attached");
    for (const CacheMetrics& of : caches) {
      std::string labels = labels_of(of);
      for (const auto& [object, name] : {std::pair{"cache", "pmem_kind"},
                                         {"cache", "persist"},
                                         {"backing", "io_mode"},
                                         {"backing", "identity"},
                                         {"policy", "kind"}})
        if (const Json* value = value_of(of, object, name); value && value->is_string())
          add_label(std::string(object).append("_").append(name).c_str(), value->get<std::string>(),
                    &labels);
      sample("pcache_info", labels, "1");
    }
  }
  // A text that says how it is, as a number that can be asked for.
  void add_state(const std::vector<CacheMetrics>& caches, const char* object, const char* help) {
    const std::string name = std::string("pcache_").append(object).append("_ok");
    begin(name, "gauge", help);
    for (const CacheMetrics& of : caches)
      if (const Json* value = value_of(of, object, "state"))
        sample(name, labels_of(of), *value == "ok" ? "1" : "0");
  }
  std::string take() {
    if (open_) text_ += "# EOF\n";
    return std::move(text_);
  }

 private:
  static std::string help_of(const StatusField& field) {
    return *field.object ? std::string(field.object).append(": ").append(field.text) : field.text;
  }
  // Its lines are written with its first sample.
  void begin(const std::string& name, const char* type, const std::string& help) {
    head_ = "# HELP ";
    head_.append(name).append(" ").append(escaped(help)).append("\n# TYPE ");
    head_.append(name).append(" ").append(type).append("\n");
  }
  void sample(const std::string& name, const std::string& labels, const std::string& value) {
    text_.append(std::exchange(head_, {})).append(name).append("{").append(labels).append("} ");
    text_.append(value).append("\n");
  }
  void add_latency(const std::vector<CacheMetrics>& caches, const StatusField& field) {
    const std::string name = name_of(field) + "_seconds";
    begin(name, "histogram", help_of(field) + "; the status says of how many one is timed");
    for (const CacheMetrics& of : caches) {
      const Json* const latency = value_of(of, field.object, field.name);
      if (!latency || !latency->is_object()) continue;
      const auto buckets = buckets_of(*latency);
      uint64_t all = 0;
      for (const auto& [upper_ns, n] : buckets) all += n;
      for (unsigned power = kFirstPower; power <= kLastPower; power++) {
        uint64_t below = 0;
        for (const auto& [upper_ns, n] : buckets)
          if (upper_ns <= uint64_t{1} << power) below += n;
        char bound[32];
        snprintf(bound, sizeof bound, "%.9g", static_cast<double>(uint64_t{1} << power) / 1e9);
        bucket(name, of, bound, below);
      }
      bucket(name, of, "+Inf", all);
    }
  }
  void bucket(const std::string& name, const CacheMetrics& of, const char* bound, uint64_t n) {
    std::string labels = labels_of(of);
    add_label("le", bound, &labels);
    sample(name + "_bucket", labels, std::to_string(n));
  }

  const bool open_;
  std::string text_, head_;
};

}  // namespace

std::vector<std::pair<uint64_t, uint64_t>> buckets_of(const Json& latency) {
  std::vector<std::pair<uint64_t, uint64_t>> buckets;
  const auto all = latency.find("buckets");
  if (all == latency.end() || !all->is_array()) return buckets;
  for (const Json& bucket : *all)
    if (bucket.is_array() && bucket.size() == 2 && bucket[0].is_number_unsigned() &&
        bucket[1].is_number_unsigned())
      buckets.emplace_back(bucket[0].get<uint64_t>(), bucket[1].get<uint64_t>());
  return buckets;
}

std::string metrics_text(const std::vector<CacheMetrics>& caches, MetricsFormat format) {
  Text text(format);
  text.add_info(caches);
  text.add_state(caches, "writeback", "writeback: the backing device takes writes");
  text.add_state(caches, "reclaim", "reclaim: space can be freed");
  for (size_t i = 0; i < status_field_count(); i++) text.add(caches, status_field(i));
  return text.take();
}

}  // namespace pcache::ctl
