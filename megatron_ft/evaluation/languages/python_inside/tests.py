"""Runs one problem's tests in a box of their own.

`python -m python_inside.tests IN OUT VERDICT`, the job as JSON on stdin.

The tests call the program's functions over a pipe. What the program cannot reach from its own box: the tests, the
values they expect, the token that is written after their last assert, and this process.
"""

from __future__ import annotations

import builtins
import json
import os
import symtable
import sys
import traceback

from .wire import Breach, Channel, Ended, NotCarriedError, Opaque, decode, encode, strangers


class Program:
    """The tested program, as its functions look from here."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.over: BaseException | None = None  # the first Breach or Ended, also if a test swallowed it

    def ask(self, message: dict | None) -> dict:
        """Send one message and return the answer."""
        try:
            if message is not None:
                self.channel.send(message)
            return self.channel.receive()
        except (Breach, Ended) as problem:
            self.over = self.over or problem
            raise

    def function(self, name: str) -> object:
        """A function that calls the program's function of that name."""

        def call(*args: object, **kwargs: object) -> object:
            for value in (*args, *kwargs.values()):
                check_carried(value)
            reply = self.ask({"call": name, "args": [encode(value) for value in args],
                              "kwargs": {key: encode(value) for key, value in kwargs.items()}})
            if "error" in reply:
                problem = raised(reply)
                problem.of_program = True
                raise problem
            try:
                bring_back(args, reply.get("changed", {}))
                return decode(reply.get("value"))
            except Breach as problem:
                self.over = self.over or problem
                raise

        call.__name__ = name
        return call


def check_carried(value: object) -> None:
    """Raise TypeError where a value holds a program's own strange one, NotCarriedError for what the tests themselves pass.

    A program decides what it returns: tests that hand it on, in a list or by itself, must not stop the run.
    """
    found = list(strangers(value))
    for part in found:
        if isinstance(part, Opaque) or getattr(part, "of_program", False):
            raise TypeError(f"unusable value {part!r}")
    if found:
        raise NotCarriedError(f"the tests pass a value of type {type(found[0]).__name__}")


def bring_back(arguments: tuple, changed: object) -> None:
    """Put into lists, dicts, sets and bytearrays what the call left in them."""
    if not isinstance(changed, dict):
        raise Breach("an answer whose changes are no table")
    for place, argument in enumerate(arguments):
        now = decode(changed[str(place)]) if str(place) in changed else None
        if isinstance(argument, list | bytearray) and type(now) is type(argument):
            argument[:] = now
        elif isinstance(argument, dict | set) and type(now) is type(argument):
            argument.clear()
            argument.update(now)


def kind_of(reply: dict) -> str:
    """The name of the program's exception."""
    names = reply["error"]
    return str(names[0])[:100] if isinstance(names, list) and names else "exception"


def raised(reply: dict) -> Exception:
    """The program's exception as the nearest built-in one."""
    names, text = reply["error"], str(reply.get("text", ""))
    for name in names if isinstance(names, list) else []:
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(text)
            except TypeError:  # UnicodeDecodeError and its like want more than a text
                continue
    return Exception(text)


def wanted(tests: str, entry_point: str) -> list[str]:
    """The global names that the tests read and neither define nor find among the built-ins; the entry point first.

    >>> wanted("import math\\ndef check(given):\\n    assert given(math.pi) == helper(len([one for one in table]))", "area")
    ['area', 'helper', 'table']
    """
    read, defined, scopes = set(), set(), [symtable.symtable(tests, "tests.py", "exec")]
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        for symbol in scope.get_symbols():
            if not symbol.is_global() and scope.get_type() != "module":
                continue
            if symbol.is_referenced():
                read.add(symbol.get_name())
            if symbol.is_assigned() or symbol.is_imported():
                defined.add(symbol.get_name())
    return [entry_point, *sorted(read - defined - {entry_point} - set(dir(builtins)))]


def run(job: dict, program: Program) -> tuple[str, str] | None:
    """Load the program and run the tests; None when the last assert held, else kind and reason.

    Imports and helpers of the problem's own text are run here, so that a program cannot bend a helper that the tests
    use by giving it another body. All that can be done before the program's box stands is done by then.
    """
    scope: dict = {"__name__": "tests"}
    try:
        tests = compile(job["test"], "tests.py", "exec", dont_inherit=True)
        exec(compile(job["context"], "context.py", "exec", dont_inherit=True), scope)
    except Exception as problem:
        return "broken", f"its own text does not run: {type(problem).__name__}: {problem}"
    names = [name for name in wanted(job["test"], job["entry_point"]) if name not in scope]
    try:
        program.ask({"load": names})  # the first answer is that its box stands
    except (Breach, Ended):
        return "not started", ""
    try:
        loaded = program.ask(None)
        if "error" in loaded:
            problem = raised(loaded)
            kind = "compile error" if loaded.get("stage") == "compile" else "failed"
            return kind, f"{kind_of(loaded)}: {problem}"
        for name in names:
            if name in (told := loaded.get("names", {})):
                scope[name] = program.function(name) if "callable" in told[name] else decode(told[name].get("value"))
        exec(tests, scope)
    except NotCarriedError as problem:
        return "broken", str(problem)
    except BaseException as problem:
        return outcome(program.over or problem, job["test"])
    return outcome(program.over, job["test"]) if program.over else None


def outcome(problem: BaseException, tests: str) -> tuple[str, str]:
    """An exception of the tests as kind and reason."""
    if isinstance(problem, Breach):
        return "refused", f"the program sent {problem}"
    if isinstance(problem, Ended):
        return "ended", ""
    places = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == "tests.py"]
    line = tests.splitlines()[places[-1] - 1].strip() if places else "?"
    text = f": {problem}"[:2000] if str(problem) else ""
    return "failed", f"{type(problem).__name__}{text}, at test line {(places or ['?'])[-1]}: {line}"


def main() -> bool:
    """Run the job; write `ready`, then either the token or what happened, as `evaluation/case.py` has it.

    Returns:
        Whether the tests were over as usual: passed, or failed at an assert.
    """
    incoming, outgoing, verdict = map(int, sys.argv[1:4])
    job = json.loads(sys.stdin.buffer.read())
    os.write(verdict, b"ready\n")
    program = Program(Channel(incoming, outgoing))
    happened = run(job, program)
    said = job["token"] if happened is None else "\n".join(happened)
    os.write(verdict, said.encode("utf-8", "backslashreplace"))
    os.close(verdict)
    program.channel.close()
    return program.over is None and (happened is None or happened[1].startswith("AssertionError"))


if __name__ == "__main__":
    main()
