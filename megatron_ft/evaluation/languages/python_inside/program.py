"""Runs one tested program in its box and answers calls of its functions.

`python -m python_inside.program IN OUT`, the program's source on stdin.

This process holds nothing worth reading: no test, no expected value, no token. The program may take over every line
below; all that it gains is to answer calls, which is what it is there for.
"""

from __future__ import annotations

import linecache
import os
import sys
import types

from .wire import Channel, Ended, decode, encode

NAME = "program"


def error(problem: BaseException, stage: str) -> dict:
    """An exception as a message: the names of its classes, most special first, and its text."""
    try:
        text = str(problem)
    except Exception:
        text = ""
    return {"stage": stage, "error": [kind.__name__ for kind in type(problem).__mro__], "text": text[:2000]}


def load(source: str, names: list[str]) -> tuple[dict, dict]:
    """Run the program's top level; its globals, and the message that says what the asked names are."""
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module  # dataclasses and pickle look their module up
    linecache.cache[f"{NAME}.py"] = (len(source), None, source.splitlines(keepends=True), f"{NAME}.py")
    try:
        code = compile(source, f"{NAME}.py", "exec", dont_inherit=True)
    except Exception as problem:
        return {}, error(problem, "compile")
    try:
        exec(code, module.__dict__)
    except Exception as problem:
        return {}, error(problem, "load")
    found = {name: module.__dict__[name] for name in names if name in module.__dict__}
    return module.__dict__, {"names": {name: {"callable": True} if callable(value) else {"value": encode(value)}
                                       for name, value in found.items()}}


def answer(scope: dict, message: dict) -> dict:
    """Call one function; its value, and those arguments that the call changed."""
    arguments = [decode(argument) for argument in message["args"]]
    keywords = {name: decode(argument) for name, argument in message["kwargs"].items()}
    try:
        value = encode(scope[message["call"]](*arguments, **keywords))
    except Exception as problem:
        return error(problem, "call")
    after = [encode(argument) for argument in arguments]
    changed = {place: now for place, (now, before) in enumerate(zip(after, message["args"], strict=True))
               if now != before}
    return {"value": value, "changed": changed}


def main() -> None:
    """Say that the box stands, then load the program and answer until the tests are over."""
    channel = Channel(int(sys.argv[1]), int(sys.argv[2]))
    source = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    del sys.path[1]  # this package's
    sys.argv[:] = [f"{NAME}.py"]
    channel.send({"ready": True})
    try:
        scope, loaded = load(source, channel.receive()["load"])
        channel.send(loaded)
        while scope:
            channel.send(answer(scope, channel.receive()))
    except Ended:
        pass


if __name__ == "__main__":
    main()
