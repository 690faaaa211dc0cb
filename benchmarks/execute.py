"""How much faster are programs judged than with a process or two for each, as the public harness does it?

    python benchmarks/execute.py --benchmark humanevalpack [--language python,js,java,go,cpp,rust] [--every 4]

The benchmark's canonical solutions, judged by the evaluator (each in two boxes) and by the harness's commands (in no box),
with the harness's workers for each language. Both begin with what they need once in place: our precompiled headers and
archives, cargo's and go's caches. What takes less than five seconds is done again, anew, until it has taken as much; its mean
counts. --every takes a part of the problems.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from megatron_ft import cli
from megatron_ft.evaluation import benchmark, languages, public_rules, sandbox, scenarios, toolchain_cache
from megatron_ft.evaluation.languages import js, rust

WORKERS = {"python": 4, "js": 4, "java": 1, "go": 4, "cpp": 4, "rust": 1}
"""The public harness's."""
MEASURED_S = 5.0
MANIFEST = """[package]
name = "rust"
version = "0.1.0"
edition = "2021"

[dependencies]
rand = {{ path = "{rand}" }}
regex = {{ version = "1", default-features = false, features = ["std", "unicode"] }}
md5 = "0.7.0"
"""
CARGO = '[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "/usr/share/cargo/registry"\n'


def main() -> None:
    """Judge with both, language by language."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--language", default=",".join(languages.LANGUAGES))
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    found = benchmark.find(args.benchmark, args.language.split(","))
    ours, theirs = {}, {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ[toolchain_cache.VARIABLE] = cache
        for name, held in found.items():
            tasks = [scenarios.task(problem, "synthesize", name) for problem in held.problems[::args.every]]
            ours[name], our_passed = mean(partial(our_way, name, tasks), tasks, cli.cores())
            with tempfile.TemporaryDirectory() as folder:
                plain = PLAIN[name](Path(folder))
                plain(tasks[0])  # fills caches
                theirs[name], their_passed = mean(lambda way=plain: way, tasks, WORKERS[name])
            print(f"{name}: {len(tasks)} programs, ours {ours[name]:.2f} s and {len(our_passed)} passed, "
                  f"theirs {theirs[name]:.1f} s and {len(their_passed)} passed; "
                  f"judged otherwise: {', '.join(sorted(our_passed ^ their_passed)) or 'none'}", flush=True)
    report("their time / ours, all languages", sum(theirs.values()) / sum(ours.values()), target=4.0)
    if "python" in ours:
        report("their time / ours, python", theirs["python"] / ours["python"], target=10.0)


def mean(way: Callable[[], Callable[[scenarios.Task], bool]], tasks: Sequence[scenarios.Task],
         workers: int) -> tuple[float, set[str]]:
    """Mean seconds of as many runs as take MEASURED_S together, and the ids of what passed in all of them."""
    runs = []
    while sum(seconds for seconds, _ in runs) < MEASURED_S:
        runs.append(timed(way(), tasks, workers))
    return sum(seconds for seconds, _ in runs) / len(runs), set.intersection(*(passed for _, passed in runs))


def timed(judge: Callable[[scenarios.Task], bool], tasks: Sequence[scenarios.Task], workers: int) -> tuple[float, set[str]]:
    """Seconds, and the ids of what passed."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        passed = list(pool.map(judge, tasks))
    return time.perf_counter() - begun, {task.problem.task_id for task, right in zip(tasks, passed, strict=True) if right}


def our_way(name: str, tasks: Sequence[scenarios.Task]) -> Callable[[scenarios.Task], bool]:
    """The evaluator's judgement of tasks, in `fixed` mode, after its toolchain was checked."""
    language = languages.get(name)(sandbox.find())
    language.check()
    language.expect([task.problem for task in tasks])
    return lambda task: language.judge(task.problem, task.base, task.base + task.problem.canonical_solution).passed


def source(task: scenarios.Task) -> str:
    """The harness's one file."""
    return public_rules.source(task, task.base + task.problem.canonical_solution)


def commands(name: str, steps: Sequence[Sequence[str]], environment: dict[str, str] | None = None,
             quiet: bool = False) -> Callable[[Path], Callable[[scenarios.Task], bool]]:
    """Judges by writing the file into a folder of its own and running commands there."""
    def judge_in(folder: Path) -> Callable[[scenarios.Task], bool]:
        def judge(task: scenarios.Task) -> bool:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                Path(place, name).write_text(source(task))
                return run(steps, place, environment, quiet)
        return judge
    return judge_in


def run(steps: Sequence[Sequence[str]], place: str, environment: dict[str, str] | None, quiet: bool) -> bool:
    """Whether all steps left with 0; or, as it is for JavaScript, wrote nothing."""
    for step in steps:
        done = subprocess.run(step, cwd=place, env={**os.environ, **(environment or {})}, capture_output=True, check=False)
        if (done.stdout + done.stderr) if quiet else done.returncode:
            return False
    return True


def cargo(folder: Path) -> Callable[[scenarios.Task], bool]:
    """One package, whose only program is exchanged."""
    (folder / "src/bin").mkdir(parents=True)
    (folder / ".cargo").mkdir()
    (folder / ".cargo/config.toml").write_text(CARGO)
    rand = folder / "rand"
    (rand / "src").mkdir(parents=True)
    (rand / "Cargo.toml").write_text('[package]\nname = "rand"\nversion = "0.4.0"\nedition = "2018"\n')
    (rand / "src/lib.rs").write_text((rust.SOURCES / "rand.rs").read_text())
    (folder / "Cargo.toml").write_text(MANIFEST.format(rand=rand))

    def judge(task: scenarios.Task) -> bool:
        (folder / "src/bin/test.rs").write_text(source(task))
        return run([["cargo", "check", "--offline", "--bin", "test", "--message-format", "json"],
                    ["cargo", "test", "--offline", "--bin", "test", "--message-format", "json"]], str(folder), None, False)
    return judge


PLAIN: dict[str, Callable[[Path], Callable[[scenarios.Task], bool]]] = {
    "python": commands("test.py", [[sys.executable, "test.py"]]),
    "js": commands("test.js", [["node", "test.js"]], {"NODE_PATH": os.pathsep.join(
        map(str, js.package_folders(Path("/usr/bin/node"))))}, quiet=True),
    "java": commands("Main.java", [["javac", "Main.java"], ["java", "-cp", ".", "Main"]]),
    "go": commands("main_test.go", [["go", "test", "main_test.go"]], {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}),
    "cpp": commands("test.cpp", [["g++", "-std=c++11", "test.cpp", "-lcrypto", "-lssl"], ["./a.out"]]),
    "rust": cargo,
}


def report(figure: str, value: float, *, target: float) -> None:
    """Print one figure; larger is better."""
    print(json.dumps({"benchmark": "execute", "figure": figure, "value": round(value, 2), "unit": "x", "target": target,
                      "holds": value >= target}), flush=True)


if __name__ == "__main__":
    main()
