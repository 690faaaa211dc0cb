"""What hostile programs try, in whatever language: kind -> the statuses that its verdict may have. None may pass."""

from __future__ import annotations

from collections.abc import Mapping

FAILED, REFUSED, TIMEOUT, ERROR = "failed", "refused", "timeout", "compile error"
ENDLESS = {FAILED, REFUSED, TIMEOUT}

RESOURCES = {
    "forks without end": ENDLESS,
    "starts threads without end": ENDLESS,
    "takes memory": {FAILED, REFUSED},
    "takes memory in parts": {REFUSED},
    "takes memory that no process shows": {FAILED, REFUSED},
    "fills its disk": {FAILED},
    "makes a huge sparse file": {FAILED},
    "makes files without end": ENDLESS,
    "opens files without end": {FAILED},
    "writes without end": {REFUSED},
    "loops without end": {TIMEOUT},
    "loops with its signals held": {TIMEOUT},
    "sleeps": {TIMEOUT},
    "stops itself": {TIMEOUT},
    "raises its limits": {FAILED},
}
OTHERS = {
    "leaves an orphan": {FAILED},
    "kills its parent": {FAILED},
    "kills everything": {FAILED},
    "stops everything": {FAILED, TIMEOUT},
    "traces its parent": {FAILED},
    "becomes another program": {FAILED, REFUSED},
    "leaves something for the next program": {FAILED},
}
REACH = {
    "connects to the host": {FAILED},
    "connects to an abstract socket": {FAILED},
    "reads the host's home": {FAILED},
    "reads the host's users": {FAILED},
    "reads the caller's environment": {FAILED},
    "looks into /proc": {FAILED},
    "finds the tests in files": {FAILED},
    "finds the token": {FAILED},
    "finds a folder among its descriptors": {FAILED},
    "writes outside its folder": {FAILED},
    "changes its runner": {FAILED},
    "deletes everything": {FAILED},
    "follows a link out of its box": {FAILED},
    "makes a device": {FAILED},
    "becomes root": {FAILED},
    "makes a namespace": {FAILED},
    "mounts": {FAILED},
}
VERDICT = {
    "writes a verdict to every descriptor": {FAILED, REFUSED},
    "guesses the end token": {FAILED, REFUSED},
    "leaves before its tests": {FAILED},
    "leaves at once": {FAILED},
    "leaves when it is called": {FAILED},
    "leaves from a hook": {FAILED},
    "patches what asserts": {FAILED},
    "equals everything": {FAILED},
    "replaces what it is built of": {FAILED, REFUSED},
    "takes over its runner": {FAILED, REFUSED},
    "throws what ends tests": {FAILED},
    "closes every descriptor": {FAILED, REFUSED},
    "crashes": {FAILED},
}
COMPILING = {
    "takes in a file of the host": {ERROR},
    "takes in the file that it is in": {ERROR},
    "takes in the environment": {ERROR},
    "runs code in the compiler": {ERROR, FAILED},
    "compiles without end": {ERROR, TIMEOUT},
    "takes memory when compiled": {ERROR, REFUSED, TIMEOUT},
    "is too large when built": {ERROR, REFUSED},
    "is nested too deep": {ERROR, FAILED},
    "is no text": {ERROR},
    "is longer than a program": {REFUSED},
    "defines nothing": {ERROR, FAILED},
}
OF_BOXES = (*RESOURCES, *OTHERS, *REACH, *list(COMPILING)[:3])
"""Those that another kind of box could hold worse; the others are held by how a program is judged."""
WORK_UNBOXED = ("connects to the host", "connects to an abstract socket", "reads the host's home", "reads the host's users",
                "looks into /proc", "writes outside its folder", "leaves something for the next program")
"""Those that succeed without a box and do no harm in a machine of their own (`world.py`)."""
KINDS: Mapping[str, set[str]] = {**RESOURCES, **OTHERS, **REACH, **VERDICT, **COMPILING}
