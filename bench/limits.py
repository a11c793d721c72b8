#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures the limits of the cache, each beside its bound: see LIMITS.md and --help."""
from measure.entry import run_module

if __name__ == "__main__":
    run_module("limits.py", "measure.limits.command")
