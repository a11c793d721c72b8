# SPDX-License-Identifier: GPL-2.0-or-later
"""How far something is, on standard error: a line that is written over at a terminal, else one for each tenth."""
import sys


class Progress:
    def __init__(self, what, number, quiet=False):
        self.what, self.number, self.done, self.said = what, number, 0, 0.0
        self.quiet, self.is_terminal = quiet or number == 0, sys.stderr.isatty()

    def step(self):
        self.done += 1
        is_last, part = self.done == self.number, self.done / max(1, self.number)
        if self.quiet or not (self.is_terminal or is_last or part >= self.said + 0.1):
            return
        self.said = part
        line = f"{self.what} {self.done} of {self.number}"
        print(f"\r\033[K{line}" if self.is_terminal else line, end="" if self.is_terminal and not is_last else "\n",
              file=sys.stderr, flush=True)
