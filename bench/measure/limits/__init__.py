# SPDX-License-Identifier: GPL-2.0-or-later
"""The limits of the cache, one in each module: what it TAKES, and measure(). What each is compared to: LIMITS.md."""
