// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/host_place.h"

#include <unistd.h>

#include <random>
#include <string>

#include "sweep/fio_value.h"
#include "sweep/run_folder.h"

namespace pcache::sweep {

namespace {

constexpr uint64_t kFrameBytes = 20 << 10;  // as of a local place
constexpr uint64_t kLastBytes = 4 << 10;

// Nobody on any host has such a file.
std::string fresh_name() {
  std::random_device random;
  char name[64];
  snprintf(name, sizeof name, "/pcache-sweep-%d-%08x", static_cast<int>(getpid()), random());
  return name;
}

std::string section(const char* name, const std::string& path) {
  return std::string("[") + name + "]\nioengine=psync\nfilename=" + one_of_files(path) + "\n";
}

}  // namespace

void HostPlace::check(const PlaceOptions& options, const std::map<std::string, uint64_t>& paths) {
  for (const std::string& path :
       {options.cache_dir, options.backing_dir, options.cache_dev, options.backing})
    if (!path.empty() && !path.starts_with('/'))
      throw Wrong(path + ": is a path on the hosts; expected one that begins with /");
  if (options.cache_dev.starts_with("/dev/dax"))
    throw Wrong("--cache-dev " + options.cache_dev +
                ": fio cannot blank a devdax device of another host, which has no write(); "
                "expected a file on a DAX file system");
  const auto need = [&](const std::string& path) {
    if (!path.empty() && !options.overwrite)
      throw Wrong(path +
                  ": its content will be lost on each host; --overwrite says that it may be");
  };
  need(options.cache_dev);
  need(options.backing);
  for (const auto& [path, bytes] : paths) need(path);
  if (!options.cache_dev.empty() && options.cache_dev == options.backing)
    throw Wrong(options.backing + ": is the cache device, too; give two devices");
  for (const auto& [path, bytes] : paths)
    if (path == options.cache_dev)
      throw Wrong(path + ": is the cache device, too; give two devices");
}

HostPlace::HostPlace(const Hosts& hosts, const PlaceOptions& options, uint64_t cache_bytes,
                     uint64_t backing_bytes, const std::map<std::string, uint64_t>& paths)
    : hosts_(hosts) {
  const std::string name = fresh_name();
  cache_ = options.cache_dev.empty() ? options.cache_dir + name + "-cache" : options.cache_dev;
  backing_ = options.backing.empty() ? options.backing_dir + name + "-backing" : options.backing;
  need_whole("--cache-dev", cache_);
  need_whole("--backing", backing_);
  emulated_ = options.cache_dev.empty();
  scratch_backing_ = options.backing.empty();
  on_hosts_ = true;
  try {
    if (!emulated_) need_room(cache_, cache_bytes);
    if (!scratch_backing_) need_room(backing_, backing_bytes);
    for (const auto& [path, bytes] : paths) need_room(path, bytes);
    if (scratch_backing_) make(backing_, backing_bytes);
    if (emulated_) make(cache_, cache_bytes);
    made_bytes_ = cache_bytes;
  } catch (...) {
    hosts_.run_at_the_end(removing(emulated_, scratch_backing_));
    throw;
  }
}

HostPlace::~HostPlace() {
  try {
    if (emulated_ || scratch_backing_) hosts_.run_at_the_end(removing(emulated_, scratch_backing_));
  } catch (const Wrong&) {  // there is nobody to tell
  }
}

void HostPlace::run(const std::string& job) const {
  write_file(hosts_.folder() + "/place.fio", job);
  hosts_.run({.folder = hosts_.folder(),
              .job = "place.fio",
              .out = "place.out",
              .err = "place.err",
              .section = "place"});
}

// With every block there, as a local one.
void HostPlace::make(const std::string& path, uint64_t bytes) const {
  try {
    run(section("place", path) +
        "rw=write\nbs=1m\nzero_buffers=1\nend_fsync=1\nsize=" + std::to_string(bytes) + "\n");
  } catch (const Wrong& wrong) {
    throw Wrong("cannot make " + path + " (" + size_of(bytes) + "): " + wrong.what());
  }
}

// A file that is shorter becomes longer. With create_on_open fio makes none that is not there; and
// it does not lay out the file before, after which failing it would remove what the user has.
void HostPlace::need_room(const std::string& path, uint64_t bytes) const {
  try {
    run(section("place", path) + "allow_file_create=0\ncreate_on_open=1\nrw=write\nbs=4k\nsize=" +
        std::to_string(kLastBytes) + "\noffset=" + std::to_string(bytes - kLastBytes) + "\n");
  } catch (const Wrong& wrong) {
    throw Wrong(path + ": expected a file, or a block device of " + size_of(bytes) +
                " or more, on each host: " + wrong.what());
  }
}

std::string HostPlace::removing(bool cache, bool backing) const {
  const std::string how = "allow_file_create=0\nrw=read\nbs=4k\nsize=4k\nunlink=1\n";
  return (cache ? section("place", cache_) + how : "") +
         (backing ? section("backing", backing_) + how : "");
}

// The next blank_cache() makes it anew: there a host that has died fails its case alone.
void HostPlace::begin_round() const { made_bytes_ = 0; }

void HostPlace::blank_cache(uint64_t cache_bytes) const {
  if (emulated_ && made_bytes_ != cache_bytes) {
    made_bytes_ = 0;
    try {
      run(removing(true, false));
    } catch (const Wrong&) {  // it is not there, or make() says what is wrong
    }
    make(cache_, cache_bytes);
    made_bytes_ = cache_bytes;
    return;
  }
  run(section("place", cache_) + "allow_file_create=0\nrw=write\nbs=4k\nzero_buffers=1\nsize=" +
      std::to_string(kFrameBytes) + "\n");
}

}  // namespace pcache::sweep
