# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep report | compare | gate: what was measured, drawn and judged. Run by pcache-sweep."""
import sys

if __name__ == "__main__":
    COMMANDS = ("report", "compare", "gate")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: pcache-sweep {'|'.join(COMMANDS)} ...", file=sys.stderr)
        sys.exit(2)
    try:
        module = __import__(sys.argv[1])
    except ModuleNotFoundError as missing:
        print(f"pcache-sweep: Python's {missing.name} is missing; scripts/setup installs it", file=sys.stderr)
        sys.exit(2)
    from children import Terminated, watch_sigterm
    from results import Wrong
    watch_sigterm()
    try:
        sys.exit(module.main(sys.argv[2:]))
    except (Wrong, OSError) as wrong:
        print(f"pcache-sweep: {wrong}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Terminated:
        sys.exit(143)
    except Exception as error:  # pylint: disable=broad-exception-caught
        # Not 1, which is a verdict.
        what = f"{type(error).__name__} {error}".replace("\n", " ")
        print(f"pcache-sweep: {sys.argv[1]}: {what}; what it read is damaged, or this is a bug", file=sys.stderr)
        sys.exit(2)
