"""Python imports this at its start, where this folder is on its path.

When a verb of medtune ends, the functions of the package that it called, but for those called by
imports, are written to `$MEDTUNE_CALLED/<verb>.<process>`, one `module:function` per line.
"""

import atexit
import os
import sys
import threading
from pathlib import Path

CALLED: set[str] = set()
FUNCTION = 1  # the flag of a function's code, which that of a class or module lacks


def note(frame, event, _):
    """Keep the name of a function that is called."""
    code = frame.f_code
    before, found, module = code.co_filename.rpartition("/workflow/medtune/")
    if not found or not code.co_flags & FUNCTION:
        return
    module = module.removesuffix(".py").removesuffix("__init__").strip("/").replace("/", ".")
    name = f"{module}:{code.co_qualname.partition('.<')[0]}"
    if name in CALLED:
        return
    caller = frame.f_back
    while caller is not None:
        where = caller.f_code.co_filename
        inside = where.startswith(f"{before}{found}") and "__main__" not in where
        if caller.f_code.co_name == "<module>" and inside:
            return
        caller = caller.f_back
    CALLED.add(name)


@atexit.register
def write() -> None:
    """Write the names."""
    if CALLED and len(sys.argv) > 1:
        path = Path(os.environ["MEDTUNE_CALLED"]) / f"{sys.argv[1]}.{os.getpid()}"
        path.write_text("\n".join(sorted(CALLED)))


if "MEDTUNE_CALLED" in os.environ:
    sys.settrace(note)
    threading.settrace(note)
