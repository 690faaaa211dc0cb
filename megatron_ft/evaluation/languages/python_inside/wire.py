"""Python values as JSON lines, read on both sides of the wall between a tested program and its tests.

Reading never runs code of the other side: a line of JSON becomes plain values of the standard types or `Opaque`, so an
object whose `__eq__` always agrees arrives as nothing that equals anything. Aliases between values are not kept.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction

LINE_BYTES = 64 * 2**20
LAZY_ITEMS = 1_000_000  # as many items of a generator are carried across
SMALL_INT = 2**53


class Breach(BaseException):
    """The other side sent what the protocol does not know; no `except Exception` of a test may swallow it."""


class Ended(BaseException):
    """The other side closed its end."""


class Opaque:
    """A value of a type that is not carried across; equal only to itself."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind} object, not carried to the tests>"


class Lazy:
    """What stands here for an iterator of the other side: its items, each once."""

    def __init__(self, items: Iterable) -> None:
        self.left = deque(items)

    def __iter__(self) -> Lazy:
        return self

    def __next__(self) -> object:
        if not self.left:
            raise StopIteration
        return self.left.popleft()


class NotCarriedError(TypeError):
    """A value that cannot be handed to the program."""


class Channel:
    """One line of JSON per message over a pair of pipes."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming = os.fdopen(incoming, "rb")
        self.outgoing = os.fdopen(outgoing, "wb")

    def close(self) -> None:
        """Close both ends; nobody need read what is left."""
        self.incoming.close()
        with contextlib.suppress(BrokenPipeError):
            self.outgoing.close()

    def send(self, message: dict) -> None:
        """Write one message; Ended if nobody reads any more."""
        try:
            self.outgoing.write(json.dumps(message).encode() + b"\n")
            self.outgoing.flush()
        except BrokenPipeError:
            raise Ended from None

    def receive(self) -> dict:
        """The next message; Ended at the end of the pipe, Breach for what is no message."""
        line = self.incoming.readline(LINE_BYTES)
        if not line:
            raise Ended
        if not line.endswith(b"\n"):
            if len(line) >= LINE_BYTES:
                raise Breach(f"an answer of more than {LINE_BYTES} bytes")
            raise Ended
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise Breach("an answer that is not JSON") from None
        if not isinstance(message, dict):
            raise Breach("an answer that is no message")
        return message


def encode(value: object) -> object:
    """A value as JSON; `{"t": tag, "v": ...}` for what JSON lacks, the tag "opaque" for what is not carried.

    Subclasses travel as the standard type they hold (a Counter as a dict, a named tuple as a tuple).

    >>> encode((1, [2.5, None], {3: "x"}))
    {'t': 'tuple', 'v': [1, [2.5, None], {'t': 'dict', 'v': [[3, 'x']]}]}
    >>> encode(object())
    {'t': 'opaque', 'v': 'object'}
    """
    try:
        return _encode(value)
    except Exception:  # a cycle, or a method of the value that raises: nothing of it can be carried
        return _opaque(value)


def _encode(value: object) -> object:
    if value is None or isinstance(value, bool | str | float):
        return value if value is None or isinstance(value, bool) else _plain(value)
    if isinstance(value, int):
        number = int(value)
        return number if abs(number) < SMALL_INT else {"t": "int", "v": hex(number)}
    if isinstance(value, list):
        return [_encode(item) for item in list.__iter__(value)]
    for tag, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return {"t": tag, "v": [_encode(item) for item in kind.__iter__(value)]}
    if isinstance(value, dict):
        return {"t": "dict", "v": [[_encode(key), _encode(item)] for key, item in dict.items(value)]}
    return _encode_rare(value)


def _plain(value: str | float) -> str | float:
    return str.__str__(value) if isinstance(value, str) else float.__float__(value)


def _encode_rare(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return {"t": "bytes" if isinstance(value, bytes) else "bytearray", "v": value.hex()}
    if isinstance(value, complex):
        return {"t": "complex", "v": [value.real, value.imag]}
    if isinstance(value, Decimal):
        return {"t": "decimal", "v": Decimal.__str__(value)}
    if isinstance(value, Fraction):
        return {"t": "fraction", "v": [_encode(value.numerator), _encode(value.denominator)]}
    if isinstance(value, range):
        return {"t": "range", "v": [_encode(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, type({}.keys()) | type({}.items())):
        return {"t": "set", "v": [_encode(item) for item in value]}
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return _encode(value.item())
    if hasattr(type(value), "__next__"):
        return {"t": "iterator", "v": [_encode(item) for item in itertools.islice(value, LAZY_ITEMS)]}
    return _opaque(value)


def _opaque(value: object) -> dict:
    return {"t": "opaque", "v": str(type(value).__name__)[:100]}


def decode(data: object) -> object:
    """The value that `encode` wrote; Breach for anything else.

    >>> decode(encode((1, {2: {3, 4}}, -(2**70))))
    (1, {2: {3, 4}}, -1180591620717411303424)
    """
    try:
        return _decode(data)
    except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError):
        raise Breach("an answer that is no value") from None


def _decode(data: object) -> object:
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return [_decode(item) for item in data]
    tag, held = data["t"], data["v"]
    if tag == "dict":
        return {_decode(key): _decode(item) for key, item in held}
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](_decode(item) for item in held)
    return _DECODERS[tag](held)


_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}
_DECODERS = {
    "int": lambda held: int(held, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda held: complex(*held),
    "decimal": Decimal,
    "fraction": lambda held: Fraction(*map(_decode, held)),
    "range": lambda held: range(*map(_decode, held)),
    "iterator": lambda held: Lazy(map(_decode, held)),
    "opaque": lambda held: Opaque(str(held)),
}


def strangers(value: object) -> Iterator[object]:
    """The parts of a value that cannot be handed across as themselves: opaque ones, and iterators that begin on this side.

    >>> list(strangers({1: [2, "x", Ellipsis]}))
    [Ellipsis]
    """
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from strangers(item)
    elif isinstance(value, dict):
        yield from strangers([*value.keys(), *value.values()])
    elif isinstance(value, Lazy):
        yield from strangers(list(value.left))
    else:
        encoded = encode(value)
        if isinstance(encoded, dict) and encoded["t"] in ("opaque", "iterator"):
            yield value
