#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The ABI of libpcache.so against core/capi/libpcache.abi. What may change: core/capi/ABI.md.

tests/abi.py            says what has changed
tests/abi.py --accept   writes the description anew
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CAPI = ROOT / "core" / "capi"
HEADERS = ROOT / "core" / "include"
DESCRIPTION = CAPI / "libpcache.abi"
TOOLS = ("abidw", "abidiff")
# May get fields at their end, see ABI.md.
GROWING = ("pcache_options", "pcache_option_info", "pcache_info", "pcache_status_field", "pcache_raw_options")


def missing():
    """The tools that are not there."""
    return [tool for tool in TOOLS if not shutil.which(tool)]


def run(*command, ok=(0,)):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode not in ok:
        raise RuntimeError(f"{command[0]}: exit status {done.returncode}: {done.stderr}{done.stdout}")
    return done


def declarations(headers=HEADERS):
    """The functions of the two headers: {name: declaration, without the semicolon}. Not those with a body."""
    text = "".join(re.sub(r"/\*.*?\*/", "", (headers / name).read_text(), flags=re.S)
                   for name in ("pcache.h", "pcache_raw.h"))
    found = re.findall(r"^([a-z][^;{}#]*?\b(pcache_\w+)\([^;{}]*\));", text, flags=re.M)
    return {name: declaration for declaration, name in found if not declaration.startswith(("static", "typedef"))}


def build(folder, headers):
    """A library that exports what the headers declare, with what a debugger knows of it.

    That libpcache.so exports the same is tested apart; that its functions are those of the headers its compiler sees.
    """
    library, source = folder / "libpcache.so", folder / "declared.c"
    functions = list(declarations(headers).values())
    # Not all values are reached through a function: of those that are not, one that only the description has.
    text = (headers / "pcache.h").read_text()
    macros = re.findall(r"^#define (PCACHE_[A-Z_]+) (?:\\\n)?.+", text, flags=re.M)
    # Each alone: two enums of the same values are the same to abidiff, whatever name has which.
    values = "".join(f"enum macro_{name} {{ VALUE_{name} = {name} }};\n" for name in macros)
    functions += [f"void pcache_values_of_{name}(enum {name} value)" for name in
                  re.findall(r"^enum (pcache_\w+) \{", text, flags=re.M) + [f"macro_{name}" for name in macros]]
    bodies = "".join(f"{one} {{ __builtin_trap(); }}\n" for one in functions)
    (folder / "macros").mkdir()
    (folder / "macros" / "macros.h").write_text(values)
    source.write_text(f'#include "pcache.h"\n#include "pcache_raw.h"\n#include "macros/macros.h"\n{bodies}')
    run("gcc", "-g", "-O0", "-fPIC", "-shared", "-nostdlib", f"-I{headers}", source,
        f"-Wl,--version-script={CAPI / 'libpcache.map'}", "-o", library)
    return library


def describe(folder, headers=HEADERS):
    """Of the exported functions and the structs of the headers, without what depends on the machine."""
    out = folder / "now.abi"
    library = build(folder, headers)
    run("abidw", "--headers-dir", headers, "--headers-dir", folder / "macros", "--drop-private-types",
        "--drop-undefined-syms", "--no-show-locs", "--no-corpus-path", "--no-comp-dir-path", "--no-elf-needed",
        "--type-id-style", "hash", "--out-file", out, library)
    # Names of source files and compilers are no part of it.
    text = re.sub(r" (path|producer)='[^']*'", "", out.read_text())
    out.write_text(text)
    return out


def noticed(changes):
    """Of what abidiff says, the parts that an older program notices: all but structs and enums that have grown."""
    parts = re.split(r"^(?='|\d+ )", changes.split("\n\n", 1)[-1], flags=re.M)[1:]
    return "".join(part for part in parts if not has_grown(part))


def has_grown(part):
    """Whether it is about one type that has more at its end, or more values, and has changed in nothing else."""
    kind = re.match(r"'(struct|enum) (\w+)' changed:\n", part)
    lines = [line.strip() for line in part.strip().splitlines()[1:]]
    if kind and kind[1] == "enum":
        return all(re.fullmatch(r"type size hasn't changed|\d+ enumerator insertions?:|'\S+' value '-?\d+'", line)
                   for line in lines)
    if not kind or kind[2] not in GROWING:
        return False
    size = re.fullmatch(r"type size changed from (\d+) to \d+ \(in bits\)", lines[0])
    inserted = [re.fullmatch(r"'[^']+', at offset (\d+) \(in bits\)", line) for line in lines[2:]]
    return bool(size and re.fullmatch(r"\d+ data member insertions?:", lines[1]) and
                all(one and int(one[1]) >= int(size[1]) for one in inserted))


def compare(now):
    """(what older programs notice, all that has changed), as texts."""
    done = run("abidiff", "--no-show-locs", "--harmless", "--leaf-changes-only", DESCRIPTION, now, ok=(0, 4, 8, 12))
    if not done.returncode:
        return "", ""
    older = run("abidiff", "--no-show-locs", "--harmless", "--leaf-changes-only", "--no-added-syms", DESCRIPTION, now,
                ok=(0, 4, 8, 12))
    return noticed(older.stdout) if older.returncode else "", done.stdout


def main():
    if missing():
        sys.exit(f"abi: {', '.join(missing())}: not installed: scripts/setup installs abigail-tools")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        now = describe(folder)
        if sys.argv[1:] == ["--accept"]:
            DESCRIPTION.write_text(now.read_text())
            print(f"abi: {DESCRIPTION.relative_to(ROOT)} is written")
            return
        if sys.argv[1:]:
            sys.exit("usage: tests/abi.py [--accept]")
        broken, changed = compare(now)
        print(broken or changed or "abi: nothing has changed")
        if broken:
            sys.exit("abi: older programs would notice: see core/capi/ABI.md, N + 1")
        if changed:
            sys.exit("abi: older programs do not notice; tests/abi.py --accept, and commit the description")


if __name__ == "__main__":
    main()
