# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep report | compare | gate: what was measured, drawn and judged. Run by pcache-sweep."""
import sys

if __name__ == "__main__":
    COMMANDS = ("report", "compare", "gate")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: pcache-sweep {'|'.join(COMMANDS)} ...")
    try:
        module = __import__(sys.argv[1])
    except ModuleNotFoundError as missing:
        sys.exit(f"pcache-sweep: Python's {missing.name} is missing; scripts/setup installs it")
    from results import Wrong
    try:
        sys.exit(module.main(sys.argv[2:]))
    except (Wrong, OSError) as wrong:
        print(f"pcache-sweep: {wrong}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
