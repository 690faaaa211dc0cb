"""What hostile JavaScript programs answer their tests with; what they try in every language is in test_hostile.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.sandbox import TOOLS
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.hostile.together import judged
from tests.evaluation.js_problems import BASE, LIMITS, js_problem, toolchain_or_skip


@pytest.fixture(scope="module")
def javascript() -> JavaScript:
    """The judge in the first sandbox that works."""
    return toolchain_or_skip(sandbox_or_skip(TOOLS[0]))


HOSTILE = {
    "patches the wire": (
        "const wire = Object.values(require.cache).find((m) => m.filename.endsWith('wire.js'))\n"
        "if (wire) wire.exports.encode = () => 4\nJSON.stringify = () => '{\"passed\": true}'; const double = () => 5",
        {"failed", "refused"}),
    "answers with what turns into anything": (
        "const double = () => ({ valueOf: () => 4, toString: () => 'aa', [Symbol.toPrimitive]: () => 4, toJSON: () => 4 })",
        {"failed"}),
    "bends how everything is written": (
        "Object.prototype.toJSON = Array.prototype.toJSON = Number.prototype.toJSON = () => 4; const double = () => ({})",
        {"failed", "refused"}),
    "bends how lists are walked": (
        "Array.prototype[Symbol.iterator] = Array.prototype.map = Array.prototype.filter = function () { return [4] }\n"
        "const double = () => 5", {"failed", "refused"}),
    "is a proxy without end": (
        "const endless = () => new Proxy({}, { ownKeys: () => ['a', 'b'], get: () => endless(),\n"
        "getOwnPropertyDescriptor: () => ({ value: 1, enumerable: true, configurable: true }) })\n"
        "const double = () => endless()",
        {"failed", "timeout"}),
    "never settles": ("const double = () => new Promise(() => { })", {"failed"}),
    "rejects late": ("setTimeout(() => Promise.reject(1)); const double = async () => { throw 1 }", {"failed"}),
    "closes the function it is wrapped in": ("return { double: (x) => x + x + 1 } } , function () {", {"compile error"}),
    "returns from its top level": ("return { double: (x) => x * 2 }", {"failed"}),
    "leaves by an error": ("setImmediate(() => { throw 1 }); throw new Error('x')", {"failed"}),
}

# What a program writes on its pipe in place of an answer.
LINES = {
    "no JSON": "passed", "nothing": "", "no message": "[4]", "a null": "null", "no value": "{}",
    "no changes": '{"value": 4}', "a kind of its own": '{"changed": [], "value": ["eval", "4"]}',
    "a kind of every object": '{"changed": [], "value": ["constructor", "4"]}',
    "a value of another form": '{"changed": [], "value": ["map", 4]}',
    "a bad number": '{"changed": [], "value": ["number", "4"]}',
    "a change of the prototype": '{"changed": [["__proto__", ["array", [1]]]], "value": 4}',
    "a change of no argument": '{"changed": [[7, ["array", [1]]]], "value": 4}',
    "the prototype as an argument": '{"changed": [], "same": "__proto__"}',
    "no argument": '{"changed": [], "same": 7}',
    "depth": '{"changed": [], "value": ' + '["array", [' * 20000 + "]]" * 20000 + "}",
    "bytes that are no text": '\xff\xfe{"value": 4}',
}
# Writes `forged`, `times` times, in place of what the runner answers.
FORGER = """const fs = require('fs'), write = fs.writeSync
let forged, times = 1
fs.writeSync = (pipe, line, at) => {
  if (forged === undefined) return write(pipe, line, at)
  const bytes = Buffer.from(forged, 'latin1')
  while (times--) for (let sent = 0; sent < bytes.length;) sent += write(pipe, bytes, sent)
  return line.length
}
"""


def test_hostile_programs_do_not_pass(javascript: JavaScript) -> None:
    programs = {kind: (javascript, text) for kind, (text, _) in HOSTILE.items()}
    for kind, verdict in judged(programs, lambda judge, text: judge.judge(js_problem(), BASE, text)).items():
        assert verdict.status in HOSTILE[kind][1], (kind, verdict)


def test_an_answer_that_is_none_is_refused(javascript: JavaScript) -> None:
    problem = js_problem(test="const list = [1]\nconsole.assert(double(list) !== 4 && [].polluted === undefined)")
    programs = {kind: (javascript, f"{FORGER}const line = {json.dumps(line)} + '\\n'\nconst double = () => {{ forged = line }}")
                for kind, line in LINES.items()}
    for kind, verdict in judged(programs, lambda judge, text: judge.judge(problem, BASE, text)).items():
        assert verdict.status == "refused", (kind, verdict)


def test_an_answer_without_end_is_refused(javascript: JavaScript) -> None:
    program = f"{FORGER}const double = () => {{ forged = 'x'.repeat(60000); times = Infinity }}"
    verdict = javascript.judge(js_problem(), BASE, program)
    assert (verdict.status, verdict.reason) == ("refused", "the program sent an answer of more than 16777216 bytes")


@pytest.mark.parametrize("inside", ["() => 1", "/x/", "Array(400).fill().reduce((a) => [a], [])"])
def test_what_cannot_be_sent_back_is_no_fault_of_the_tests(javascript: JavaScript, inside: str) -> None:
    program = f"const double = () => Array(300).fill().reduce((a) => [a], [{inside}])"
    verdict = javascript.judge(js_problem(test="double([double(1), double(2)])\nconsole.assert(false)"), BASE, program)
    assert verdict.status == "failed", verdict


def test_an_answer_too_large_for_the_tests_fails(javascript: JavaScript) -> None:
    program = f"{FORGER}const double = () => {{ forged = '{{\"changed\":[],\"value\":[\"array\",[[\"map\",[]]' + \
  ',[\"map\",[]]'.repeat(1.3e6) + ']]}}\\n' }}"
    verdict = JavaScript(javascript.sandbox, replace(LIMITS, memory_bytes=200 * 2**20)).judge(js_problem(), BASE, program)
    assert verdict.status in ("failed", "refused", "timeout"), verdict
