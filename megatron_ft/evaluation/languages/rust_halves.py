"""The two halves of a Rust case as source texts; `rust` compiles them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.declared import closing_brace, split, without_comments

CRATE = "#![no_main]#![allow(warnings)]"
NUMBER = re.compile(r"\b(?:[iu](?:8|16|32|64|128|size)|f32|f64)\b")
TEST = re.compile(r"#\[test\]((?:\s|//[^\n]*\n|/\*.*?\*/|#\[[^\]]*\])*)(?:pub\s+)?fn\s+(\w+)", re.DOTALL)
ARGV = "argv: *const *const ::std::os::raw::c_char"
MAIN = f'    #[no_mangle] pub extern "C" fn main(_: ::std::os::raw::c_int, {ARGV}) -> ::std::os::raw::c_int {{'


@dataclass(frozen=True)
class Parameter:
    """One parameter of a declared function."""

    name: str
    type: str

    @property
    def lent(self) -> str:
        """The type of what a call can change, "" where it cannot change the caller's.

        >>> Parameter("v", "&mut Vec<i32>").lent, Parameter("v", "&[i32]").lent
        ('Vec<i32>', '')
        """
        found = re.fullmatch(r"&\s*(?:'\w+\s+)?mut\s+(.+)", self.type, re.DOTALL)
        return found[1] if found else ""


@dataclass(frozen=True)
class Signature:
    """A declared function."""

    name: str
    generics: str
    parameters: tuple[Parameter, ...]
    result: str


def source_of_program(problem: Problem, program: str) -> str:
    """The program as the root of a crate whose `main` is not its own, and what answers calls of the entry point."""
    signature = read_signature(problem.signature, problem.task_id)
    return f"{CRATE}{program}\n{_answerer(problem, signature, program)}\n"


def source_of_tests(problem: Problem) -> str:
    """The problem's own helpers, a function that calls the program's, and the tests, called one after the other."""
    return _tests_after(CRATE, problem, MAIN)


def source_of_tests_together(problems: Sequence[Problem]) -> str:
    """The same for several problems, each in a module of its own; the first argument is the number of one of them."""
    text = CRATE
    for number in range(len(problems)):
        text = _tests_after(f"{text}\nmod p{number} {{\n", problems[number], f"    pub fn main({ARGV}) -> ! {{") + "}\n"
    cases = "".join(f"        {number} => p{number}::megatron_ft_run::main(rest),\n" for number in range(len(problems)))
    return (f"{text}{MAIN}\n    let (number, rest) = ::megatron_ft_wire::tests::chosen(argv);\n"
            f"    match number {{\n{cases}        _ => 2,\n    }}\n}}\n")


def _tests_after(text: str, problem: Problem, main: str) -> str:
    """A source that goes on with what the tests of a problem are made of."""
    signature = read_signature(problem.signature, problem.task_id)
    tests, names = _callable_tests(problem.test)
    run = ["pub mod megatron_ft_run {", main, "        ::megatron_ft_wire::tests::run(argv, FIRST_LINE, &[", *names,
           "        ])", "    }", "}", ""]
    before = "\n".join([text + _before_entry(problem.prompt, signature), *_enums(problem, signature),
                        _forwarder(signature), *run])
    return before.replace("FIRST_LINE", str(before.count("\n"))) + tests + "\n"


def read_signature(text: str, task_id: str) -> Signature:
    """The declared function; EvaluationError where a problem's `signature` is none.

    >>> read_signature("f<'a>(mut a:&'a str, b: HashMap<i32, i32>) -> (i32,i32)", "Rust/0")
    Signature(name='f', generics="<'a>", parameters=(Parameter(name='a', type="&'a str"), \
Parameter(name='b', type='HashMap<i32, i32>')), result='(i32,i32)')
    """
    pattern = r"(?s)\s*(?:pub\s+)?(?:fn\s+)?(\w+)\s*(<.*?>)?\s*\((.*?)\)\s*(?:->\s*(.+?))?\s*"
    found = re.fullmatch(pattern, without_comments(text))
    parts = [part.partition(":") for part in split(found[3])] if found else []
    if found is None or not all(colon for _, colon, _ in parts):
        raise EvaluationError(f"{task_id}: its signature '{text}' is no Rust function's; a name, parameters with types and a "
                              "result are expected, such as 'below_zero(operations: Vec<i32>) -> bool'")
    parameters = tuple(Parameter(re.sub(r"^mut\s+", "", name).strip(), kind.strip()) for name, _, kind in parts)
    return Signature(found[1], found[2] or "", parameters, found[4] or "()")


def _before_entry(prompt: str, signature: Signature) -> str:
    """The imports and helpers that stand before the entry point in the problem's own text."""
    found = list(re.finditer(rf"(?:\bpub\s+)?\bfn\s+{signature.name}\b", without_comments(prompt)))
    return prompt[: found[-1].start()] if found else ""


def _forwarder(signature: Signature) -> str:
    """The function that the tests call: it has the declared parameters and asks the program for the result."""
    declared = ", ".join(f"{parameter.name}: {parameter.type}" for parameter in signature.parameters)
    lines = ["#[track_caller]", f"fn {signature.name}{signature.generics}({declared}) -> {signature.result} {{",
             "    let mut call = ::megatron_ft_wire::tests::Call::new();",
             *(f"    call.pass(&{parameter.name});" for parameter in signature.parameters),
             "    call.run();", "    let result = call.read();"]
    for parameter in signature.parameters:
        if parameter.lent:
            back = f"call.read_into({parameter.name})" if parameter.lent.startswith("[") else f"*{parameter.name} = call.read()"
            lines.append(f"    {back};")
    return "\n".join([*lines, "    result", "}"])


def _answerer(problem: Problem, signature: Signature, program: str) -> str:
    """What reads the arguments of a call, calls the program's function and sends what it returns.

    A number's type is the program's own, as it would be for the literals that tests pass, except where the function is
    generic and leaves it open.
    """
    read, passed, back = [], [], []
    is_generic = _is_generic(signature.name, program)
    for place, parameter in enumerate(signature.parameters):
        kind = re.sub(r"'\w+", "'static", parameter.lent or parameter.type)
        if parameter.lent.startswith("["):
            kind = f"Vec<{kind.strip('[] ')}>"
        read.append(f"            let mut a{place}: {kind if is_generic else NUMBER.sub('_', kind)} = asked.argument();")
        passed.append(f"&mut a{place}" if parameter.lent else f"a{place}")
        back.append(f"            asked.answer(&a{place});" if parameter.lent else "")
    enums = [_putter(signature, problem.test, name) for name in _missing_types(problem, signature)]
    call = f"let result = super::{signature.name}({', '.join(passed)});"
    return "\n".join(["mod megatron_ft_serve {", "    use super::*;", MAIN,
                      "        ::megatron_ft_wire::program::serve(argv, |asked| {", *read,
                      f"            {call}", "            asked.answer(result);", *filter(None, back), "        });",
                      "        0", "    }", *enums, "}"])


def _is_generic(name: str, program: str) -> bool:
    """Whether types of the function's parameters are left open.

    >>> _is_generic("f", "fn f<'a>(x: &'a str)"), _is_generic("f", "fn f<T: Ord>(x: T)"), _is_generic("f", "fn f(x: impl Ord)")
    (False, True, True)
    """
    found = re.search(rf"\bfn\s+{name}\s*(<[^(]*>)?\s*\(([^{{]*)", without_comments(program))
    return found is not None and (re.search(r"\w", re.sub(r"'\w+", "", found[1] or "")) is not None
                                  or re.search(r"\bimpl\b", found[2]) is not None)


def _missing_types(problem: Problem, signature: Signature) -> list[str]:
    """Enums of the declared result that an answer has to define (Rust/137)."""
    return [name for name in re.findall(r"\b[A-Z]\w*\b", signature.result)
            if re.search(rf"\benum\s+{name}\b", problem.canonical_solution)
            and not re.search(rf"\benum\s+{name}\b", without_comments(problem.prompt))]


def _enums(problem: Problem, signature: Signature) -> list[str]:
    """The same for the tests: as the solution defines them, and how they are read."""
    lines = []
    for name in _missing_types(problem, signature):
        solution = problem.canonical_solution
        begin = re.search(rf"(?:#\[[^\]]*\]\s*)*(?:pub\s+)?enum\s+{name}\b", solution).start()
        lines += [definition := solution[begin: closing_brace(solution, begin)], _getter(name, definition)]
    return lines


def _getter(name: str, definition: str) -> str:
    """How the tests read an enum whose variants are tuples."""
    kinds = split(re.search(rf"enum\s+{name}\s*<?([^>{{]*)", definition)[1])
    cases = []
    for variant, held in re.findall(r"(\w+)\s*\(([^()]*)\)\s*[,}]", definition):
        values = ["::megatron_ft_wire::Get::get(from)?" for _ in split(held)]
        cases.append(f'            ("{variant}", {len(values)}) => {name}::{variant}({", ".join(values)}),')
    bounds = ", ".join(f"{kind}: ::megatron_ft_wire::Get" for kind in kinds)
    return "\n".join([f"impl<{bounds}> ::megatron_ft_wire::Get for {name}<{', '.join(kinds)}> {{",
                      "    fn get(from: &mut ::megatron_ft_wire::Reader) -> Result<Self, ::megatron_ft_wire::Wrong> {",
                      "        let (variant, count) = from.variant()?;", "        Ok(match (variant.as_str(), count) {", *cases,
                      f'            _ => return Err(::megatron_ft_wire::Wrong::Unfit(format!("{name}::{{}}", variant))),',
                      "        })", "    }", "}"])


def _putter(signature: Signature, tests: str, name: str) -> str:
    """How a program's own enum is sent: those variants that the tests name; another one equals none of them."""
    variants = sorted(set(re.findall(rf"\b{name}::(\w+)\s*\(", tests)))
    cases = [f"            {name}::{variant}(value) => {{ out.variant(\"{variant}\", 1); value.put(out); }}"
             for variant in variants]
    return "\n".join([f"    impl ::megatron_ft_wire::Put for {signature.result} {{",
                      "        fn put(&self, out: &mut ::megatron_ft_wire::Writer) { use ::megatron_ft_wire::Put; match self {",
                      *cases, '            _ => out.variant("another", 0),', "        } }", "    }"])


def _callable_tests(text: str) -> tuple[str, list[str]]:
    """The tests as plain functions, and their entries of the list that is run."""
    tests, entries = text.replace("#[cfg(test)]", ""), []
    for test in TEST.finditer(tests):
        modules = re.findall(r"\bmod\s+(\w+)\s*\{", tests[: test.start()])[-1:]
        path = "::".join(["super", *modules, test[2]])
        entries.append(f'            ("{test[2]}", {path}, {str("should_panic" in test[1]).lower()}),')
    return TEST.sub(lambda test: f"{test[1].replace('#[should_panic]', '')}pub fn {test[2]}", tests), entries
