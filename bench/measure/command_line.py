# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of report, compare and gate: what is wrong is one line."""
import argparse
import re

from .errors import MeasureError


class Parser(argparse.ArgumentParser):
    """Its help is the module's own text; what is wrong is one line, as everywhere."""

    def __init__(self, name, text):
        super().__init__(prog=f"pcache-sweep {name}", description=text,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
        self.name = name

    def error(self, message):
        raise MeasureError(f"{self.name}: {message}; pcache-sweep {self.name} --help says what there is")


def regex(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"`{text}`: expected a regular expression: {error}") from None


def reason(text):
    if not text.strip():
        raise argparse.ArgumentTypeError("expected why, in words")
    return text
