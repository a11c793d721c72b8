# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception of this package."""


class MeasureError(Exception):
    """One line for the user: what, what was expected, what was found, what to do."""
