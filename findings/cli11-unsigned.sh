#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/cli11-unsigned.sh   CLI11 takes -1, and too large a number, for a uint64_t
#
# Expected: README: "`CLI::TypeValidator<unsigned int>()` would require that the input be
# convertible to an `unsigned int`", and book, the chapter on options: "Non-integer results will
# fail". What does not fit a type is an error, as it is for uint32_t.
# Seen: for uint64_t -1 is 18446744073709551615, 18446744073709551616 is the same number, and
# AsSizeValue takes -1 too: strtoull() is asked, whose negation and ERANGE nobody looks at. An empty
# argument is 0, of either width.
# Hurts: --size=-1 or one digit too many is the largest number there is, `--size "$unset"` is 0; no
# error is printed.
# Guard: sizes are checked after parsing: pcachectl refuses that number as larger than any file, and
# makes no file.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages libcli11-dev=2.1.2+ds-1
cat >numbers.cc <<'END'
#include <CLI/CLI.hpp>
#include <iostream>
template <class T>
void parse(const char* name, const std::string& text, bool size = false) {
  CLI::App app;
  T value = 7;
  auto* option = app.add_option("--n", value);
  if (size) option->transform(CLI::AsSizeValue(false));
  std::cout << name << " '" << text << "': ";
  try {
    app.parse(std::vector<std::string>{text, "--n"});  // last argument first
    std::cout << value << "\n";
  } catch (const CLI::ParseError&) {
    std::cout << "refused\n";
  }
}
int main() {
  parse<uint32_t>("uint32_t", "-1");
  parse<uint64_t>("uint64_t", "-1");
  parse<uint64_t>("size", "-1", true);
  parse<uint32_t>("uint32_t", "4294967296");
  parse<uint64_t>("uint64_t", "18446744073709551616");
  parse<uint32_t>("uint32_t", "");
  parse<uint64_t>("uint64_t", "");
}
END
compiled numbers.cc
judge "refused, all of them" "uint32_t '-1': refused
uint64_t '-1': 18446744073709551615
size '-1': 18446744073709551615
uint32_t '4294967296': refused
uint64_t '18446744073709551616': 18446744073709551615
uint32_t '': 0
uint64_t '': 0" "$(./program)"
