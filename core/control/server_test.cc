// SPDX-License-Identifier: GPL-2.0-or-later
// The server with real sockets, and commands that the test answers.
#include "control/server.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <condition_variable>
#include <cstring>
#include <mutex>

#include "control/client.h"
#include "control/folder_for_test.h"
#include "control/protocol.h"

namespace pcache {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class FakeCommands : public ControlServer::Commands {
 public:
  Result<std::string> run(std::string_view line) override {
    runs_++;
    if (line == "large") return std::string(4 << 20, 'x');
    if (line == "bad") return make_error(EXDEV, "bad\nin two lines");
    if (line == "none") throw std::bad_alloc();
    return std::string("<").append(line).append(">");
  }
  // Until the test lets it end, or it is given up.
  Status drain(const std::atomic<bool>& given_up) override {
    std::unique_lock lock(mu_);
    drains_++;
    changed_.notify_all();
    while (!given_up.load() && lets_ == 0) changed_.wait_for(lock, std::chrono::milliseconds(1));
    if (given_up.load()) {
      given_up_++;
      changed_.notify_all();
      return make_error(ECANCELED, "given up");
    }
    lets_--;
    return {};
  }
  void give_up_drain(bool on) override { gives_up_ += on ? 1 : -1; }

  void let() {
    const std::lock_guard lock(mu_);
    lets_++;
    changed_.notify_all();
  }
  void wait_for_drains(int n) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return drains_ >= n; });
  }
  void wait_until_given_up(int n) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return given_up_ >= n; });
  }
  std::atomic<int> runs_{0}, gives_up_{0};

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  int drains_ = 0, lets_ = 0, given_up_ = 0;
};

// Sends and receives bytes as they are, and waits for them.
class Raw {
 public:
  explicit Raw(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0)
        << strerror(errno);
  }
  void send(const std::string& text) {
    EXPECT_EQ(::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  void end() { shutdown(fd_.get(), SHUT_WR); }
  std::string receive(size_t n) {
    std::string text(n, 0);
    const ssize_t got = recv(fd_.get(), text.data(), n, MSG_WAITALL);
    text.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return text;
  }
  // All that comes until the server closes it.
  std::string rest() {
    std::string text, more;
    while (!(more = receive(1)).empty()) text += more;
    return text;
  }
  // By the other end, whatever is left to be received.
  void wait_until_closed() {
    pollfd closed{fd_.get(), 0, 0};
    EXPECT_EQ(poll(&closed, 1, -1), 1);
    EXPECT_TRUE(closed.revents & POLLHUP);
  }
  // False: nothing comes, nor is it closed, for as long as a test can wait.
  bool has_input(int timeout_ms) {
    pollfd ready{fd_.get(), POLLIN, 0};
    return poll(&ready, 1, timeout_ms) > 0;
  }

 private:
  const UniqueFd fd_;
};

class ControlServerTest : public ::testing::Test {
 protected:
  void start(const ControlServer::Limits& limits = {}) {
    auto socket = ControlSocket::listen(path_, false);
    ASSERT_TRUE(socket.ok()) << socket.error().text;
    auto server = ControlServer::start(socket.take(), commands_, limits);
    ASSERT_TRUE(server.ok()) << server.error().text;
    server_ = server.take();
  }
  ControlClient client() { return ControlClient::connect(path_).take(); }

  const TempFolder folder_;
  const std::string path_ = folder_ / "s";
  FakeCommands commands_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, AnswersEachLine) {
  start();
  auto asks = client();
  EXPECT_EQ(asks.ask("one").value(), "<one>");
  EXPECT_EQ(asks.ask("two words").value(), "<two words>");
  EXPECT_EQ(asks.ask("").value(), "<>");
  const auto bad = asks.ask("bad");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, EXDEV);
  EXPECT_EQ(bad.error().text, "bad?in two lines");
  EXPECT_EQ(asks.ask("large").value().size(), 4u << 20);
  EXPECT_EQ(asks.ask("after it").value(), "<after it>");
}

TEST_F(ControlServerTest, LinesComeInAnyPieces) {
  start();
  Raw raw(path_);
  raw.send("on");
  raw.send("e\ntwo\r\nth");
  EXPECT_EQ(raw.receive(20), "ok 5\n<one>ok 5\n<two>");
  raw.send("ree");
  raw.end();
  EXPECT_EQ(raw.rest(), "ok 7\n<three>") << "the last line needs no newline";
}

TEST_F(ControlServerTest, NoLineIsTooMuch) {
  start();
  Raw raw(path_);
  raw.send(std::string(control::kMostLine, 'x'));
  EXPECT_THAT(raw.rest(), StartsWith("error 22 a command has no more than"));
  EXPECT_EQ(commands_.runs_, 0);
  Raw garbage(path_);
  garbage.send(std::string("\0\xff\x1b[2J\n", 7));
  EXPECT_THAT(garbage.receive(4), "ok 8");
  EXPECT_EQ(client().ask("x").value(), "<x>");
}

TEST_F(ControlServerTest, HalfALineIsWaitedForOnlySoLong) {
  start({.patience = std::chrono::milliseconds(50)});
  auto idle = client();
  Raw half(path_);
  half.send("stat");
  EXPECT_EQ(half.rest(), "") << "closed";
  EXPECT_EQ(idle.ask("x").value(), "<x>") << "who sends nothing stays";
}

TEST_F(ControlServerTest, AnAnswerThatIsNotTakenIsKeptOnlySoLong) {
  start({.patience = std::chrono::milliseconds(50)});
  Raw slow(path_);
  for (int i = 0; i < 4; i++) slow.send("large\n");
  while (commands_.runs_ == 0) std::this_thread::yield();
  auto other = client();
  for (int i = 0; i < 100; i++) ASSERT_EQ(other.ask("x").value(), "<x>");
  slow.wait_until_closed();
  EXPECT_LT(slow.rest().size(), 4u << 20);
  EXPECT_EQ(commands_.runs_, 101) << "none is run before the answer to the last is taken";
  EXPECT_EQ(other.ask("x").value(), "<x>");
}

TEST_F(ControlServerTest, WhoHasBeenIdleForLongestMakesPlace) {
  start({.clients = 3});
  auto first = client(), second = client(), third = client();
  for (ControlClient* each : {&first, &second, &third}) ASSERT_EQ(each->ask("x").value(), "<x>");
  EXPECT_EQ(first.ask("again").value(), "<again>");
  EXPECT_EQ(client().ask("new").value(), "<new>");
  EXPECT_EQ(second.ask("x").error().code, ECONNRESET);
  EXPECT_EQ(first.ask("x").value(), "<x>");
  EXPECT_EQ(third.ask("x").value(), "<x>");
}

TEST_F(ControlServerTest, ManyConnectionsDoNoHarm) {
  start({.clients = 4});
  for (int round = 0; round < 4; round++) {
    std::vector<std::unique_ptr<Raw>> many;
    for (int i = 0; i < 250; i++) {
      many.push_back(std::make_unique<Raw>(path_));
      many.back()->send(i % 2 ? "x" : "x\n");
    }
    EXPECT_EQ(client().ask("x").value(), "<x>");
  }
}

TEST_F(ControlServerTest, ADrainKeepsNobodyWaiting) {
  start();
  Raw drains(path_);
  drains.send("drain\nafter\n");
  commands_.wait_for_drains(1);
  EXPECT_EQ(client().ask("x").value(), "<x>");
  EXPECT_EQ(commands_.runs_, 1);
  commands_.let();
  EXPECT_EQ(drains.receive(17), "ok 0\nok 7\n<after>");
}

// It may have begun before what the second has to be drained.
TEST_F(ControlServerTest, ASecondDrainIsOneOfItsOwn) {
  start();
  Raw first(path_), second(path_);
  first.send("drain\n");
  commands_.wait_for_drains(1);
  second.send("drain\n");
  commands_.let();
  EXPECT_EQ(first.receive(5), "ok 0\n");
  commands_.wait_for_drains(2);
  EXPECT_FALSE(second.has_input(0));
  commands_.let();
  EXPECT_EQ(second.receive(5), "ok 0\n");
}

TEST_F(ControlServerTest, ADrainThatNobodyWaitsForIsGivenUp) {
  start();
  auto other = client();
  {
    Raw drains(path_);
    drains.send("drain\n");
    commands_.wait_for_drains(1);
    drains.end();
    EXPECT_EQ(other.ask("x").value(), "<x>");
    EXPECT_FALSE(drains.has_input(0)) << "it still waits";
  }
  commands_.wait_until_given_up(1);
  Raw again(path_);
  again.send("drain\n");
  commands_.wait_for_drains(2);
  commands_.let();
  EXPECT_EQ(again.receive(5), "ok 0\n");
}

TEST_F(ControlServerTest, StopsDuringADrain) {
  start();
  Raw drains(path_), waits(path_);
  drains.send("drain\n");
  commands_.wait_for_drains(1);
  waits.send("drain\n");
  server_->stop();
  EXPECT_EQ(commands_.gives_up_, 0) << "what comes next is not given up";
  EXPECT_EQ(drains.rest() + waits.rest(), "");
  server_->stop();
  server_.reset();
  EXPECT_EQ(ControlClient::connect(path_).error().code, ENOENT);
}

// It has the connection and the socket, too.
TEST_F(ControlServerTest, AForkedChildKeepsNobodyWaiting) {
  start();
  Raw drains(path_);
  drains.send("drain\n");
  commands_.wait_for_drains(1);
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  server_->stop();
  EXPECT_EQ(drains.rest(), "") << "closed";
  EXPECT_EQ(ControlClient::connect(path_).error().code, ECONNREFUSED);
  kill(child, SIGKILL);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

TEST_F(ControlServerTest, ACommandWithoutMemoryEndsItsClientAlone) {
  start();
  auto other = client();
  Raw raw(path_);
  raw.send("none\n");
  EXPECT_EQ(raw.rest(), "");
  EXPECT_EQ(other.ask("x").value(), "<x>");
}

TEST(ControlClient, WhatIsNoCacheIsSaid) {
  const TempFolder folder;
  const std::string path = folder / "s";
  auto socket = ControlSocket::listen(path, false);
  ASSERT_TRUE(socket.ok());
  for (const std::string& answer :
       {std::string("hello\n"), std::string("ok\n"), std::string("ok x\n"), std::string("ok -1\n"),
        std::string("ok 99999999999\n"), std::string("ok 1\nxx"), std::string(2000, 'x')}) {
    std::thread other([&] {
      pollfd ready{socket.value().fd(), POLLIN, 0};
      poll(&ready, 1, -1);
      const UniqueFd fd(accept(socket.value().fd(), nullptr, nullptr));
      char line[16];
      EXPECT_GT(recv(fd.get(), line, sizeof line, 0), 0);
      EXPECT_GT(send(fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL), 0);
    });
    auto client = ControlClient::connect(path);
    const auto result = client.value().ask("info");
    ASSERT_FALSE(result.ok()) << answer;
    EXPECT_EQ(result.error().code, EPROTO) << answer << result.error().text;
    other.join();
  }
  auto client = ControlClient::connect(path);
  EXPECT_EQ(client.value().ask("info", 1).error().code, ETIMEDOUT);
}

}  // namespace
}  // namespace pcache
