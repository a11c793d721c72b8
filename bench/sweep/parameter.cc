// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/parameter.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

namespace pcache::sweep {

namespace {

template <typename Number>
std::optional<Number> number_of(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <long long least, long long most>
std::optional<std::string> integer(std::string_view value) {
  const auto n = number_of<long long>(value);
  if (!n || *n < least || *n > most) return std::nullopt;
  return std::to_string(*n);
}

template <uint64_t least, uint64_t most, uint64_t step>
std::optional<std::string> size(std::string_view value) {
  const auto bytes = bytes_of(value);
  if (!bytes || *bytes < least || *bytes > most || *bytes % step != 0) return std::nullopt;
  return size_of(*bytes);
}

// A part, or a multiple, of something: 0.25, 8; at least a thousandth.
std::optional<std::string> ratio(std::string_view value) {
  const auto n = number_of<double>(value);
  if (!n || !(*n >= 0.001) || !(*n <= 1000)) return std::nullopt;
  std::string text = std::to_string(*n);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

// Of the whole of something.
std::optional<std::string> share_or_none(std::string_view value) {
  const auto text = value == "none" ? "none" : ratio(value);
  return text && *text != "none" && std::stod(*text) > 1 ? std::nullopt : text;
}

std::optional<std::string> path_or_none(std::string_view value) {
  return value.empty() ? std::nullopt : std::optional<std::string>(value);
}

std::optional<std::string> ratio_or_zero(std::string_view value) {
  return value == "0" ? "0" : ratio(value);
}

std::optional<std::string> boolean(std::string_view value) {
  if (value == "1" || value == "true" || value == "yes" || value == "on") return "1";
  if (value == "0" || value == "false" || value == "no" || value == "off") return "0";
  return std::nullopt;
}

template <const char* const* words>
std::optional<std::string> one_of(std::string_view value) {
  for (const char* const* word = words; *word; word++)
    if (value == *word) return std::string(value);
  return std::nullopt;
}

// Of fio's; the theta of zipf is the number behind it.
std::optional<std::string> distribution(std::string_view value) {
  constexpr std::string_view kZipf = "zipf:";
  if (value == "random") return std::string(value);
  if (!value.starts_with(kZipf)) return std::nullopt;
  const auto theta = number_of<double>(value.substr(kZipf.size()));
  if (!theta || !(*theta > 0) || !(*theta <= 10) || *theta == 1) return std::nullopt;
  return std::string(value);
}

// "path:..." names a block device whose requests go through the kernel.
constexpr const char* kEngines[] = {"pcache", "bound", "uring", "libpmem", nullptr};
std::optional<std::string> engine(std::string_view value) {
  if (value.starts_with("path:/")) return std::string(value);
  if (value == "io_uring") return "uring";  // as fio calls it
  return one_of<kEngines>(value);
}

// As fio has them; "readwrite" is its other name for "rw".
constexpr const char* kPatterns[] = {"read",   "write", "randread", "randwrite",
                                     "randrw", "rw",    nullptr};
std::optional<std::string> pattern(std::string_view value) {
  return one_of<kPatterns>(value == "readwrite" ? "rw" : value);
}

constexpr const char* kMethods[] = {"auto", "flushcache", "clflushopt",
                                    "clwb", "movdir64b",  nullptr};
constexpr const char* kOrders[] = {"strict", "relaxed", nullptr};
constexpr const char* kPolicies[] = {"adaptive", "second_chance", "fifo", nullptr};
constexpr const char* kFences[] = {"each", "none", nullptr};
constexpr const char* kRanges[] = {"shared", "own", nullptr};
constexpr const char* kFills[] = {"empty", "dirty", "clean", nullptr};

constexpr Parameter kParameters[] = {
    {"engine", "pcache", "pcache, bound, uring (or io_uring), libpmem or path:/DEVICE",
     "the cache; the engine that only stores and loads; the backing device by io_uring; fio's "
     "libpmem on the cache device; a block device such as a device-mapper target, by io_uring",
     engine, nullptr},
    {"rw", "randwrite", "read, write, randread, randwrite, rw or randrw", "as fio's rw", pattern,
     nullptr, Parameter::kPattern},
    {"rwmixread", "50", "a number from 1 to 99", "percent of reads in rw and randrw",
     integer<1, 99>, nullptr, Parameter::kPattern},
    {"distribution", "random", "random, or zipf: and a number above 0, at most 10 and not 1",
     "of the offsets of random requests: all alike, or some much more often", distribution, nullptr,
     Parameter::kPattern},
    {"bs", "4k", "a size from 512 to 16m, a multiple of 512 (k and KiB: 1024)", "of each request",
     size<512, 16 << 20, 512>, nullptr, Parameter::kPattern},
    {"iodepth", "1", "a number from 1 to 1024", "requests in flight, of each job", integer<1, 1024>,
     nullptr},
    {"numjobs", "1", "a number from 1 to 64", "threads", integer<1, 64>, nullptr,
     Parameter::kPattern},
    {"ranges", "shared", "shared or own",
     "of the threads: all of the working set, or an equal part each", one_of<kRanges>, nullptr,
     Parameter::kPattern},
    {"fsync", "0", "a number from 0 to 1000000", "a flush after so many writes; 0: none",
     integer<0, 1000000>, nullptr, Parameter::kPattern},
    {"cache_size", "1g", "a size from 512m to 16t, a multiple of 16m (m and MiB: 1024 k)",
     "of the cache device", size<512ull << 20, 16ull << 40, 16 << 20>, nullptr},
    {"working_set", "0.25", "a number from 0.001 to 1000",
     "what is read and written, as a multiple of cache_size", ratio, nullptr, Parameter::kPattern},
    {"volume", "0", "0, or a number from 0.001 to 1000",
     "ends a run before its time when so much has been read and written, as a multiple of "
     "cache_size: so a write does not come to wait for writeback; 0: runs for the time",
     ratio_or_zero, nullptr, Parameter::kPattern},
    {"fill", "dirty", "empty, dirty or clean",
     "the cache before the run: blank; the working set written; written, and written back",
     one_of<kFills>, nullptr, Parameter::kPattern},
    {"latency", "1", "0 or 1", "0: no clock is read for each request (fio's gtod_reduce)", boolean,
     nullptr},
    {"persist", "auto", "auto, flushcache, clflushopt, clwb or movdir64b", "the persist method",
     one_of<kMethods>, "pcache bound"},
    {"fence", "each", "each or none", "of the bound: after each store, or never", one_of<kFences>,
     "bound"},
    {"data_crc", "0", "0 or 1", "whether keys carry a crc of their data", boolean, "pcache"},
    {"gc_percent", "70", "a number from 0 to 90", "when garbage collection starts", integer<0, 90>,
     "pcache"},
    {"backing_order", "strict", "strict or relaxed",
     "whether the backing device alone is always a state that the flushes allow", one_of<kOrders>,
     "pcache"},
    {"policy", "adaptive", "adaptive, second_chance or fifo",
     "what of the clean data stays in the cache when space is short", one_of<kPolicies>, "pcache"},
    {"trace", "none", "none, or a file; its path begins where the spec's folder is",
     "requests to replay, in place of a pattern: lines `R|W OFFSET LENGTH` in bytes, or a block's "
     "number each, or fio's iolog of version 2 or 3; plain or packed by xz",
     path_or_none, nullptr, Parameter::kTrace},
    {"block_bytes", "0", "0, or a size from 512 to 16m, a multiple of 512",
     "what each block of the trace becomes (of a trace of bytes: each 4 KiB that a request "
     "touches); 0: requests stay as they are",
     size<0, 16 << 20, 512>, nullptr, Parameter::kTrace},
    {"requests", "0", "a number from 0 to 10000000", "the first so many of the trace; 0: all",
     integer<0, 10000000>, nullptr, Parameter::kTrace},
    {"cache_share", "none", "none, or a number from 0.001 to 1",
     "in place of cache_size: the part of the trace's blocks that the cache keeps", share_or_none,
     "pcache", Parameter::kTrace},
    {"flush_delay_ms", "10", "a number from 1 to 60000",
     "until an open kset is closed: the trace's time runs faster than the clock", integer<1, 60000>,
     "pcache", Parameter::kTrace},
};

}  // namespace

constexpr std::pair<const char*, const char*> kNamesOfFio[] = {
    {"ioengine", "engine"},
    {"readwrite", "rw"},
    {"blocksize", "bs"},
    {"random_distribution", "distribution"}};

std::span<const Parameter> parameters() { return kParameters; }

const Parameter* find_parameter(std::string_view name) {
  for (const auto& [of_fio, ours] : kNamesOfFio)
    if (name == of_fio) name = ours;
  const auto at = std::ranges::find_if(kParameters, [&](auto& p) { return name == p.name; });
  return at == std::end(kParameters) ? nullptr : at;
}

std::optional<uint64_t> bytes_of(std::string_view size) {
  constexpr std::string_view kUnits = "kmgt";
  uint64_t unit = 1;
  const auto last = [&](size_t n) {
    return size.size() < n ? '\0' : static_cast<char>(std::tolower(size[size.size() - n]));
  };
  if (last(1) == 'b' && last(2) == 'i' && kUnits.find(last(3)) != kUnits.npos)
    size.remove_suffix(2);
  if (!size.empty())
    if (const size_t at = kUnits.find(static_cast<char>(std::tolower(size.back())));
        at != kUnits.npos) {
      unit = uint64_t{1} << (10 * (at + 1));
      size.remove_suffix(1);
    }
  const auto n = number_of<double>(size);
  if (!n || *n < 0 || *n * static_cast<double>(unit) > 1e18) return std::nullopt;
  const double bytes = *n * static_cast<double>(unit);
  if (bytes != std::floor(bytes)) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

std::string size_of(uint64_t bytes) {
  const char* unit = "";
  for (const char* next : {"k", "m", "g", "t"}) {
    if (bytes == 0 || bytes % 1024 != 0) break;
    bytes /= 1024;
    unit = next;
  }
  return std::to_string(bytes) + unit;
}

}  // namespace pcache::sweep
