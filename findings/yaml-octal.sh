#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/yaml-octal.sh   yaml-cpp reads the octal numbers of C, and not those of YAML 1.2
#
# Expected: README: "a YAML parser and emitter in C++ matching the YAML 1.2 spec". Its core schema
# (10.3.2) has [-+]? [0-9]+ for a decimal, so 010 is ten, and 0o [0-7]+ for an octal number, so 0o10
# is eight.
# Seen: as<int>() of 010 is 8, of 09 and of 0o10 an exception: the text goes through an istream that
# takes the base from the prefix, as C does.
# Hurts: numbers that were padded to equal width (008, 016, 032) change their value or are refused,
# and another reader of the same file sees others.
# Guard: bench/sweep/spec.cc takes each value as text, and parameter.cc reads it with
# std::from_chars in base 10.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages libyaml-cpp-dev=0.7.0+dfsg-8+b1
cat >numbers.cc <<'END'
#include <iostream>
#include <yaml-cpp/yaml.h>
int main() {
  for (const char* text : {"10", "010", "09", "0o10"}) {
    std::cout << text << " is ";
    try {
      std::cout << YAML::Load(text).as<int>() << "; ";
    } catch (const YAML::BadConversion&) {
      std::cout << "refused; ";
    }
  }
}
END
compiled numbers.cc -lyaml-cpp
judge "10 is 10; 010 is 10; 09 is 9; 0o10 is 8; " \
  "10 is 10; 010 is 8; 09 is refused; 0o10 is refused; " "$(./program)"
