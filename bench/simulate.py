#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Computes what many threads would do: see --help."""
from measure.entry import run_module

if __name__ == "__main__":
    run_module("simulate.py", "measure.lock_model")
