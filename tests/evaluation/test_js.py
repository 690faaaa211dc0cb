"""JavaScript programs: how they are judged, and what their values become on the way to the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.languages import js
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.sandbox import Sandbox
from tests.evaluation.js_problems import BASE, js_problem


@pytest.fixture
def javascript(judges: Callable[[str], Language]) -> JavaScript:
    """The judge of JavaScript programs."""
    return judges("js")


PROGRAMS = {
    "a function": ("function double(x) { return x + x }", "passed", ""),
    "wrong": ("const double = (x) => x * 2", "failed",
              "failed assertion, at test line 3: console.assert( double('a') === 'aa')"),
    "twice the same name": ("const double = 1; const double = 2", "compile error",
                            "SyntaxError: Identifier 'double' has already been declared"),
    "fails at its top level": ("null.x; const double = 1", "failed",
                               "TypeError: Cannot read properties of null (reading 'x')"),
    "throws no error": ("const double = (x) => { throw { code: x } }", "failed", 'thrown: {"code":2}'),
    "overflows the stack": ("const double = (x) => double(x) + 1", "failed",
                            "RangeError: Maximum call stack size exceeded, at test line 2: console.assert(double(2) === 4)"),
    "leaves": ("process.exit(7)", "failed", "the program ended before its tests did (exit status 7)"),
    "crashes": ("const double = (x) => process.abort()", "failed",
                "the program ended before its tests did (killed by SIGSEGV)"),
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


def test_the_function_is_found_by_the_name_that_the_declaration_gives_it(javascript: JavaScript) -> None:
    """As JavaScript/114 of HumanEvalPack: minSubArraySum, but entry_point minSubarraySum."""
    problem = js_problem(entry_point="dOuble")
    assert javascript.judge(problem, BASE, "const double = (x) => x + x").passed


def test_what_tests_draw_is_the_same_every_time(javascript: JavaScript) -> None:
    verdicts = {javascript.judge(js_problem(test="throw Math.random()"), BASE, "1").reason for _ in range(3)}
    assert len(verdicts) == 1


def test_an_absent_toolchain_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    language = JavaScript(Sandbox("none", as_root=False, locked=False))
    monkeypatch.setattr(js, "package_folders", lambda node: [tmp_path])
    if js.shutil.which("node"):
        with pytest.raises(EvaluationError, match=f"in none of {tmp_path}: npm install --prefix .* js-md5@0.7.3"):
            language.check()
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "node").write_text("#!/bin/sh\necho v12.22.0\n")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(EvaluationError, match="version '12.22.0' ; node 16 or newer is needed"):
        JavaScript(language.sandbox).check()
