"""What EvalPlus takes for the program in an answer: the longest run of lines that is Python, and what the function needs of it.

Written from the behaviour of evalplus/sanitize.py, which reads the text with tree-sitter; `fixed` mode does not use it.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize


def extracted(text: str, entry_point: str) -> str:
    """Imports, and the definitions that the entry point reaches, each as it stands; all that is Python if it is not there.

    What it leaves out on purpose, as EvalPlus does: decorated functions, functions without `return`, what is neither import,
    definition nor assignment, and a second definition of a name.
    """
    code = longest_python(text)
    imports: list[str] = []
    defined: dict[str, ast.stmt] = {}
    for node in ast.parse(code).body if is_python(code) else ():
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != "__future__"):
            imports.append(ast.get_source_segment(code, node))
        elif (name := _name(node)) is not None:
            defined.setdefault(name, node)
    texts = {name: ast.get_source_segment(code, node) for name, node in defined.items()}
    reached, left = {entry_point}, [entry_point]
    while left:
        new = _identifiers(texts.get(left.pop(), "")) - reached
        reached |= new
        left += new
    return "\n".join([*imports, *(text for name, text in texts.items() if name in reached)]).strip() or code


def longest_python(text: str) -> str:
    """The first of the longest runs of two or more lines that are Python, by lines that are not blank.

    EvalPlus tries all of the runs. Here each beginning is tried with the most lines first; a mistake that the parser finds in
    a line is in every longer run too, so the next try ends before that line.

    >>> longest_python("Sure! It is\\ndef f(x):\\n    return x\\nfor you")
    'def f(x):\\n    return x'
    """
    lines = text.split("\n")
    weights = [bool(line.strip()) for line in lines]
    best, most = (0, 1), 0
    for begin in range(len(lines) - 1):
        if sum(weights[begin:]) <= most:
            break
        end = len(lines)
        while end > begin + 1 and sum(weights[begin:end]) > most:
            mistake = _first_mistake("\n".join(lines[begin:end]))
            if mistake is None:
                best, most = (begin, end), sum(weights[begin:end])
                break
            end = begin + min(mistake, end - begin) - 1
    return "\n".join(lines[best[0]:best[1]])


def is_python(text: str) -> bool:
    """Whether a text can be parsed."""
    return _first_mistake(text) is None


def _first_mistake(text: str) -> int | None:
    """The number of the line, from 1, in which the parser finds a mistake; None if there is none."""
    try:
        ast.parse(text)
    except SyntaxError as error:
        return max(error.lineno or 1, 1)
    except (ValueError, MemoryError, RecursionError):
        return text.count("\n") + 1
    return None


def _name(node: ast.stmt) -> str | None:
    """What a statement defines, where EvalPlus keeps it."""
    if isinstance(node, ast.ClassDef) and not node.decorator_list:
        return node.name
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
        return node.name if any(isinstance(each, ast.Return) for each in ast.walk(node)) else None
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return None
    # The first name among the parts of an assignment: of `a.b = c` it is the c, which counts as defined from there on.
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return next((part.id for part in (target, node.value) if isinstance(part, ast.Name)), None)


def _identifiers(text: str) -> set[str]:
    """All names in a piece of Python, those of attributes and in f-strings too."""
    if not text:
        return set()
    names = {token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.NAME}
    names |= {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    return names - set(keyword.kwlist)
