# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes in bytes, and as people write them."""

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
UNITS = {"k": KIB, "m": MIB, "g": GIB, "t": 1 << 40}


def bytes_of(size):
    """"4k", or "4KiB" -> 4096."""
    size = size.lower().removesuffix("ib")
    return int(float(size[:-1]) * UNITS[size[-1]]) if size[-1] in UNITS else int(size)


def in_units(number, *units):
    """In the greatest of the units, each 1024 of the one before, that it is a multiple of."""
    return next(f"{number >> shift} {units[shift // 10]}" for shift in range(10 * len(units) - 10, -1, -10)
                if number % (1 << shift) == 0)


def size_text(size):
    """4096 -> "4 KiB"."""
    return in_units(size, "B", "KiB", "MiB", "GiB", "TiB", "PiB")
