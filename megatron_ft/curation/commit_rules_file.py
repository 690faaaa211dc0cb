r"""A TOML file that switches rules for commits off, changes their parameters and adds rules.

    off = ["token_length", "leetcode"]

    [rules.subject_length]
    min_words = 4

    [[add]]
    name = "jira"                    # a pattern: `drop` what has it, `keep` only what has it, or `strip` it from the subject
    drop = '\b[A-Z]{2,}-\d+\b'       # upper and lower case count the same, except in (?-i:...)
    field = "subject"                # of the row; this is the default

    [[add]]
    name = "new_file_size"           # or bounds: min_characters, max_characters, min_words, max_words
    field = "new_contents"
    max_characters = 20000
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_ft.curation.commit_rules import RULES, TOKEN_LENGTH, Rule, has, lacks, strip, within
from megatron_ft.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATTERNS = {"drop": lacks, "keep": has, "strip": strip}
NO_BOUNDS = {"min_characters": 0, "max_characters": None, "min_words": 0, "max_words": None}


def load(path: str | Path | None) -> tuple[Rule, ...]:
    """The rules that are on, in the order in which they are applied; None gives CommitPackFT's as they are."""
    if path is None:
        return RULES
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"--rules: there is no file {path}; --list-rules writes one with every rule in it")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from error
    _refuse_unknown(tree, {"off", "rules", "add"}, f"{path}:", "part")
    known = {rule.name: rule for rule in RULES}
    for name, changes in _table(tree.get("rules", {}), f"{path}: rules").items():
        _refuse_unknown([name], known, f"{path}: rules.", "rule")
        known[name] = _changed(known[name], _table(changes, f"{path}: rules.{name}"), f"{path}: rules.{name}")
    added = [_added(entry, f"{path}: add {number}") for number, entry in enumerate(tree.get("add", []), start=1)]
    for number, rule in enumerate(added, start=1):
        if rule.name in known:
            raise ConfigError(f"{path}: add {number}: there is a rule '{rule.name}' already; give this one another name")
        known[rule.name] = rule
    off = tree.get("off", [])
    if not isinstance(off, list):
        raise ConfigError(f"{path}: off: is {json.dumps(off)} where a list of rules is needed, as in off = [\"url\"]")
    _refuse_unknown(off, known, f"{path}: off: ", "rule")
    return tuple(rule for rule in _in_order(known.values()) if rule.name not in off)


def _in_order(rules: Iterable[Rule]) -> list[Rule]:
    """As given, but added edits come where edits are made, before the tests that ask what is left of a subject."""
    rules = list(rules)
    last_edit = max(place for place, rule in enumerate(rules) if rule.kind == "edit" and not rule.is_added)

    def order(place: int) -> tuple[int, int]:
        rule = rules[place]
        if rule.name == TOKEN_LENGTH:
            return len(rules), 0
        return (last_edit, place) if rule.is_added and rule.kind == "edit" else (place, 0)

    return [rules[place] for place in sorted(range(len(rules)), key=order)]


def to_toml(rules: Iterable[Rule]) -> str:
    """Rules with what they do, as a file that gives them again (added rules as comments only)."""
    rules = tuple(rules)
    is_on = {rule.name for rule in rules}
    off = [rule.name for rule in RULES if rule.name not in is_on]
    lines = [f"off = {json.dumps(off)}", ""]
    for rule in rules:
        lines.append(f"# {'changes' if rule.kind == 'edit' else 'drops'}: {rule.description}")
        lines += [f"#   as in: {rule.example}"] if rule.example else []
        lines += [f"#   the published script {rule.avoids}"] if rule.avoids else []
        mark = "# " if rule.is_added else ""
        lines.append(f"{mark}[rules.{rule.name}]")
        lines += [f"{mark}{key} = {_toml_value(value)}" for key, value in rule.parameters.items()
                  if value is not None]
        lines.append("")
    return "\n".join(lines)


def _changed(rule: Rule, changes: dict[str, Any], place: str) -> Rule:
    _refuse_unknown(changes, rule.parameters, f"{place}.", "parameter")
    for key, value in changes.items():
        wanted = type(rule.parameters[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ConfigError(f"{place}.{key}: is {json.dumps(value, default=str)} where a value like "
                              f"{json.dumps(rule.parameters[key])} is needed")
        if key == "pattern":
            _check_pattern(value, f"{place}.{key}", is_strip=rule.kind == "edit")
        if key == "keep_share" and not 0 <= value <= 1:
            raise ConfigError(f"{place}.{key}: is {value}; a share is from 0 to 1")
    parameters = rule.parameters | changes
    _check_bounds(parameters, place)
    return dataclasses.replace(rule, parameters=parameters)


def _added(entry: Any, place: str) -> Rule:
    entry = dict(_table(entry, place))
    name, field = entry.pop("name", None), entry.pop("field", "subject")
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ConfigError(f"{place}: has the name {json.dumps(name)}; give it one of letters, digits and _: rows are counted "
                          "under it")
    place = f"{place} ({name})"
    _refuse_unknown(entry, {*PATTERNS, *NO_BOUNDS}, f"{place}: ", "key")
    kinds = [key for key in PATTERNS if key in entry]
    if len(kinds) + any(key in NO_BOUNDS for key in entry) != 1:
        raise ConfigError(f"{place}: has {', '.join(entry) or 'nothing to do'}; give it one of drop, keep and strip (a "
                          f"pattern), or bounds ({', '.join(NO_BOUNDS)})")
    if not isinstance(field, str) or (field != "subject" and kinds == ["strip"]):
        raise ConfigError(f"{place}: field is {json.dumps(field, default=str)}; only the subject can be edited, and a test "
                          "needs a field's name")
    if kinds:
        pattern = entry[kinds[0]]
        _check_pattern(pattern, f"{place}: {kinds[0]}", is_strip=kinds == ["strip"])
        verb = {"drop": "has", "keep": "lacks", "strip": "has"}[kinds[0]]
        parameters = {"pattern": pattern} | ({} if kinds == ["strip"] else {"field": field})
        return Rule(name, f"{field} {verb} {pattern}", PATTERNS[kinds[0]], parameters,
                    kind="edit" if kinds == ["strip"] else "test", is_added=True)
    for key, value in entry.items():
        if type(value) is not int:
            raise ConfigError(f"{place}: {key} is {json.dumps(value, default=str)} where a whole number is needed")
    parameters = {"field": field} | NO_BOUNDS | entry
    _check_bounds(parameters, place)
    return Rule(name, f"{field} is not within {entry}", within, parameters, is_added=True)


def _check_pattern(pattern: Any, place: str, *, is_strip: bool) -> None:
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except (re.error, TypeError) as error:
        raise ConfigError(f"{place}: {json.dumps(pattern, default=str)} is no regular expression: {error}") from error
    if is_strip and compiled.search(""):
        raise ConfigError(f"{place}: '{pattern}' matches nothing at all too, so there would be no end to stripping; "
                          "let it match one character at least")


def _check_bounds(parameters: dict[str, Any], place: str) -> None:
    for key, low in parameters.items():
        high = parameters.get(key.replace("min_", "max_"))
        if key.startswith("min_") and high is not None and low > high:
            raise ConfigError(f"{place}: {key} is {low} and {key.replace('min_', 'max_')} is {high}, so nothing would stay; "
                              "lower the one or raise the other")


def _table(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: is {json.dumps(value, default=str)} where a table is needed")
    return value


def _refuse_unknown(names: Iterable[Any], known: Iterable[str], place: str, what: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise ConfigError(f"{place}{name}: there is no {what} of that name; {hint}")


def _toml_value(value: Any) -> str:
    if isinstance(value, str) and "'" not in value:
        return f"'{value}'"  # a literal string, in which \\ is no escape
    return f"'''{value}'''" if isinstance(value, str) else json.dumps(value)
