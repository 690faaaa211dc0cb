"""Write the quickstart's training data: the answers to a benchmark's problems as instruction pairs, then other rows.

    python examples/make_data.py --problems examples/data/problems.jsonl --rows examples/data/questions.jsonl \
        --output runs/demo/data.jsonl

The pairs come first and the other rows last, so that a held-out range at the end holds no pair.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from megatron_ft import cli, log
from megatron_ft.errors import DataError


def pair(problem: Mapping[str, str]) -> dict[str, str]:
    r"""The training row from which a model learns exactly what the evaluator asks it for.

    The answer begins with a line break, so the octocoder template puts it where HumanEvalPack's prompt has it:

    >>> pair({"instruction": "Add 1.", "prompt": "def f(x):\n", "canonical_solution": "    return x + 1\n"})
    {'inputs': 'Add 1.', 'outputs': '\ndef f(x):\n    return x + 1\n'}
    """
    return {"inputs": problem["instruction"], "outputs": "\n" + problem["prompt"] + problem["canonical_solution"]}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The objects of a JSONL file; DataError where it is none."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSONL: {error}") from error


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a JSONL file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cli.write_text_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main() -> None:
    """Read, join, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", required=True, type=Path, help="JSONL with HumanEvalPack's fields, to be learnt")
    parser.add_argument("--rows", nargs="*", default=[], type=Path, help="JSONL files with inputs and outputs")
    parser.add_argument("--output", required=True, type=Path, help="JSONL file to write; must not exist")
    given = parser.parse_args()
    cli.require_absent(given.output, option="--output")
    pairs = [pair(problem) for problem in read_rows(given.problems)]
    others = [row for path in given.rows for row in read_rows(path)]
    write_rows(given.output, pairs + others)
    log.get().info("%s: %d rows, the first %d answer %s", given.output, len(pairs) + len(others), len(pairs),
                   given.problems)


if __name__ == "__main__":
    cli.main(main)
