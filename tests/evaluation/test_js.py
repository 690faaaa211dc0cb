"""JavaScript programs: how they are judged, what their values become on the way to the tests, and what hostile ones get."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import benchmark
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages import js
from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.sandbox import TOOLS, Sandbox
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.problems import make_problem

LIMITS = replace(JavaScript.default_limits, cpu_s=3, wall_s=60, memory_bytes=512 * 2**20, output_bytes=2**20)
SHORT = replace(LIMITS, cpu_s=1, wall_s=4)  # for what must run into a time-out; the rest must not, on a busy machine
TEST = """const testDouble = () => {
  console.assert(double(2) === 4)
  console.assert(
    double('a') === 'aa')
}
testDouble()"""
BASE = "const double = (x) => {"


def js_problem(**changed: str) -> Problem:
    """A small problem in JavaScript, with some fields changed."""
    return make_problem(**{"task_id": "OwnJS/0", "prompt": BASE, "declaration": BASE, "test": TEST, **changed})


def toolchain_or_skip(sandbox: Sandbox) -> JavaScript:
    """The judge of JavaScript; skipped where node or its package is absent, failed there under CI=true."""
    language = JavaScript(sandbox, LIMITS)
    try:
        _ = language._version, language._packages
    except EvaluationError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))
    return language


@pytest.fixture
def javascript() -> JavaScript:
    return toolchain_or_skip(sandbox_or_skip(TOOLS[0]))


@pytest.fixture(params=TOOLS)
def boxed(request: pytest.FixtureRequest) -> JavaScript:
    """The judge with each kind of box."""
    return toolchain_or_skip(sandbox_or_skip(request.param))


PROGRAMS = {
    "right": ("const double = (x) => x + x", "passed", ""),
    "a function": ("function double(x) { return x + x }", "passed", ""),
    "prints": ("function double(x) { console.log(x); console.error(x); return x + x }", "passed", ""),
    "wrong": ("const double = (x) => x * 2", "failed",
              "failed assertion, at test line 3: console.assert( double('a') === 'aa')"),
    "does not compile": ("const double = (x) => {", "compile error", "SyntaxError: Unexpected end of input"),
    "twice the same name": ("const double = 1; const double = 2", "compile error",
                            "SyntaxError: Identifier 'double' has already been declared"),
    "fails at its top level": ("null.x; const double = 1", "failed",
                               "TypeError: Cannot read properties of null (reading 'x')"),
    "throws": ("const double = (x) => { throw new RangeError(`no ${x}`) }", "failed",
               "RangeError: no 2, at test line 2: console.assert(double(2) === 4)"),
    "throws no error": ("const double = (x) => { throw { code: x } }", "failed", 'thrown: {"code":2}'),
    "defines nothing": ("const triple = (x) => x", "failed",
                        "TypeError: double is not a function, at test line 2: console.assert(double(2) === 4)"),
    "overflows the stack": ("const double = (x) => double(x) + 1", "failed",
                            "RangeError: Maximum call stack size exceeded, at test line 2: console.assert(double(2) === 4)"),
    "leaves": ("process.exit(7)", "failed", "the program ended before its tests did (exit status 7)"),
    "leaves when it is called": ("const double = (x) => process.exit(0)", "failed",
                                 "the program ended before its tests did (exit status 0)"),
    "crashes": ("const double = (x) => process.abort()", "failed", "the program ended before its tests did (exit status 134)"),
    "is async": ("const double = async (x) => x + x", "failed",
                 "failed assertion, at test line 2: console.assert(double(2) === 4)"),
    "requires": ("const md5 = require('js-md5')\nconst { inspect } = require('util')\n"
                 "const double = (x) => md5('') && inspect(1) && x + x", "passed", ""),
    "is a script": ("if (require.main === module) { process.exit(1) }\nmodule.exports = { double }\n"
                    "function double(x) { return x + x }", "passed", ""),
    "names what the runner names": ("var stringify, encode, apply, decode; const names = 1, main = 2, load = 3\n"
                                    "function answer() {}\nfunction double(x) { return x + x }", "passed", ""),
    "bends prototypes": ("Array.prototype.last = function () { return this[this.length - 1] }\n"
                         "Object.prototype.size = 5\nString.prototype.twice = function () { return this + this }\n"
                         "const double = (x) => typeof x === 'string' ? x.twice() : [x + x].last()", "passed", ""),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_verdict_says_what_happened(javascript: JavaScript, kind: str) -> None:
    program, status, reason = PROGRAMS[kind]
    verdict = javascript.judge(js_problem(), BASE, program)
    assert (verdict.status, verdict.reason) == (status, reason), verdict


# Values in JavaScript, each sent to the program and back, and made by the program; compared with node's own assert.
VALUES = [
    "undefined", "null", "true", "false", "0", "-0", "NaN", "Infinity", "-Infinity", "0.1 + 0.2", "5e-324",
    "-1.7976931348623157e308", "2 ** 53", "-9999999999999999", "123456789012345678901234567890n", "-1n",
    "''", "'\\u0000\\n\\u2028\"\\\\'", "'\\ud800x\\udfff'",
    "'\\u{1f600} \u00e9'", "'x'.repeat(300000)", "[]", "[[]]", "[1, [2, [3, '4', null, undefined]]]", "[, 1, , 2, ,]",
    "new Array(3)", "[undefined]", "[NaN, -0]", "{}", "{ b: 1, a: 2, 10: 3, 9: 4 }", "{ a: { b: [{}] }, c: undefined }",
    "{ length: 2, t: 'array' }",
    "JSON.parse('{\"__proto__\": {\"polluted\": 1}, \"constructor\": 2}')",
    "new Map([[1, { a: 1 }], ['1', [2]], [NaN, undefined]])",
    "new Set([3, 'a', -1])", "new Date(86400000)", "new Uint8Array([1, 255])",
    "new Float64Array([0.1, -0])", "new Error('it')", "new TypeError('is')", "Object('boxed')",
    "[['array'], ['opaque'], ['function', []], ['hole']]",
]


def test_values_come_and_go_as_they_are(javascript: JavaScript) -> None:
    listed = ",\n".join(f"() => ({value})" for value in VALUES)
    test = (f"const assert = require('assert')\nconst values = [\n{listed}\n]\n"
            "values.forEach((make, index) => {\n"
            "  assert.deepStrictEqual(double(make()), make(), `sent: ${make}`)\n"
            "  assert.deepStrictEqual(double(index, true), make(), `made: ${make}`)\n"
            "  assert.strictEqual(JSON.stringify([1]) && text(double(make())), text(make()))\n})\n"
            "function text(value) { return typeof value === 'bigint' ? `${value}` : JSON.stringify({ value, list: [value] }, "
            "(key, item) => typeof item === 'bigint' ? `${item}n` : item) }\n"
            "console.assert({}.polluted === undefined)\n")
    program = f"const values = [\n{listed}\n]\nconst double = (x, make) => make ? values[x]() : x"
    verdict = javascript.judge(js_problem(test=test), BASE, program)
    assert verdict.passed, verdict


RETURNED = {
    "instances as their fields": (
        "class Point { constructor() { this.x = 1; this.f = () => 1 } get y() { return 2 } }\nconst double = () => new Point()",
        "console.assert(JSON.stringify(double()) === '{\"x\":1}')"),
    "getters as what they give": (
        "const double = () => ({ get x() { return 1 } })",
        "const found = double(); console.assert(Object.getOwnPropertyDescriptor(found, 'x').value === 1)"),
    "a proxy as what it shows": (
        "const double = () => new Proxy({ a: 1 }, { get: () => 5 })", "console.assert(double().a === 5)"),
    "functions as functions that cannot be called": (
        "const double = () => ({ f: (x) => x, g: 1 })",
        "const { f, g } = double(); console.assert(typeof f === 'function' && g === 1)\n"
        "let thrown; try { f(1) } catch (error) { thrown = error }\nconsole.assert(thrown instanceof TypeError)"),
    "symbols by their description": (
        "const double = () => Symbol('x')", "console.assert(double().toString() === 'Symbol(x)')"),
    "a cycle as nothing": (
        "const double = () => { const a = []; a.push(a); return a }", "console.assert(!Array.isArray(double()))"),
    "what is too deep as nothing": (
        "const double = () => { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a }",
        "console.assert(!Array.isArray(double()))"),
    "what is too long as nothing": (
        "const double = () => new Array(4e9)", "console.assert(!Array.isArray(double()))"),
    "the thrown error": (
        "class OwnError extends Error { constructor(t) { super(t); this.name = 'OwnError' } }\n"
        "const double = (x) => { if (x) throw new OwnError('own'); throw 'text' }",
        "const thrown = (x) => { try { double(x) } catch (error) { return error } }\n"
        "console.assert(thrown(1) instanceof Error && thrown(1).name === 'OwnError' && thrown(1).message === 'own')\n"
        "console.assert(thrown(0) === 'text')"),
    "what a promise gives": (
        "const double = async (x) => { if (x < 0) throw new RangeError('no'); return x }",
        "const run = async () => {\n  console.assert(await double(2) === 2)\n"
        "  await double(-1).then(() => console.assert(false), (error) => console.assert(error.message === 'no'))\n}\nrun()"),
    "arguments that were changed": (
        "const double = (list, object, map, set, bytes) => {\nlist.pop(); list[0].push(9); list.sort()\n"
        "delete object.a; object.b.c = 2\nmap.set('k', 1); set.delete(1); bytes[0] = 7 }",
        "const assert = require('assert')\n"
        "const inner = [1], list = [inner, 5, 6], b = {}, object = { a: 1, b }, map = new Map(), set = new Set([1, 2])\n"
        "const bytes = new Uint8Array(1)\ndouble(list, object, map, set, bytes)\n"
        "assert.deepStrictEqual([list, object, [...map], [...set], bytes[0]],\n"
        "  [[[1, 9], 5], { b: { c: 2 } }, [['k', 1]], [2], 7])\n"
        "console.assert(list[0] === inner && object.b === b && inner[1] === 9)"),
    "the argument itself": (
        "const double = (list) => list.reverse()",
        "const list = [1, 2]; console.assert(double(list) === list && list[0] === 2)"),
    "arguments that an error left changed": (
        "const double = (list) => { list.push(1); throw new Error('late') }",
        "const list = []; try { double(list) } catch (error) { }\nconsole.assert(list.length === 1)"),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_the_tests_see(javascript: JavaScript, kind: str) -> None:
    program, test = RETURNED[kind]
    verdict = javascript.judge(js_problem(test=test), BASE, program)
    assert verdict.passed, verdict


@pytest.mark.parametrize(("test", "reason"), [
    ("Promise.reject(new Error('late'))", "Error: late, at test line 1: Promise.reject(new Error('late'))"),
    ("setTimeout(() => console.assert(double(2) === 5), 1)", "failed assertion, at test line 1: setTimeout"),
    ("throw 5", "thrown: 5"),
    ("console.assert(false, 'said', 1)", "failed assertion: said 1, at test line 1"),
    ("try { console.assert(double(2) === 5) } catch (error) { }", "failed assertion, at test line 1: try"),
    ("double(double(2, true))", "TypeError: double gets a value of the program that is not carried to its tests, at test line"),
])
def test_tests_fail_whenever_they_do(javascript: JavaScript, test: str, reason: str) -> None:
    verdict = javascript.judge(js_problem(test=test), BASE, "const double = (x, odd) => odd ? { f: () => 1 } : x + x")
    assert verdict.status == "failed"
    assert verdict.reason.startswith(reason)


def test_tests_that_cannot_be_executed_stop_the_run(javascript: JavaScript) -> None:
    with pytest.raises(EvaluationError, match="OwnJS/0: its own text does not run: SyntaxError.*cannot be executed"):
        javascript.judge(js_problem(test="console.assert("), BASE, "const double = 1")
    with pytest.raises(EvaluationError, match="the tests pass double a value of type function that cannot be carried"):
        javascript.judge(js_problem(test="double((x) => x)"), BASE, "const double = (x) => x")


def test_a_helper_that_the_tests_use_is_the_problem_s_own(javascript: JavaScript) -> None:
    prompt = "const off = (x) => {\n  return Math.abs(x - 4)\n}\n\nconst double = (x) => {"
    problem = js_problem(prompt=prompt, test="console.assert(off(double(2)) === 0)")
    assert javascript.judge(problem, prompt, "const off = () => 0\nconst double = () => 5").status == "failed"
    assert javascript.judge(problem, prompt, prompt + "\n  return x + x\n}").passed


def test_the_function_is_found_by_the_name_that_the_declaration_gives_it(javascript: JavaScript) -> None:
    """As JavaScript/114 of HumanEvalPack: minSubArraySum, but entry_point minSubarraySum."""
    problem = js_problem(entry_point="dOuble")
    assert javascript.judge(problem, BASE, "const double = (x) => x + x").passed


def test_what_tests_draw_is_the_same_every_time(javascript: JavaScript) -> None:
    verdicts = {javascript.judge(js_problem(test="throw Math.random()"), BASE, "1").reason for _ in range(3)}
    assert len(verdicts) == 1


def test_the_toolchain_is_checked(javascript: JavaScript) -> None:
    assert set(javascript.check()) == {"node", "js-md5"}


def test_an_absent_toolchain_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    language = JavaScript(Sandbox("none", as_root=False, locked=False))
    monkeypatch.setattr(js, "package_folders", lambda node: [tmp_path])
    if js.shutil.which("node"):
        with pytest.raises(EvaluationError, match=f"in none of {tmp_path}: npm install --prefix .* js-md5@0.7.3"):
            language.check()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match="there is none on PATH: install the Debian package nodejs"):
        JavaScript(language.sandbox).check()
    (tmp_path / "node").write_text("#!/bin/sh\necho v12.22.0\n")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(EvaluationError, match="version '12.22.0' ; node 16 or newer is needed"):
        JavaScript(language.sandbox).check()


ATTACK = '''
const fs = require("fs"), net = require("net"), child = require("child_process"), os = require("os"), path = require("path")
const pause = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
const isPipe = (fd) => { try { return fs.fstatSync(fd).isFIFO() } catch (e) { return false } }
const pipes = () => [...Array(1024).keys()].filter(isPipe)
const say = (text) => pipes().forEach((fd) => { try { fs.writeSync(fd, text) } catch (e) { } })
const attack = () => {
ATTACK
}
let worked = false
try { worked = Boolean(attack()) } catch (error) { console.log("attack:", String(error)) }
const double = (x) => worked ? x + x : null
'''

# An attack's text -> the statuses that it may get. Each returns true where it worked.
ATTACKS = {
    "read the host's home": ("return fs.readdirSync('/root')", {"failed"}),
    "read the host's users": ("return fs.readFileSync('/etc/passwd')", {"failed"}),
    "read the caller's environment": ("return JSON.stringify(process.env).includes('SECRET_OF_THE_TEST')", {"failed"}),
    "look into /proc": ("return fs.readdirSync('/proc')", {"failed"}),
    "find the tests in files": (
        "return child.spawnSync('grep', ['-rlE', 'test[D]ouble', '/box', '/tmp'], {encoding: 'utf8'}).stdout", {"failed"}),
    "find the tests on stdin": ("return fs.readFileSync(0, 'utf8').includes('test' + 'Double')", {"failed"}),
    "find the token in its arguments": (
        "return /[0-9a-f]{32}/.test(process.argv.join() + process.execArgv.join() + process.title)", {"failed"}),
    "connect to the host over tcp": (
        "return child.spawnSync(process.execPath, ['-e', `require('net').connect(PORT, '127.0.0.1', () => process.exit(9))`])"
        ".status === 9", {"failed"}),
    "kill its parent": ("process.kill(process.ppid, 9); return process.ppid > 1", {"failed"}),
    "kill everything": ("process.kill(-1, 9); return false", {"failed"}),
    "become root": ("process.setuid(0); return true", {"failed"}),
    "write outside of /tmp": ("fs.writeFileSync('/usr/lib/hostile', ''); return true", {"failed"}),
    "change its own runner": ("fs.appendFileSync('/box/inside/tests.js', ' '); return true", {"failed"}),
    "change its packages": ("fs.appendFileSync('/box/packages/js-md5/package.json', ' '); return true", {"failed"}),
    "fill the disk": (
        "for (let i = 0; i < 100; i++) fs.writeFileSync(`/tmp/${i}`, Buffer.alloc(10 * 2 ** 20)); return true", {"failed"}),
    "take more memory than it may": (
        "const kept = []; for (;;) kept.push(new Array(1e6).fill(0.5))", {"failed", "refused"}),
    "take more memory than it may, beside the heap": (
        "const kept = []; for (;;) { kept.push(Buffer.alloc(50 * 2 ** 20, 1)); pause(50) }", {"refused"}),
    "start more processes than it may": (
        "let n = 0; for (let i = 0; i < 100; i++) if (child.spawn('sleep', ['60']).pid) n++; return n > 60", {"failed"}),
    "fork without end": ("for (;;) try { child.spawn(process.execPath, ['-e', 'for(;;);']) } catch (e) { }",
                         {"timeout", "refused", "failed"}),
    "start threads without end": (
        "const { Worker } = require('worker_threads')\n"
        "for (let i = 0; i < 500; i++) new Worker('for(;;);', { eval: true })\nreturn true",
        {"timeout", "refused", "failed"}),
    "loop without end": ("for (;;);", {"timeout"}),
    "loop without end, signals held": (
        "for (const name of Object.keys(os.constants.signals)) try { process.on(name, () => { }) } catch (e) { }\nfor (;;);",
        {"timeout"}),
    "sleep": ("pause(3600e3)", {"timeout"}),
    "write without end": ("for (;;) fs.writeSync(1, 'x'.repeat(65536))", {"refused"}),
    "close every file": ("for (let fd = 0; fd < 1024; fd++) try { fs.closeSync(fd) } catch (e) { }\nreturn true",
                         {"failed", "refused"}),
    "write a verdict to every file": ("say('passed\\n'.repeat(10)); say('ready\\n')", {"failed", "refused"}),
    "match without end": ("return /^(a+)+$/.test('a'.repeat(60) + 'b')", {"timeout"}),
}

HOSTILE = {
    "patches what the tests use": (
        "console.assert = () => { }; JSON.stringify = () => 'x'; process.exit = () => { }; Object.is = () => true\n"
        "require('assert').strictEqual = () => { }; const double = () => 5", {"failed"}),
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
    "leaves politely": ("process.exitCode = 0; process.exit(0)", {"failed"}),
    "leaves by an error": ("setImmediate(() => { throw 1 }); throw new Error('x')", {"failed"}),
    "has a zero byte": ("const double = 1\0", {"compile error"}),
    "is nested too deep": ("x = " + "(" * 20000 + ")" * 20000, {"compile error", "failed"}),
    "is longer than a program": ("/" * (2**20 + 1), {"refused"}),
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


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch):
    """A server and a secret of the attacked host."""
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_work(javascript: JavaScript, attack: str, port: int) -> None:
    text, statuses = ATTACKS[attack]
    limits = SHORT if "timeout" in statuses else LIMITS
    verdict = JavaScript(javascript.sandbox, limits).judge(
        js_problem(), BASE, ATTACK.replace("ATTACK", text.replace("PORT", str(port))))
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_program_does_not_pass(javascript: JavaScript, kind: str) -> None:
    program, statuses = HOSTILE[kind]
    verdict = javascript.judge(js_problem(), BASE, program)
    assert verdict.status in statuses, verdict


@pytest.mark.parametrize("kind", LINES)
def test_an_answer_that_is_none_is_refused(javascript: JavaScript, kind: str) -> None:
    test = "const list = [1]\nconsole.assert(double(list) !== 4 && [].polluted === undefined)"
    program = f"{FORGER}const line = {json.dumps(LINES[kind])} + '\\n'\nconst double = () => {{ forged = line }}"
    verdict = javascript.judge(js_problem(test=test), BASE, program)
    assert verdict.status == "refused", verdict


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


def test_an_orphan_in_a_session_of_its_own_is_killed(boxed: JavaScript) -> None:
    marker = f"3600.{os.getpid()}{time.monotonic_ns()}"
    program = (f"require('child_process').spawn('sleep', ['{marker}'], {{ detached: true, stdio: 'ignore' }}).unref()\n"
               "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)\nconst double = (x) => x + x")
    assert boxed.judge(js_problem(), BASE, program).passed
    deadline = time.monotonic() + 30
    while alive(marker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(marker: str) -> bool:
    """Whether a process of this machine has a marker in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"sleep\0{marker}\0" in path.read_text():
                return True
        except OSError:
            continue
    return False


def test_deleting_everything_deletes_nothing_outside(boxed: JavaScript, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    program = ("const fs = require('fs')\nfor (const folder of ['/box', '/tmp', '/etc', '/bin', '/usr/lib/node_modules'])\n"
               "  try { fs.rmSync(folder, { recursive: true, force: true }) } catch (e) { }\n"
               f"try {{ fs.symlinkSync({str(kept)!r}, '/tmp/link-of-js') }} catch (e) {{ }}\n"
               "try { fs.writeFileSync('/tmp/link-of-js', 'gone') } catch (e) { }\n"
               "const double = (x) => x + x")
    verdict = boxed.judge(js_problem(), BASE, program)
    assert verdict.passed, verdict
    assert kept.read_text() == "here"
    assert not Path("/tmp/link-of-js").exists()


@pytest.mark.slow
def test_solutions_of_humanevalpack_pass_and_buggy_ones_fail(javascript: JavaScript, humanevalpack: Path) -> None:
    """A spread of the problems; all of them with MEGATRON_FT_SWEEP=all."""
    language = JavaScript(javascript.sandbox)
    every = benchmark.read(humanevalpack.parent / "js.jsonl").problems
    spread = {0, 32, 38, 50, 53, 87, 95, 107, 114, 129, 137, 162}
    for number, problem in enumerate(every):
        if number not in spread and os.environ.get("MEGATRON_FT_SWEEP") != "all":
            continue
        for base in (problem.prompt, problem.declaration):
            for solution, passes in ((problem.canonical_solution, True), (problem.buggy_solution, False)):
                verdict = language.judge(problem, base, base + solution)
                assert verdict.passed is passes, (problem.task_id, verdict)
