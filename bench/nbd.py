#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures nbdkit's plugins side by side: see --help."""
from measure.entry import run_module

if __name__ == "__main__":
    run_module("nbd.py", "measure.nbd")
