# SPDX-License-Identifier: GPL-2.0-or-later
#
# Sourced by every script here. Sets $work, a temp folder that is removed at the end, and goes there.
#
#   packages NAME=VERSION...        unpacks them, and what they depend on, below $work/root
#   unpacked PROGRAM [ARGUMENTS]    runs a program of these packages, with their libraries alone
#   words PROGRAM                   sets $command, the words that do so
#   compiled SOURCE [ARGUMENTS]     builds $work/program with the machine's C++ compiler
#   judge EXPECTED KNOWN SEEN       prints all; exit status 1 when SEEN is not KNOWN any more
#
# Nothing is installed; what needs root says so. Needs amd64 and the package lists of Debian 12.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
root=$work/root

packages() {
  mkdir -p debs/partial root
  # Against an empty status file apt fetches the whole closure, so the libraries fit the program.
  apt-get -qq --yes --download-only --no-install-recommends -o Dir::State::status=/dev/null \
    -o Dir::Cache="$work" -o Dir::Cache::archives="$work/debs" -o Debug::NoLocking=1 \
    -o APT::Sandbox::User= install "$@" >apt.log 2>&1 || { cat apt.log >&2 && exit 2; }
  local deb
  for deb in debs/*.deb; do
    case ${deb#debs/} in
      perl* | python3* | libperl* | libpython3* | debconf* | dpkg* | passwd* | adduser*) ;; # of no use here
      *) dpkg -x "$deb" root ;;
    esac
  done
  echo "packages: $*"
}

words() { # PROGRAM: sets $command, the words that run it
  local libs
  libs=$(find root/lib root/usr/lib -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
  command=(root/lib/*/ld-linux-*.so.* --library-path "$libs" "$(find root -path "*bin/$1")")
}

unpacked() {
  local command
  words "$1"
  "${command[@]}" "${@:2}"
}

compiled() {
  local source=$1 libs
  shift
  libs=$(echo root/usr/lib/*-linux-gnu)
  c++ -std=c++17 -isystem root/usr/include "$source" -o program -L"$libs" -Wl,-rpath,"$work/$libs" "$@"
}

judge() {
  printf 'expected: %s\nseen:     %s\n' "$1" "$3"
  [ "$3" = "$2" ] || { echo "CHANGED: it was: $2" >&2 && exit 1; }
  echo "still so"
}
