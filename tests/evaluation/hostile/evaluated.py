"""Scores hostile and right programs in six languages by the command itself, and says what came of it: `python -m ... MODE`.

As whoever runs it, with what `world.py` puts around it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from tests.evaluation.hostile.outside import Outside, gone
from tests.evaluation.hostile.tables import PROGRAMS, Programs

KINDS = ("loops without end", "leaves an orphan", "kills everything", "connects to the host", "reads the host's home",
         "writes outside its folder", "deletes everything", "leaves at once")
TIMEOUT_S = 3  # a JVM's start takes half a second of it
CLAIMS = {"python": "Python", "js": "JavaScript", "java": "Java", "go": "Go", "cpp": "CPP", "rust": "Rust"}
GO_PACKAGES = ("fmt", "net", "os", "os/exec", "os/signal", "runtime", "strconv", "strings", "syscall", "time", "unsafe")


def kinds(mode: str) -> tuple[str, ...]:
    """What the hostile answers try."""
    return KINDS if mode == "fixed" else KINDS[1:-1]  # compilers take longer by the public rules


def answers(language: str, programs: Programs, mode: str, words: dict[str, str]) -> dict[str, str]:
    """What a model might have answered: right, hostile in several ways, right again."""
    hostile = {kind: programs.text(kind, words) for kind in kinds(mode)}
    if language == "go":  # where a program is compiled as it is, it names its packages itself
        hostile = {kind: imports(text) + text for kind, text in hostile.items()}
    return {"right": programs.right, **hostile, "right again": programs.right}


def imports(text: str) -> str:
    """The packages that a text of Go uses and does not import."""
    used = [name for name in GO_PACKAGES
            if re.search(rf"\b{name.rpartition('/')[2]}\.\w", text) and f'import "{name}"' not in text]
    return "".join(f'import "{name}"\n' for name in used)


def write(benchmark: Path, samples: Path, mode: str, words: dict[str, str]) -> None:
    """One problem in each language, and answers to it."""
    benchmark.mkdir()
    with samples.open("w") as lines:
        for language, programs in PROGRAMS.items():
            problem = replace(programs.problem, task_id=f"{CLAIMS[language]}/0")
            (benchmark / f"{language}.jsonl").write_text(json.dumps(asdict(problem)) + "\n")
            for number, text in enumerate(answers(language, programs, mode, words).values()):
                lines.write(json.dumps({"task_id": problem.task_id, "scenario": "synthesize", "language": language,
                                        "sample": number, "program": text}) + "\n")


def main() -> None:
    """Write, score, look around, print."""
    (mode,) = sys.argv[1:]
    outside, marker, folder = Outside(Path.cwd().parent), secrets.token_hex(8), Path.cwd().parent / "made"
    folder.mkdir()
    os.environ["MEGATRON_FT_VERDICTS"] = str(folder / "verdicts")
    write(folder / "benchmark", folder / "samples.jsonl", mode, {**outside.words, "MARKER": marker})
    command = [sys.executable, "-m", "megatron_ft.evaluate", "--benchmark", str(folder / "benchmark"), "--language", "all",
               "--scenario", "synthesize", "--generations", str(folder / "samples.jsonl"), "--output", str(folder / "out"),
               "--mode", mode, "--timeout-s", str(TIMEOUT_S)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    results = folder / "out" / "results.jsonl"
    rows = [json.loads(line) for line in results.open()] if results.exists() else []
    named = ["right", *kinds(mode), "right again"]
    told = {"user": os.getuid(), "exit code": done.returncode, "said": done.stderr[-2000:],
            "verdicts": {language: {named[row["sample"]]: [row["status"], row["reason"]] for row in rows
                                    if row["language"] == language} for language in PROGRAMS},
            "alive": gone(marker) + (gone() if outside.is_alone else []), "left": outside.left(marker),
            "leaked": [row for row in rows if outside.secret in row["output"] + row["reason"]]}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
