// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/host.h"

#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace pcache::sweep {

namespace {

std::string line_of(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// The value of the first line of `path` that begins with `key`.
std::string value_in(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) {
      const size_t colon = line.find(':');
      const size_t first = line.find_first_not_of(" \t", colon + 1);
      return first == line.npos ? "" : line.substr(first);
    }
  return {};
}

std::set<std::string> cpu_flags() {
  std::set<std::string> flags;
  std::istringstream all(value_in("/proc/cpuinfo", "flags"));
  for (std::string flag; all >> flag;) flags.insert(flag);
  return flags;
}

nlohmann::ordered_json cpu_facts() {
  const std::set<std::string> all = cpu_flags();
  nlohmann::ordered_json flags = nlohmann::ordered_json::array();
  for (const char* flag : {"clflushopt", "clwb", "movdir64b", "avx2", "avx512f", "hypervisor"})
    if (all.contains(flag)) flags.push_back(flag);
  // A virtual machine may give each generation the same name; the numbers tell them apart.
  return {{"model", value_in("/proc/cpuinfo", "model name")},
          {"vendor", value_in("/proc/cpuinfo", "vendor_id")},
          {"family", value_in("/proc/cpuinfo", "cpu family")},
          {"model_number", value_in("/proc/cpuinfo", "model\t")},
          {"stepping", value_in("/proc/cpuinfo", "stepping")},
          {"online", sysconf(_SC_NPROCESSORS_ONLN)},
          {"flags", flags},
          {"governor", line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")},
          {"l3", line_of("/sys/devices/system/cpu/cpu0/cache/index3/size")}};
}

// Of the disk below a file, or of a block device; empty where the kernel does not say.
nlohmann::ordered_json disk_facts(const std::string& path) {
  struct stat is;
  if (stat(path.c_str(), &is) != 0) return {};
  const dev_t device = S_ISBLK(is.st_mode) ? is.st_rdev : is.st_dev;
  const std::string sys =
      "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
  std::error_code ignored;
  const auto real = std::filesystem::canonical(sys, ignored);
  if (real.empty()) return {};
  return {{"kind", S_ISBLK(is.st_mode) ? "block device" : "file"},
          {"disk", real.filename()},
          {"model", line_of(sys + "/device/model")},
          {"rotational", line_of(sys + "/queue/rotational")},
          {"scheduler", line_of(sys + "/queue/scheduler")}};
}

}  // namespace

std::string unavailable(const Values& values) {
  if (const auto persist = values.find("persist"); persist != values.end()) {
    const std::string& method = persist->second;
    if (method != "auto" && method != "flushcache" && !cpu_flags().contains(method))
      return "this CPU has no " + method;
  }
  const std::string& engine = values.at("engine");
  if (engine == "libpmem" && first_line("fio --enghelp=libpmem").empty())
    return "this fio has no engine libpmem";
  if (engine.starts_with("path:") && access(engine.c_str() + strlen("path:"), F_OK) != 0 &&
      (errno == ENOENT || errno == ENOTDIR))
    return engine.substr(strlen("path:")) + ": " + strerror(errno);
  return {};
}

std::string first_line(const std::string& command) {
  FILE* out = popen((command + " 2>/dev/null").c_str(), "r");
  if (!out) return {};
  char line[512] = "";
  if (!fgets(line, sizeof line, out)) line[0] = 0;
  pclose(out);
  std::string text = line;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

nlohmann::ordered_json host_facts(const std::string& pmem, const std::string& backing) {
  utsname system{};
  uname(&system);
  return {{"cpu", cpu_facts()},
          {"memory", value_in("/proc/meminfo", "MemTotal")},
          {"transparent_hugepages", line_of("/sys/kernel/mm/transparent_hugepage/shmem_enabled")},
          {"kernel", system.release},
          {"fio", first_line("fio --version")},
          {"pmem", pmem},
          {"backing", disk_facts(backing)},
          {"load_average", line_of("/proc/loadavg")}};
}

}  // namespace pcache::sweep
