# SPDX-License-Identifier: GPL-2.0-or-later
"""The measuring side in Python: what pcache-sweep has measured, drawn and judged; limits; a model. Map: README.md."""
