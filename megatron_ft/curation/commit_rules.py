"""CommitPackFT's rules for commits that read as instructions, one by one, and the edits that clean their subjects.

The published script (bigcode-project/octopack, dataset/commitpackft/) has faults; each rule says which one it avoids.
Order matters: what gives a subject away ("[WIP]", "WIP:") is looked for before the edits strip it, what makes it an
instruction is asked after.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from megatron_ft.curation.commit_verbs import is_imperative

Row = Mapping[str, Any]
"""A commit: `old_contents`, `new_contents` and `subject` are strings; `new_file` and `lang` may be absent."""

EXTENSIONS = {
    "c": ".c .h", "c#": ".cs", "c++": ".cpp .cc .cxx .c++ .hpp .hh .hxx .h .inl", "css": ".css", "go": ".go",
    "html": ".html .htm", "java": ".java", "javascript": ".js .jsx .mjs .cjs .es6", "json": ".json", "kotlin": ".kt .kts",
    "markdown": ".md .markdown", "php": ".php .phtml .inc", "python": ".py .pyi .pyw", "ruby": ".rb .rake .gemspec",
    "rust": ".rs", "scala": ".scala .sbt", "shell": ".sh .bash .zsh .ksh", "sql": ".sql", "swift": ".swift",
    "typescript": ".ts .tsx .mts .cts", "xml": ".xml", "yaml": ".yml .yaml",
}
"""Language, lower-case -> the extensions of its files."""

Parameters = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A test, which drops rows, or an edit, which changes subjects."""

    name: str
    description: str
    """What it drops or changes."""
    apply: Callable[..., Any]
    """Of (row, **parameters). A test: whether the row stays, None if it cannot tell. An edit: the new subject."""
    parameters: Parameters = dataclasses.field(default_factory=dict)
    example: str = ""
    """A subject that it drops or changes."""
    avoids: str = ""
    """The published script's fault that is not repeated here."""
    kind: Literal["test", "edit"] = "test"
    is_added: bool = False
    """By the user."""


def within(row: Row, *, field: str, min_characters: int, max_characters: int | None, min_words: int,
           max_words: int | None) -> bool | None:
    """Whether a text's length is between the bounds, which are included; None is no bound.

    >>> within({"subject": "Add it"}, field="subject", min_characters=0, max_characters=10, min_words=3, max_words=9)
    False
    """
    text = row.get(field)
    if not isinstance(text, str):
        return None
    characters, words = len(text), len(text.split())
    return (min_characters <= characters and min_words <= words and (max_characters is None or characters <= max_characters)
            and (max_words is None or words <= max_words))


def lacks(row: Row, *, pattern: str, field: str = "subject") -> bool | None:
    """Whether a text has no match of a pattern; upper and lower case count the same."""
    text = row.get(field)
    return re.search(pattern, text, re.IGNORECASE) is None if isinstance(text, str) else None


def has(row: Row, *, pattern: str, field: str = "subject") -> bool | None:
    """Whether a text has a match of a pattern; upper and lower case count the same."""
    text = row.get(field)
    return re.search(pattern, text, re.IGNORECASE) is not None if isinstance(text, str) else None


def strip(row: Row, *, pattern: str) -> str:
    """The subject without any match of a pattern, again and again until there is none.

    >>> strip({"subject": "[net] ipv4: Fix the checksum"}, pattern=STRIPPED_OPENING)
    'Fix the checksum'
    """
    subject = row["subject"]
    while re.search(pattern, subject, re.IGNORECASE):
        subject = " ".join(re.sub(pattern, " ", subject, flags=re.IGNORECASE).split())
    return subject


def is_short_enough(row: Row, *, max_characters: int) -> bool:
    """Whether the file before the commit is small."""
    return len(row["old_contents"]) <= max_characters


def is_kept_file(row: Row) -> bool:
    """Whether the commit leaves something of the file."""
    return row["new_contents"] != ""


def is_changed(row: Row) -> bool:
    """Whether the commit changes the file."""
    return row["old_contents"] != row["new_contents"]


def fits_language(row: Row) -> bool | None:
    """Whether the file's extension is one of its language's.

    >>> fits_language({"lang": "Python", "new_file": "a/b.py"}), fits_language({"lang": "Go", "new_file": "b.py"})
    (True, False)
    """
    language, file = row.get("lang"), row.get("new_file")
    if not isinstance(language, str) or not isinstance(file, str) or language.lower() not in EXTENSIONS:
        return None
    return PurePosixPath(file).suffix.lower() in EXTENSIONS[language.lower()].split()


def lacks_file_name(row: Row, *, min_characters: int) -> bool | None:
    """Whether the subject does not name the file, whose name the model never sees.

    >>> lacks_file_name({"subject": "Fix utils for large inputs", "new_file": "lib/utils.py"}, min_characters=3)
    False
    >>> lacks_file_name({"subject": "Add a main loop", "new_file": "a.py"}, min_characters=3)
    True
    """
    file = row.get("new_file")
    if not isinstance(file, str):
        return None
    name = PurePosixPath(file).name.lstrip(".")
    stems = {name.partition(".")[0], PurePosixPath(name).stem}
    return not any(re.search(rf"(?<!\w){re.escape(stem)}(?!\w)", row["subject"], re.IGNORECASE)
                   for stem in stems if len(stem) >= min_characters)


def is_capitalised(row: Row) -> bool:
    """Whether the subject begins with an upper-case letter."""
    return row["subject"][:1].isupper()


def begins_with_verb(row: Row, *, third_person: bool, more_verbs: str) -> bool:
    """Whether the subject begins with an imperative.

    >>> begins_with_verb({"subject": "Clean, then build"}, third_person=False, more_verbs="")
    True
    """
    found = re.match(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*", row["subject"])
    return found is not None and (is_imperative(found[0], third_person=third_person)
                                  or found[0].lower() in more_verbs.lower().split())


def is_in_share(row: Row, *, pattern: str, keep_share: float) -> bool:
    """False for all but a share of the subjects that match; a hash of the file's contents says which stay."""
    if re.search(pattern, row["subject"], re.IGNORECASE) is None:
        return True
    text = f"{len(row['old_contents'])}:{row['old_contents']}{row['new_contents']}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < keep_share * 2**64


def fits_tokens(tokens: int, *, min_tokens: int, max_tokens: int) -> bool:
    """Whether a commit is between the bounds, which are included."""
    return min_tokens <= tokens <= max_tokens


TOKEN_LENGTH = "token_length"
"""The rule that is applied after all others, to a chunk of rows at once, because it is the one that costs time."""
STRIPPED_OPENING = r"^\s*(?:\[[^\[\]]*\]:?|[^\s()\[\]]+?(?:\([^()]*\))?!?:(?=\s))"
"""[net], net:, feat(net)!:"""
FIRST_PERSON = r"(?<![\w./-])(?-i:I)(?![\w./-])|(?<!\w)I['’](?:m|ve|ll|d)\b"

RULES: tuple[Rule, ...] = (
    Rule("old_too_long", "the file before the commit is larger", is_short_enough, {"max_characters": 49_999}),
    Rule("new_empty", "the commit empties the file", is_kept_file),
    Rule("unchanged", "the commit does not change the file", is_changed),
    Rule("number_sign", "a '#', which refers to an issue", lacks, {"pattern": r"(?<!\b[acfjqx])#"},
         "Close #12 and fix the parser", "drops C# and F#"),
    Rule("wrong_extension", "the file's extension is not one of the language's", fits_language, {}, "",
         "compares 'py' with '.py' and 'Python' with 'python', so that it had to be commented out"),
    Rule("file_named", "the subject names the file", lacks_file_name, {"min_characters": 3}, "Fix utils for large inputs",
         "looks inside words, so that a.py drops every subject with an 'a' and .gitignore every one; misses Utils for utils"),
    Rule("work_in_progress", "unfinished work", lacks, {"pattern": r"\bWIP\b|\bwork in progress\b"}, "[WIP] Add a page cache",
         "drops 'wipe', and looks after '[WIP]' and 'WIP:' were stripped"),
    Rule("tool_message", "a message that a tool wrote", lacks,
         {"pattern": r"^auto[ -]?commit\b|\bupdate contributing\b|<\?xml|\bmerge (?:branch|pull request)\b|\bsigned-off-by\b"},
         "Merge branch 'next' into the stable one", "drops 'Disable auto commit of transactions' and 'Merge branches'"),
    Rule("cherry_pick", "a cherry-picked commit", lacks, {"pattern": r"\bcherry[- ]picked from\b"},
         "Fix it (cherry picked from commit 1a2b)", "looks for lower case only"),
    Rule("leetcode", "a solution of LeetCode", lacks, {"pattern": r"\| leetcode\b"}, "Add two sum solution | LeetCode"),
    Rule("strip_ci", "[skip ci] and its like", strip, {"pattern": r"\[(?:skip ci|ci skip|no ci)\]"}, "Fix the cache [CI skip]",
         "strips [ci skip] after asking for the first letter and the verb; only in lower case", "edit"),
    Rule("strip_opening", "a leading [tag] or tag:", strip, {"pattern": STRIPPED_OPENING}, "[net] ipv4: Fix the checksum",
         "strips one of several tags, and none of two words", "edit"),
    Rule("strip_closing", "a trailing [tag]", strip, {"pattern": r"\[[^\[\]]*\]\s*$"}, "Fix the checksum [net tests]",
         "strips no tag of two words", "edit"),
    Rule("subject_length", "a subject that is too short or too long", within,
         {"field": "subject", "min_characters": 11, "max_characters": 999, "min_words": 5, "max_words": 999}, "Fix the parser",
         "asks before the last strip, so that shorter subjects remain"),
    Rule("not_capitalised", "a subject that does not begin with an upper-case letter", is_capitalised, {},
         "fix the parser for lists"),
    Rule("not_imperative", "a subject that does not begin with an imperative", begins_with_verb,
         {"third_person": False, "more_verbs": ""}, "Fixed the parser for lists",
         "misses 'Clean, then build', 'Re-add', and verbs such as 'Avoid' and 'Ensure'"),
    Rule("bare_message", "a subject that says nothing", lacks,
         {"pattern": r"^\W*(?:readme|dummy|test|updated?(?: readme)?(?:\.md)?)\W*$"},
         "Update README.md.", "is defeated by a full stop"),
    Rule("version", "a version for a subject", lacks, {"pattern": r"^v?\d+\.\d+\.\d+"}, "v1.10.2 release",
         "takes '1.2.13 release' and not '1.2.3 release'"),
    Rule("hash", "a hash for a subject", lacks, {"pattern": r"^(?=[a-f-]*\d)[a-f0-9]{4,}(?:-[a-f0-9]+)*$"}, "0239-2a41",
         "takes 'added', 'dead' and 'facade' for hashes"),
    Rule("commit_hash", "a commit's hash", lacks, {"pattern": r"\b[0-9a-f]{40}\b"},
         "Revert 1f0c3ba98d1d5c5a8f3bb8bd0fb3d0cc5ad1e7ab at once", "takes part of a longer checksum for one"),
    Rule("version_bump", "a new version number, but for a share", is_in_share,
         {"pattern": r"^(?:bump|(?:set|update) version)\b", "keep_share": 0.1}, "Bump version to 1.2.3 for release",
         "chooses at random, differently in every run"),
    Rule("first_person", "the author speaks", lacks, {"pattern": FIRST_PERSON}, "Fix what I broke in the parser",
         "takes a loop's variable i for the author"),
    Rule("thanks", "thanks", lacks, {"pattern": r"\bthanks to\b.*\bfor\b"}, "Fix the parser, thanks to Ann for the hint",
         "takes 'format' and 'before' for 'for'"),
    Rule("code_review", "what a review asked for", lacks, {"pattern": r"\bcode reviews?\b|//codereview"},
         "Address comments of the code review"),
    Rule("ticket", "an issue, bug or feature by its number", lacks, {"pattern": r"\b(?:issue|bug|feature)s?[\s-]*\d"},
         "Fix the parser for issue 12", "takes 'debug 64-bit builds' for bug 64"),
    Rule("url", "a URL", lacks, {"pattern": r"https?://"}, "Add what http://example.org says"),
    Rule(TOKEN_LENGTH, "old and new file, with the end-of-text token between them, are too short or too long in tokens",
         fits_tokens, {"min_tokens": 50, "max_tokens": 768}, "",
         "takes a special token's string inside a file for the special token"),
)
