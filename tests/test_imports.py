"""The parts of megatron_ft import each other in one direction only, and the front stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "megatron_ft"
FRONT = {"config", "config_sections", "errors", "log", "cli"}
ORDER = ["data", "curation", "families", "runtime", "training", "conversion", "evaluation"]
ENTRIES = {"train", "evaluate", "plan", "report", "preflight", "status"}
"""Commands (`python -m megatron_ft.NAME`): they may import everything, nothing imports them."""
FORBIDDEN = {"data": {"families", "runtime", "training", "conversion", "evaluation"},
             "families": {"data", "curation", "runtime", "training", "conversion", "evaluation"},
             "runtime": {"curation"}, "training": {"curation"}, "conversion": {"curation"},
             "evaluation": {"curation", "families", "runtime", "training", "conversion"}}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path}: an import that climbs out of its folder hides the direction"
            if node.level == 0:  # one that stays in its folder has no direction to hide
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_parts(path: Path) -> set[str]:
    modules = [name.split(".") for name in imported_modules(path) if name.split(".")[0] == "megatron_ft"]
    return {name[1] for name in modules if len(name) > 1} - {part_of(path), "__version__"}


def test_every_part_has_its_place():
    assert {part_of(path) for path in FILES} <= FRONT | set(ORDER) | ENTRIES | {"__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = part_of(path)
    if part in ENTRIES or part == "__init__":
        return
    allowed = FRONT if part in FRONT else FRONT | set(ORDER[:ORDER.index(part)])
    wrong = own_parts(path) - (allowed - FORBIDDEN.get(part, set()))
    assert not wrong, f"{path}: {part} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "evaluation"], ids=lambda path: path.name)
def test_evaluation_needs_only_templates_of_data_and_no_megatron(path):
    modules = imported_modules(path)
    assert not [name for name in modules if name.startswith("megatron.")]
    of_data = [name for name in modules if name.startswith("megatron_ft.data")]
    allowed = ("megatron_ft.data.templates", "megatron_ft.data.tokenizer_json.without_prefix")
    assert all(name.startswith(allowed) for name in of_data)


@pytest.mark.parametrize("modules, unwanted", [
    ("megatron_ft.config, megatron_ft.cli, megatron_ft.log", "torch"),
    ("megatron_ft.families, megatron_ft.training.plan, megatron_ft.runtime.checkpoint_layout", "torch"),
    ("megatron_ft.plan, megatron_ft.training.layout_search, megatron_ft.training.run_data", "torch"),
    ("megatron_ft.data.build, megatron_ft.data.indexed, megatron_ft.data.pack", "torch"),
    ("megatron_ft.curation.filter_commits, megatron_ft.curation.deduplicate, megatron_ft.curation.decontaminate", "torch"),
    ("megatron_ft.conversion.hf_to_megatron, megatron_ft.conversion.megatron_to_hf, megatron_ft.conversion.verify", "megatron"),
    ("megatron_ft.conversion.lora_to_hf", "megatron"),
    ("megatron_ft.evaluate, megatron_ft.evaluation.run", "torch"),
    ("megatron_ft.train", "torch"),
    ("megatron_ft.report, megatron_ft.training.report_page", "torch"),
    ("megatron_ft.status, megatron_ft.training.status_text, megatron_ft.training.attempt_record", "torch"),
    ("megatron_ft.preflight, megatron_ft.training.preflight_files, megatron_ft.training.preflight_compare", "torch"),
])
def test_heavy_packages_are_not_loaded_where_they_are_not_needed(modules, unwanted):
    code = f"import sys, {modules}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"{modules} load {unwanted}"
