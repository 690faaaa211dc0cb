"""The languages whose programs can be executed: one file each, registered here."""

from __future__ import annotations

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.cpp import Cpp
from megatron_ft.evaluation.languages.go import Go
from megatron_ft.evaluation.languages.java import Java
from megatron_ft.evaluation.languages.js import JavaScript
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.languages.rust import Rust

LANGUAGES: dict[str, type[Language]] = {kind.name: kind for kind in (Python, JavaScript, Java, Go, Cpp, Rust)}


def get(name: str) -> type[Language]:
    """The language of that name; EvaluationError names the known ones."""
    if name not in LANGUAGES:
        raise EvaluationError(f"--language: '{name}' cannot be executed here; use one of {', '.join(LANGUAGES)}")
    return LANGUAGES[name]
