"""Hostile JavaScript programs, one by one: none passes, none outlives its run, none reaches out of its box."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.sandbox import TOOLS
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.js_problems import BASE, LIMITS, SHORT, js_problem, toolchain_or_skip


@pytest.fixture
def javascript() -> JavaScript:
    return toolchain_or_skip(sandbox_or_skip(TOOLS[0]))


@pytest.fixture(params=TOOLS)
def boxed(request: pytest.FixtureRequest) -> JavaScript:
    """The judge with each kind of box."""
    return toolchain_or_skip(sandbox_or_skip(request.param))


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
