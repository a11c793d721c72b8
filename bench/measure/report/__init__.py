# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep report: kept results as one page."""
