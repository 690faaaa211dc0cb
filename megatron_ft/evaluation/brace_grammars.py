"""What texts of cpp, java, go, rust and js are made of: tokens, and how a definition begins and ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

FLAGS = re.DOTALL | re.MULTILINE
TEMPLATE_LEVELS = 20  # how deep JavaScript's template literals may lie in each other before they are read as one
BEFORE_REGEX = frozenset(["return", "typeof", "case", "in", "of", "do", "else", "void", "delete", "throw", "new", "instanceof",
                          "await", "yield"])

LINE_COMMENT = r"//[^\n]*"
BLOCK_COMMENT = r"/\*.*?(?:\*/|\Z)"
INNER_COMMENT = r"/\*(?:[^*/]|\*(?!/)|/(?!\*))*(?:\*/|\Z)"
NESTED_COMMENT = rf"/\*(?:[^*/]|\*(?!/)|/(?!\*)|{INNER_COMMENT})*(?:\*/|\Z)"
STRING = r'"(?:[^"\\\n]|\\.)*(?:"|\\\Z)?'
CHARACTER = r"'(?:[^'\\\n]|\\.)*(?:'|\\\Z)?"
REGEX_LITERAL = re.compile(r"/(?![*/])(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*(?:\]|\\?\Z))+(?:/\w*|\\?\Z)", FLAGS)
OTHERS = (r"(?P<word>[^\W\d][\w$]*|\$[\w$]*)|(?P<number>\d(?:'?\w)*)|(?P<open>[({\[])|(?P<close>[)}\]])"
          r"|(?P<newline>\n)|(?P<space>[^\S\n]+)|(?P<other>.)")


class Token(NamedTuple):
    """A piece of a text that is neither space nor comment."""

    kind: str
    """word, number, text, directive, open, close or other."""
    text: str
    start: int
    end: int
    fresh: bool
    """It is the first of its line."""


@dataclass(frozen=True)
class Grammar:
    """One language, as far as cutting its texts asks."""

    name: str
    lexer: re.Pattern[str]
    """Groups comment, text (strings of every kind), template, directive, and those of OTHERS."""
    depth: int
    """Braces that are open where an answer begins."""
    blocks: tuple[re.Pattern[str], ...]
    """How a definition begins that ends with its closing brace; the group `name` is what it defines, or `owner` what it
    belongs to, `names` what it defines several of, `used` a tree of imported names. Without one it defines no name."""
    lines: tuple[re.Pattern[str], ...]
    """How a definition begins that ends with a semicolon, or with the line where the language has it so."""
    keywords: frozenset[str] = frozenset()
    """What definitions begin with, where every definition begins with a keyword."""
    newline_ends: bool = False
    overloads: bool = False
    """Several functions may have one name."""
    imports_first: bool = False
    """Imports may only stand before all else."""
    never_kept: frozenset[str] = frozenset({"main"})
    regexes: bool = False
    """A slash may begin a regular expression."""


def scan(grammar: Grammar, text: str, start: int = 0, level: int = 0) -> Iterator[Token]:
    """The tokens of a text from `start` on; what is not closed goes to the end of its line or of the text.

    >>> [token.text for token in scan(JS, "a = `x${`}`}` /* } */ + /[/}]/g // }")]
    ['a', '=', '`x${`}`}`', '+', '/[/}]/g']
    """
    fresh, value_before = True, False
    while start < len(text):
        match = grammar.lexer.match(text, start)
        kind, end = match.lastgroup, match.end()
        if kind == "template":
            kind, end = "text", _template_end(grammar, text, start, level)
        elif grammar.regexes and text[start] == "/" and kind == "other" and not value_before:
            literal = REGEX_LITERAL.match(text, start)
            kind, end = ("text", literal.end()) if literal else (kind, end)
        if kind == "newline" or kind == "comment" and "\n" in text[start:end]:
            fresh = True
        elif kind not in ("space", "comment"):
            yield Token(kind, text[start:end], start, end, fresh)
            fresh = False
            value_before = kind in ("number", "text", "close") or kind == "word" and text[start:end] not in BEFORE_REGEX
        start = end


def _template_end(grammar: Grammar, text: str, start: int, level: int) -> int:
    """Where a template literal ends that begins at `start`; its `${...}` hold code, with further template literals."""
    at = start + 1
    while at < len(text) and text[at] != "`":
        if text.startswith("${", at) and level < TEMPLATE_LEVELS:
            depth = 0
            for token in scan(grammar, text, at + 1, level + 1):
                depth += {"{": 1, "}": -1}.get(token.text, 0)
                at = token.end
                if depth == 0:
                    break
            else:
                return len(text)
        else:
            at += 2 if text[at] == "\\" else 1
    return min(at + 1, len(text))


def _lexer(**kinds: str) -> re.Pattern[str]:
    return re.compile("|".join([*(f"(?P<{kind}>{text})" for kind, text in kinds.items()), OTHERS]), FLAGS)


def _patterns(*texts: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(text, FLAGS) for text in texts)


def _either(*texts: str) -> str:
    return "(?:" + "|".join(texts) + ")"


_NO_TYPE = (r"(?!(?:return|else|case|goto|new|delete|throw|using|typedef|if|while|for|switch|do|try|namespace|import|package"
            r"|and)\b)")
_CPP_TEMPLATE = r"(?:template\s*<[^;{}()]*>\s*)?"
_CPP_TYPE = (_NO_TYPE + r"(?:(?:const|constexpr|static|inline|unsigned|signed|long|short|struct|enum|class|extern|volatile"
             r"|friend|virtual|typename)\s+)*[\w:]+(?:\s*<[^;{}=]*>)?(?:::\w+)*"
             r"(?:\s+(?:const|int|long|double|char|short|unsigned)\b)*(?:\s*[*&]+\s*|\s+)")

CPP = Grammar(
    "cpp",
    _lexer(comment=_either(LINE_COMMENT, BLOCK_COMMENT),
           directive=r"#[ \t]*(?:include|define|undef|if|ifdef|ifndef|else|elif|endif|pragma)\b(?:\\\n|[^\n])*",
           text=_either(r'R"(?P<fence>[^()\\\s]{0,16})\(.*?(?:\)(?P=fence)"|\Z)', STRING, CHARACTER)),
    depth=1,
    blocks=_patterns(
        _CPP_TEMPLATE + _CPP_TYPE + r"(?P<name>operator\s*[^\s\w(]+|(?:\w+::)*~?\w+)\s*\((?:[^;{}]|\{\})*\)[^;{}()=]*(?=\{)",
        r"(?:inline\s+)?namespace\b\s*(?P<name>\w*)\s*(?=\{)"),
    lines=_patterns(
        _CPP_TEMPLATE + r"(?:typedef\s+)?(?:struct|class|enum(?:\s+class)?|union)\b\s*(?P<name>\w*)[^;{}()=]*\{[^{}]*\}"
        r"(?P<names>[^;{}]*;)",
        _CPP_TEMPLATE + r"(?:struct|class|enum(?:\s+class)?|union)\s+(?P<name>\w+)[^;{}()=]*(?=[{;])",
        r"typedef\s+(?:struct|union|enum)\b(?=[^;]*\{)",
        r"typedef\s+[^;{}]*?(?P<name>\w+)\s*(?=;)",
        r"using\s+(?P<name>\w+)\s*=",
        r"using\s+(?:namespace\s+)?[\w:]+\s*(?=;)",
        _CPP_TEMPLATE + _CPP_TYPE + r"(?P<name>\w+)\s*(?:\[[^;{}=]*\]\s*)*(?:=(?!=)|,|(?=[;{]))",
        _CPP_TEMPLATE + _CPP_TYPE + r"\w+\s*\([^;{}]*\)\s*(?=;)"),
    overloads=True,
)

_JAVA_MODIFIERS = (r"(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|private|protected|static|final|abstract|synchronized|native|default"
                   r"|strictfp|sealed|transient|volatile)\s+)*")
_JAVA_TYPE = _JAVA_MODIFIERS + r"(?:<[^;{}()=]*>\s*)?" + _NO_TYPE + r"[\w.]+(?:\s*<[^;{}()=]*>)?(?:\s*\[\s*\])*\s+"

JAVA = Grammar(
    "java",
    _lexer(comment=_either(LINE_COMMENT, BLOCK_COMMENT),
           text=_either(r'"""(?:[^"\\]|\\.|"(?!""))*(?:"""|\Z)', STRING, CHARACTER)),
    depth=2,
    blocks=_patterns(
        _JAVA_MODIFIERS + r"(?:class|interface|enum|record|@interface)\s+(?P<name>\w+)[^;{}]*(?=\{)",
        _JAVA_TYPE + r"(?P<name>\w+)\s*\([^;{}]*\)[^;{}()=]*(?=\{)",
        r"(?:(?:public|private|protected)\s+)?(?P<name>[A-Z]\w*)\s*\([^;{}()]*\)[^;{}()=]*(?=\{)",
        r"(?:static\s*)?(?=\{)"),
    lines=_patterns(
        r"(?:import|package)\s+[\w.*\s]+(?=;)",
        _JAVA_TYPE + r"(?P<name>\w+)\s*(?:\[\s*\]\s*)*(?:=(?!=)|,|(?=;))",
        _JAVA_TYPE + r"\w+\s*\([^;{}]*\)[^;{}()=]*(?=;)"),
    overloads=True,
    imports_first=True,
    never_kept=frozenset({"main", "Main"}),
)

GO = Grammar(
    "go",
    _lexer(comment=_either(LINE_COMMENT, BLOCK_COMMENT), text=_either("`[^`]*`?", STRING, CHARACTER)),
    depth=1,
    blocks=(),
    lines=_patterns(
        r"func\s*\(\s*(?:\w+\s+)?\*?\s*(?P<owner>\w+)[^)]*\)\s*\w+\s*\(",
        r"func\s+(?P<name>\w+)\s*[(\[]",
        r"type\s+(?P<name>\w+)\b",
        r"(?:var|const|type)\s*\((?P<names>[^)]*)",
        r"(?:var|const)\s+(?P<names>\w+(?:\s*,\s*\w+)*)\b",
        r"(?:import\s*(?:\(|(?:[\w.]+\s+)?[\"`])|package\s+\w+)"),
    keywords=frozenset(["func", "type", "var", "const", "import", "package"]),
    newline_ends=True,
    imports_first=True,
)

_RUST_BEFORE = r"(?:#!?\[[^\]]*\]\s*)*(?:pub(?:\s*\([^)]*\))?\s+)?"
_RUST_CHARACTER = r"b?'(?:\\(?:u\{[^}\n]*\}?|x\w{0,2}|.)?|[^\\'\n])(?:'|\Z)"

RUST = Grammar(
    "rust",
    _lexer(comment=_either(LINE_COMMENT, NESTED_COMMENT),
           text=_either(r'b?r(?P<fence>#*)".*?(?:"(?P=fence)|\Z)', r'b?"(?:[^"\\]|\\.)*(?:"|\\?\Z)', _RUST_CHARACTER)),
    depth=1,
    blocks=_patterns(
        _RUST_BEFORE + r"(?:(?:default|async|unsafe|const|extern(?:\s*\"[^\"]*\")?)\s+)*fn\s+(?P<name>\w+)\s*[(<]",
        _RUST_BEFORE + r"(?:struct|enum|union|(?:unsafe\s+)?trait|mod)\s+(?P<name>\w+)\s*(?=[<{(;:]|where\b)",
        _RUST_BEFORE + r"(?:unsafe\s+)?impl\b(?:\s*<[^{;]*?>(?=\s+\w))?(?:[^{;]*?\sfor\b)?\s*&?(?:\w+::)*(?P<owner>\w+)",
        r"(?:#\[[^\]]*\]\s*)*macro_rules!\s*(?P<name>\w+)"),
    lines=_patterns(
        _RUST_BEFORE + r"(?:const|static(?:\s+mut)?|type)\s+(?P<name>\w+)\s*(?=[:=<])",
        _RUST_BEFORE + r"use\s+(?P<used>[\w:{}*,\s]+);",
        r"extern\s+crate\s+\w+"),
    keywords=frozenset(["#", "pub", "fn", "async", "unsafe", "const", "extern", "struct", "enum", "union", "trait", "mod",
                        "impl", "macro_rules", "static", "type", "use"]),
)

_JS_BEFORE = r"(?:export\s+(?:default\s+)?)?"

JS = Grammar(
    "js",
    _lexer(comment=_either(LINE_COMMENT, BLOCK_COMMENT), template="`", text=_either(STRING, CHARACTER)),
    depth=1,
    blocks=_patterns(
        _JS_BEFORE + r"(?:async\s+)?function\s*\*?\s*(?P<name>[\w$]+)\s*\(",
        _JS_BEFORE + r"class\s+(?P<name>[\w$]+)[^;{}]*(?=\{)"),
    lines=_patterns(
        _JS_BEFORE + r"(?:const|let|var)\s+(?P<name>[\w$]+)\s*(?:=(?!=)|,|;|$)",
        _JS_BEFORE + r"(?:const|let|var)\s*(?P<names>[{\[][^;()=]*[}\]])\s*=",
        r"import\s[^;]*?[\"']"),
    keywords=frozenset(["export", "async", "function", "class", "const", "let", "var", "import"]),
    newline_ends=True,
    regexes=True,
)
