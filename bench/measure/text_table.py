# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables as text, and as GitHub's Markdown: the first column is names, the others are figures."""
import re


def as_text(head, rows):
    widths = [max(len(str(row[at])) for row in [head, *rows]) for at in range(len(head))]
    lines = [[str(cell).ljust(width) if at == 0 else str(cell).rjust(width)
              for at, (cell, width) in enumerate(zip(row, widths))] for row in [head, *rows]]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def as_markdown(head, rows):
    lines = [list(map(inline, head)), ["---", *["---:"] * (len(head) - 1)], *(list(map(inline, row)) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def inline(text):
    """Nothing in it is taken for Markdown or HTML, and it stays one line."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", text)
