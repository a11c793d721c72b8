// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/rescue.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <thread>

#include "inspect/new_file.h"
#include "inspect/survey_for_test.h"

namespace pcache {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/pcache-rescue-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const char* name) const { return path_ + "/" + name; }
  bool empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::string path_;
};

class RescueTest : public ImageTest {
 protected:
  RescueTest() : ImageTest() {
    BackingFile file;
    file.path = "backing";
    file.fd = UniqueFd(open("/tmp", O_TMPFILE | O_RDWR, 0600));
    file.size_bytes = kLogicalBytes;
    EXPECT_EQ(ftruncate(file.fd.get(), kLogicalBytes), 0);
    const std::vector<std::byte> page(kPageBytes, kOnDevice);
    for (uint64_t n : {1, 5000})
      EXPECT_EQ(pwrite(file.fd.get(), page.data(), kPageBytes, static_cast<off_t>(n * kPageBytes)),
                kPageBytes);
    backing_.emplace(std::move(file));
  }
  Result<RescueResult> run(bool force = false) {
    CheckReport report = check();
    RescueOptions options;
    options.to = to_;
    options.force = force;
    image_.memory().forbid_stores();
    auto result = rescue(image_.pmem(), *backing_, &report, options);
    image_.memory().allow_stores();
    lost_ = report.findings.count(Severity::kLost);
    return result;
  }
  std::byte at(uint64_t page) const {
    std::ifstream in(to_, std::ios::binary);
    in.seekg(static_cast<std::streamoff>(page * kPageBytes));
    std::vector<char> bytes(kPageBytes);
    in.read(bytes.data(), kPageBytes);
    EXPECT_EQ(in.gcount(), kPageBytes);
    EXPECT_EQ(std::count(bytes.begin(), bytes.end(), bytes[0]), kPageBytes) << "page " << page;
    return std::byte(bytes[0]);
  }

  static constexpr std::byte kOnDevice{0xdd};
  Folder folder_;
  const std::string to_ = folder_ / "whole";
  std::optional<BackingReader> backing_;
  uint64_t lost_ = 0;
};

TEST_F(RescueTest, TheCacheOverItsDeviceSparse) {
  image_.kset({}, {page(0, {kA, 0}), page(2, {kB, 4096}, media::kKeyClean)});
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().cached_bytes, 2 * kPageBytes);
  EXPECT_EQ(result.value().dirty_bytes, kPageBytes);
  EXPECT_EQ(at(0), letter({kA, 0}));
  EXPECT_EQ(at(1), kOnDevice);
  EXPECT_EQ(at(2), letter({kB, 4096}));
  EXPECT_EQ(at(3), std::byte{0});
  EXPECT_EQ(at(5000), kOnDevice);
  struct stat st;
  ASSERT_EQ(stat(to_.c_str(), &st), 0);
  EXPECT_EQ(static_cast<uint64_t>(st.st_size), kLogicalBytes);
  EXPECT_LT(st.st_blocks * 512, 1 << 20);
}

TEST_F(RescueTest, AFileThatIsThereStays) {
  std::ofstream(to_) << "precious";
  const auto result = run(true);
  EXPECT_EQ(result.error().code, EEXIST);
  std::string text;
  std::ifstream(to_) >> text;
  EXPECT_EQ(text, "precious");
}

TEST_F(RescueTest, AnUntrustedImageMakesNoFileUnlessForced) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  const CachePos third = image_.kset(second, {page(1, {kA, 4096})});
  image_.kset(third, {page(2, {kA, 8192})});
  image_.memory().flip_bit(image_.off(second) + sizeof(media::KsetHeader) + 3);
  EXPECT_EQ(run().error().code, EUCLEAN);
  EXPECT_TRUE(folder_.empty());
  const auto result = run(true);
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(lost_, 1u);
  EXPECT_EQ(at(0), letter({kA, 0}));
  EXPECT_EQ(at(1), kOnDevice) << "its kset is lost";
  EXPECT_EQ(at(2), letter({kA, 8192}));
}

TEST_F(RescueTest, UnreadableDirtyDataMakesNoFileUnlessForced) {
  image_.kset({}, {page(1, {kA, 0}), page(2, {kA, 4096})});
  image_.memory().checkpoint();
  image_.memory().make_unreadable(image_.off({kA, 0}));
  EXPECT_EQ(run().error().code, EUCLEAN);
  EXPECT_TRUE(folder_.empty());
  const auto result = run(true);
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().lost_bytes, kPageBytes);
  EXPECT_EQ(lost_, 1u) << "one range, though its neighbour is part of the same piece";
  EXPECT_EQ(at(1), kOnDevice);
  EXPECT_EQ(at(2), letter({kA, 4096}));
}

TEST_F(RescueTest, BehindAnUnreadablePageAndWithoutTailsTheLogIsFound) {
  std::vector<media::Key> keys;
  for (uint64_t i = 100; i < 220; i++)
    keys.push_back(page(i, {kA, static_cast<uint32_t>(i * 4096)}));  // a kset of more than a page
  const CachePos second = image_.kset({}, keys);
  const CachePos third = image_.last(image_.kset(second, {page(1, {kB, 0})}), SegId{5});
  image_.kset(third, {page(2, {kB, 4096})});
  image_.memory().checkpoint();
  image_.memory().make_unreadable(image_.off({}));
  image_.memory().make_unreadable(MediaOff{media::kCacheCtrlOff});
  EXPECT_EQ(run().error().code, EUCLEAN);
  const auto result = run(true);
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(at(1), letter({kB, 0}));
  EXPECT_EQ(at(2), letter({kB, 4096}));
  EXPECT_EQ(at(100), std::byte{0}) << "its kset is lost";
}

TEST_F(RescueTest, AStreamIsWrittenInOrderWithItsZeros) {
  image_.kset({}, {page(0, {kA, 0}), page(3000, {kB, 4096})});
  ASSERT_TRUE(run().ok());
  const UniqueFd stream(open("/tmp", O_TMPFILE | O_RDWR | O_APPEND, 0600));
  CheckReport report = check();
  RescueOptions options;
  options.to = "stream";
  options.stream = stream.get();
  const auto result = rescue(image_.pmem(), *backing_, &report, options);
  ASSERT_TRUE(result.ok()) << result.error().text;
  std::ifstream file(to_, std::ios::binary);
  std::vector<char> a(kLogicalBytes), b(kLogicalBytes + 1);
  file.read(a.data(), kLogicalBytes);
  ASSERT_EQ(pread(stream.get(), b.data(), b.size(), 0), static_cast<ssize_t>(kLogicalBytes));
  b.pop_back();
  EXPECT_TRUE(a == b);
}

TEST_F(RescueTest, AStreamThatTakesNoMoreForNowIsWaitedFor) {
  image_.kset({}, {page(0, {kA, 0}), page(3000, {kB, 4096})});
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd from(ends[0]);
  UniqueFd into(ends[1]);
  ASSERT_EQ(fcntl(into.get(), F_SETFL, O_NONBLOCK), 0);
  CheckReport report = check();
  RescueOptions options;
  options.to = "pipe";
  options.stream = into.get();
  uint64_t taken = 0;
  std::thread reader([&] {
    std::vector<char> bytes(1 << 20);
    for (ssize_t n; (n = read(from.get(), bytes.data(), bytes.size())) > 0;)
      taken += static_cast<uint64_t>(n);
  });
  const auto result = rescue(image_.pmem(), *backing_, &report, options);
  into = UniqueFd();
  reader.join();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(taken, kLogicalBytes);
}

TEST_F(RescueTest, TheWrongDiskIsNamedBeforeAllElse) {
  ASSERT_TRUE(write_identity(image_.pmem(), {"mine", kLogicalBytes}, 1).ok());
  image_.generation(kA, 2);
  image_.kset({}, {page(0, {kA, 0}, 0, 1)});
  const Error refused = run().error();
  EXPECT_EQ(refused.code, EUCLEAN);
  EXPECT_THAT(refused.text, AllOf(HasSubstr("\"mine\""), HasSubstr("--ignore-identity")));
  EXPECT_LT(refused.text.find("--ignore-identity"), refused.text.find("--force"));
}

// Many kinds of damage, and what check, attach and export, forced or not, report for each.
class MessagesTest : public RescueTest {
 protected:
  MessagesTest() {
    second_ = image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096})});
    third_ = image_.kset(second_, {page(2, {kA, 8192})});
    last_ = image_.kset(third_, {page(3, {kA, 12288})});
    fifth_ = image_.last(last_, SegId{1});
    end_ = image_.kset(fifth_, {page(4, {kB, 0}), page(5, {kB, 4096})});
    image_.dirty_tail(second_);
  }
  // "3:4096", "at 8192": once in a message; a finding's text does not repeat the finding's place.
  static void expect_each_place_once(const std::string& message) {
    static const std::regex kPlace(
        "\\b[0-9]+:[0-9]+\\b|\\bat [0-9]+(?![0-9:])|\\b(cache_info|key_tail)\\b");
    std::set<std::string> places;
    for (std::sregex_iterator at(message.begin(), message.end(), kPlace), end; at != end; ++at)
      EXPECT_TRUE(places.insert(at->str()).second) << at->str() << " twice in: " << message;
  }
  // The number of messages that name a place in the log.
  size_t look() {
    std::vector<std::string> messages;
    CheckReport report = check();
    LogLines lines;
    Recovered recovered;
    RecoverOptions options;
    options.device_bytes = kLogicalBytes;
    const auto frame = load_frame(image_.pmem(), lines.log());
    if (!frame) messages.push_back(frame.error().text);
    if (frame)
      if (const auto done = recover(image_.pmem(), frame.value(), options, lines.log(), &recovered);
          !done)
        messages.push_back(done.error().text);
    for (const bool force : {false, true}) {
      RescueOptions to;
      to.to = to_;
      to.force = force;
      const auto exported = rescue(image_.pmem(), *backing_, &report, to);
      if (!exported) messages.push_back(exported.error().text);
      std::filesystem::remove(to_);
    }
    for (const Finding& finding : report.findings.all())
      messages.push_back(finding.where + ": " + finding.text);
    messages.insert(messages.end(), lines.lines.begin(), lines.lines.end());
    for (const std::string& message : messages) expect_each_place_once(message);
    return static_cast<size_t>(std::count_if(
        messages.begin(), messages.end(),
        [](const std::string& message) { return message.find("log at ") != std::string::npos; }));
  }

  CachePos second_, third_, last_, fifth_, end_;
};

TEST_F(MessagesTest, OfEachDamagedWordOfTheLogSayEachPlaceOnce) {
  size_t told = 0;
  for (const auto& [from, to] : {std::pair(CachePos{}, fifth_), std::pair(last_, last_ + 32),
                                 std::pair(fifth_, end_ + 32)}) {
    for (CachePos at = from; at.seg == from.seg && at != to && at.off < last_.off + 32;
         at = at + 4) {
      SCOPED_TRACE(::testing::Message() << "bit at " << at.seg.v << "-" << at.off);
      image_.memory().flip_bit(image_.off(at), 1);
      told += look();
      image_.memory().flip_bit(image_.off(at), 1);
    }
  }
  EXPECT_GT(told, 200u);
}

TEST_F(MessagesTest, OfOneRecordOfEachKindSayEachPlaceOnce) {
  const auto bad_key = [this](const media::Key& key) {
    image_.clear_header(image_.kset(end_, {key}));
    EXPECT_GT(look(), 0u);
    image_.clear_header(end_);
  };
  bad_key(make_key({kLogicalBytes, 512}, {kA, 16384}));
  bad_key(make_key({512, 512}, {SegId{0}, 1 << 20}));
  bad_key(make_key({512, 512}, {SegId{99}, 0}));
  for (const uint32_t next : {0u, 1u, 99u, kA.v}) {
    image_.last(end_, SegId{next});
    EXPECT_GT(look(), 0u) << next;
    image_.clear_header(end_);
  }
  for (const CachePos tail : {second_ + 8, CachePos{SegId{9}, 0}, CachePos{SegId{99}, 8}}) {
    image_.dirty_tail(tail);
    look();
    image_.dirty_tail(second_);
  }
  image_.key_tail({SegId{99}, 8});
  look();
  image_.key_tail({});
  Replicated<media::CacheInfo> record(cache_info_place());
  const media::CacheInfo info = *record.load(image_.pmem());
  for (const auto& change : std::initializer_list<std::function<void(media::CacheInfo&)>>{
           [](media::CacheInfo& bad) { bad.n_segs = 0; },
           [](media::CacheInfo& bad) { bad.flags = 0; },
           [](media::CacheInfo& bad) { bad.flags |= media::kInfoModeMask << 4; }}) {
    media::CacheInfo bad = info;
    change(bad);
    ASSERT_TRUE(record.write(image_.pmem(), bad));
    image_.pmem().fence();
    look();
  }
}

TEST_F(MessagesTest, OfEachUnreadablePageSayEachPlaceOnce) {
  for (const MediaOff page : {image_.off({}), image_.off(fifth_), image_.off({kA, 0}),
                              image_.off({kB, 0}), MediaOff{media::kSuperblockOff},
                              MediaOff{media::kCacheInfoOff}, MediaOff{media::kCacheCtrlOff}}) {
    SCOPED_TRACE(::testing::Message() << "page at " << page.v);
    std::vector<std::byte> kept(kPageBytes);
    ASSERT_TRUE(image_.pmem().load(kept.data(), page, kPageBytes));
    image_.memory().make_unreadable(page);
    look();
    ASSERT_TRUE(image_.pmem().store(page, kept.data(), kPageBytes));
    image_.pmem().fence();
  }
}

TEST_F(RescueTest, ANewFileIsThereOnlyWhenPublished) {
  {
    auto file = NewFile::create(to_);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file.value().write(0, "x", 1).ok());
  }
  EXPECT_TRUE(folder_.empty());
  auto file = NewFile::create(to_);
  ASSERT_TRUE(file.ok());
  std::ofstream(to_) << "came first";
  EXPECT_EQ(file.value().publish().error().code, EEXIST);
}

}  // namespace
}  // namespace pcache
