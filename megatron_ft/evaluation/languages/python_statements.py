"""A text, of which parts may be Python, as statements at its margin: what each defines and what it needs."""

from __future__ import annotations

import ast
import re
import symtable
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

MOST_GROUPS = 60  # margin lines that one statement may have: a table, a chain of `elif`
MOST_TRIES = 300  # of putting margin lines together, for one text: a model may repeat an open bracket without end
DECORATOR = re.compile(r"@\w")
COMMENT = re.compile(r"#")
CONTINUES = re.compile(r"(?:else|elif|except|finally)\b|[)\]}]")
UNFINISHED = re.compile(r"was never closed|unterminated triple-quoted|expected 'except' or 'finally'|unexpected EOF")
NOT_HARMLESS = frozenset(["print", "input", "exit", "quit", "help", "main", "breakpoint"])
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
BLOCKS = (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.Delete)


def parsed(text: str) -> list[ast.stmt] | str:
    """The statements of a text, or what is wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in a model's strings
            return ast.parse(text.encode("utf-8", "replace").decode()).body
    except SyntaxError as error:
        return error.msg
    except (ValueError, MemoryError, RecursionError) as error:
        return type(error).__name__


def is_python(text: str) -> bool:
    """Whether a text can be parsed."""
    return not isinstance(parsed(text), str)


@dataclass(frozen=True)
class Statement:
    """One statement at the margin, or words that are none."""

    text: str
    """Its lines, with the comments that stand before it."""
    nodes: Sequence[ast.stmt] | None
    """None if it is no Python; several where semicolons join them."""

    @cached_property
    def defines(self) -> frozenset[str]:
        """The names that it binds."""
        found: set[str] = set()
        for node in self.nodes or ():
            if isinstance(node, DEFINITIONS):
                found.add(node.name)
            else:
                found |= _bound(node)
        return frozenset(found)

    @cached_property
    def needs(self) -> frozenset[str]:
        """The names of the module that it reads; of functions in it those that are no locals of theirs."""
        if self.nodes is None:
            return frozenset()
        try:
            return frozenset(_globals_read(symtable.symtable(self.text.encode("utf-8", "replace").decode(), "answer", "exec")))
        except (SyntaxError, ValueError, MemoryError, RecursionError):  # what only the compiler finds wrong
            return frozenset(re.findall(r"\w+", self.text))

    @property
    def is_definition(self) -> bool:
        """Whether it is imports, definitions or assignments and nothing else."""
        return self._all(DEFINITIONS + IMPORTS + ASSIGNMENTS)

    @property
    def is_of_the_future(self) -> bool:
        """Whether it has to stand before all else."""
        return any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in self.nodes or ())

    @property
    def binds(self) -> bool:
        """Whether it may give a meaning to names: a definition, or a block that is not only for a script."""
        return self._all(DEFINITIONS + IMPORTS + ASSIGNMENTS + BLOCKS) and not any(map(_is_main_guard, self.nodes or ()))

    def is_harmless(self, entry_point: str) -> bool:
        """Whether it may run before the entry point is defined: it prepares, and neither shows nor tests anything."""
        if self.binds:
            return True
        return self.nodes is not None and bool(self.nodes) and all(
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _prepares(node.value, entry_point)
            or isinstance(node, DEFINITIONS + IMPORTS + ASSIGNMENTS) for node in self.nodes)

    def defines_function(self, name: str) -> bool:
        """Whether it gives a name to code: a function, a class, or a value (`f = lambda x: x`)."""
        return name in self.defines and self._all(DEFINITIONS + ASSIGNMENTS + BLOCKS)

    def _all(self, kinds: tuple[type[ast.stmt], ...]) -> bool:
        return bool(self.nodes) and all(isinstance(node, kinds) for node in self.nodes)


def statements(text: str) -> Iterator[Statement]:
    """The statements of a text, and the lines between them that are none; in their order, together all its lines.

    >>> [(each.text, sorted(each.defines)) for each in statements("It is:\\nimport re\\ntry:\\n  a = 1\\nfinally:\\n  b = 2")]
    [('It is:', []), ('import re', ['re']), ('try:\\n  a = 1\\nfinally:\\n  b = 2', ['a', 'b'])]
    """
    groups, at, tries = _groups(text), 0, MOST_TRIES
    while at < len(groups):
        tried, count, nodes = _longest(groups[at:at + (MOST_GROUPS if tries > 0 else 1)])
        yield Statement("\n".join(groups[at:at + count]), nodes)
        at += count
        tries -= tried - 1


def is_stub(nodes: Sequence[ast.stmt]) -> bool:
    """Whether a body does nothing: a docstring, `pass`, `...`, or that it is not implemented."""
    return all(isinstance(node, ast.Pass)
               or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
               or isinstance(node, ast.Raise) and "NotImplemented" in ast.dump(node) for node in nodes)


def _groups(text: str) -> list[str]:
    """The lines of a text, each with the lines behind it that are blank or indented."""
    groups: list[list[str]] = []
    for line in text.split("\n"):
        if groups and (not line.strip() or line[0].isspace()):
            groups[-1].append(line)
        else:
            groups.append([line])
    return ["\n".join(lines) for lines in groups]


def _longest(groups: Sequence[str]) -> tuple[int, int, Sequence[ast.stmt] | None]:
    """How often it was tried, how many of the groups the first statement takes, and what it is."""
    best = 1, None
    for count in range(1, len(groups) + 1):
        found, last = parsed("\n".join(groups[:count])), groups[count - 1]
        if isinstance(found, str):
            if not (DECORATOR.match(last) or UNFINISHED.search(found)):
                break
        else:
            best = count, found
            # Comments belong to what follows them.
            if found and not (count < len(groups) and CONTINUES.match(groups[count])):
                break
    return count, *best


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement binds which is no definition; not those that are bound inside of functions in it."""
    found, waiting = set(), [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            found.add(each.id)
        elif isinstance(each, ast.alias):
            found.add((each.asname or each.name).partition(".")[0])
        elif isinstance(each, DEFINITIONS):
            found.add(each.name)
            continue
        elif isinstance(each, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            continue
        waiting += ast.iter_child_nodes(each)
    return found


def _globals_read(table: symtable.SymbolTable) -> set[str]:
    found = {symbol.get_name() for symbol in table.get_symbols()
             if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module")}
    for child in table.get_children():
        found |= _globals_read(child)
    return found


def _prepares(call: ast.Call, entry_point: str) -> bool:
    """Whether a call at the margin is one that a program makes for its functions, as `sys.setrecursionlimit(10**6)`."""
    names = {each.id for each in ast.walk(call) if isinstance(each, ast.Name)}
    return not names & NOT_HARMLESS and entry_point not in names and _called(call) not in ("exit", "main", "testmod")


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)
