"""Files of other evaluators: reads answers that were generated elsewhere, writes what the public harness would have written."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ft import cli
from megatron_ft.errors import ConfigError, DataError
from megatron_ft.evaluation import tables
from megatron_ft.evaluation.benchmark import Benchmark
from megatron_ft.evaluation.passk import shown
from megatron_ft.evaluation.problem import BASE, LANGUAGES, PACK, Kind, Problem
from megatron_ft.evaluation.run_folder import Key
from megatron_ft.evaluation.scenarios import DESCRIBED
from megatron_ft.evaluation.settings import Settings

METRICS = "evaluation_results.json"
OURS = ("completion", "tokens", "finish", "program")
GIVEN = {"finish": "given"}
EVALPLUS_PREFIX = "HumanEval"
NAMES = 3  # of missing problems in an error


@dataclass(frozen=True)
class Given:
    """Answers from a file, for every sample of a run."""

    answers: Mapping[Key, Mapping]
    """What a row of samples.jsonl has beside its key. One with a `program` is whole; one without has a `completion` to cut."""
    samples: int
    """Per problem."""
    sha256: str


def read(settings: Settings, found: Mapping[str, Benchmark], chosen: Mapping[str, Sequence[Problem]]) -> Given:
    """The answers in --generations for the run's problems; DataError for a file that has not the same number for each."""
    path = Path(settings.generations)
    if not path.is_file():
        raise DataError(f"--generations: there is no file {path}; name samples.jsonl, generations.json or evalplus' JSONL")
    data = path.read_bytes()
    asked = {(problem.task_id, scenario): None for problems in chosen.values() for scenario in settings.scenarios
             if scenario != DESCRIBED for problem in problems}
    answers = (_lists(path, data, settings, found, chosen) if data.lstrip()[:1] == b"["
               else _lines(path, data, settings, {problem.task_id: problem for each in chosen.values() for problem in each}))
    wanted = {key: answer for key, answer in answers.items() if key[:2] in asked}
    return Given(wanted, _samples(path, wanted, list(asked), settings.samples), hashlib.sha256(data).hexdigest())


def _samples(path: Path, answers: Mapping[Key, Mapping], asked: Sequence[tuple[str, str]], expected: int) -> int:
    """How many answers each task has, numbered from 0."""
    numbers = Counter(key[:2] for key in answers)
    absent = [f"{task_id}/{scenario}" for task_id, scenario in asked if (task_id, scenario) not in numbers]
    if absent:
        more = f" and {len(absent) - NAMES} more" if len(absent) > NAMES else ""
        raise DataError(f"--generations: {path} has no answer to {', '.join(absent[:NAMES])}{more}; choose what it has with "
                        "--problems, --limit, --scenario and --language")
    fewest, most = (choose(numbers, key=numbers.__getitem__) for choose in (min, max))
    if numbers[fewest] != numbers[most]:
        raise DataError(f"--generations: {path} has {numbers[fewest]} answers to {'/'.join(fewest)} and {numbers[most]} to "
                        f"{'/'.join(most)}; pass@k needs as many for each")
    samples = numbers[fewest]
    gap = next((key for key in answers if not 0 <= key[2] < samples), None)
    if gap is not None:
        raise DataError(f"--generations: {path} has {samples} answers to {gap[0]}/{gap[1]}, but one is number {gap[2]}; they "
                        f"are numbered 0 to {samples - 1}: a part of a run cannot be scored, merge its parts")
    if expected not in (1, samples):
        raise DataError(f"--samples: {expected} asked for, but {path} has {samples} for each problem; leave --samples out")
    return samples


def _lists(path: Path, data: bytes, settings: Settings, found: Mapping[str, Benchmark],
           chosen: Mapping[str, Sequence[Problem]]) -> dict[Key, dict]:
    """generations.json of the public harness: for each problem in the benchmark's order the whole programs, cut already."""
    language, scenario = _only(path, settings)
    try:
        rows = json.loads(data)
    except ValueError as error:
        raise DataError(f"--generations: {path} is not JSON: {error}") from error
    if not all(isinstance(row, list) and all(isinstance(text, str) for text in row) for row in rows):
        place = next(at for at, row in enumerate(rows) if not (isinstance(row, list) and all(isinstance(x, str) for x in row)))
        raise DataError(f"--generations: {path}: problem {place} is no list of programs; generations.json has one for each")
    problems = next((each for each in (found[language].problems, chosen[language]) if len(each) == len(rows)), None)
    if problems is None or (settings.problems and len(rows) != len(found[language].problems)):
        raise DataError(f"--generations: {path} has programs for {len(rows)} problems, {found[language].path} has "
                        f"{len(found[language].problems)} and the run {len(chosen[language])}; their order would be a guess")
    return {(problem.task_id, scenario, number): {"program": program, **GIVEN}
            for problem, programs in zip(problems, rows, strict=True) for number, program in enumerate(programs)}


def _lines(path: Path, data: bytes, settings: Settings, problems: Mapping[str, Problem]) -> dict[Key, dict]:
    """samples.jsonl of a run, whose completions are cut by this run's mode, or evalplus' JSONL."""
    answers: dict[Key, dict] = {}
    seen: dict[str, int] = defaultdict(int)
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"--generations: {path}:{number}"
        row = _row(line, place)
        if "scenario" in row:
            key, answer = _of_ours(row, place)
        else:
            language, scenario = _only(path, settings)
            task_id = row["task_id"] if row["task_id"] in problems else _task_id(row["task_id"], language)
            key, answer = (task_id, scenario, seen[task_id]), _of_evalplus(row, place, problems.get(task_id))
            seen[task_id] += 1
        if key in answers:
            raise DataError(f"{place}: sample {key[2]} of {key[0]}/{key[1]} is also on a line before; keep one of them")
        if key[1] != DESCRIBED:
            answers[key] = answer
    return answers


def _row(line: bytes, place: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("task_id"), str):
        raise DataError(f"{place}: no object with a task_id; each line of samples.jsonl and of evalplus' JSONL is one")
    return row


def _of_ours(row: Mapping, place: str) -> tuple[Key, dict]:
    answer = {name: row[name] for name in OURS if name in row}
    if "completion" in answer:
        answer.pop("program", None)
    if not isinstance(row.get("sample"), int) or not isinstance(answer.get("completion", answer.get("program", "")), str):
        raise DataError(f"{place}: a sample has a number 'sample' and a text 'completion'")
    if row["scenario"] != DESCRIBED and not {"completion", "program"} & set(answer):
        raise DataError(f"{place}: has neither 'completion' nor 'program'; it has {', '.join(row)}")
    return (row["task_id"], row["scenario"], row["sample"]), answer


def _of_evalplus(row: Mapping, place: str, problem: Problem | None) -> dict:
    name = next((name for name in ("solution", "completion") if isinstance(row.get(name), str)), None)
    if name is None:
        raise DataError(f"{place}: has neither a text 'solution' (a whole program) nor 'completion'; it has {', '.join(row)}")
    if name == "solution":
        return {"program": row[name], **GIVEN}
    # Theirs go on with the whole prompt, a model's answer here with the prompt stripped of its last line break.
    end = problem.prompt[len(problem.prompt.rstrip()):] if problem else ""
    return {"completion": end + row[name], **GIVEN}


def _task_id(task_id: str, language: str) -> str:
    """evalplus' HumanEval/7 is HumanEvalPack's Python/7."""
    prefix, _, number = task_id.partition("/")
    return f"{LANGUAGES[language]}/{number}" if prefix == EVALPLUS_PREFIX else task_id


def _only(path: Path, settings: Settings) -> tuple[str, str]:
    """The one language and the one scenario that a file without their names can be of."""
    if len(settings.languages) != 1 or len(settings.scenarios) != 1:
        raise ConfigError(f"--generations: {path} does not say of what language and scenario it is, and the run has "
                          f"{', '.join(settings.languages)} and {', '.join(settings.scenarios)}; name one of each")
    return settings.languages[0], settings.scenarios[0]


def task_name(kind: Kind, language: str, scenario: str) -> str:
    """What the public harness calls a scenario in a language, or a benchmark that has neither.

    >>> from megatron_ft.evaluation.problem import KINDS
    >>> task_name(KINDS[PACK], "js", "fixtests"), task_name(KINDS["mbppplus"], "python", "base")
    ('humanevalfixtests-js', 'mbpp')
    """
    if kind.name != PACK:
        return kind.base if scenario == BASE else kind.name
    return f"humaneval{scenario}-{language}"


def write(summary: Mapping, samples: Mapping[Key, Mapping], folder: Path) -> None:
    """Write generations_TASK.json for each language and scenario, and the metrics of all of them.

    What EvalPlus can score is written as its JSON lines too.
    """
    folder.mkdir(exist_ok=True)
    kind = tables.kind_of(summary)
    lists: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in samples.values():
        text = row["description"] if row["scenario"] == DESCRIBED else row["program"]
        lists[task_name(kind, row["language"], row["scenario"])][row["task_id"]].append(text)
    for name, problems in lists.items():
        cli.write_text_atomically(folder / f"generations_{name}.json", json.dumps(list(problems.values())) + "\n")
    if kind.name != PACK:
        lines = (json.dumps({"task_id": row["task_id"], "solution": row["program"]}) for row in samples.values())
        cli.write_text_atomically(folder / f"evalplus_{kind.name}.jsonl", "".join(f"{line}\n" for line in lines))
    figures = {task_name(kind, row["language"], row["scenario"]):
               {f"pass@{k}": row["pass@k"][str(k)] for k in shown(len(row["pass@k"]))} for row in summary["scores"]}
    cli.write_text_atomically(folder / METRICS, json.dumps({**figures, "config": _config(summary)}, indent=2) + "\n")


def _config(summary: Mapping) -> dict:
    """The settings under the harness's names."""
    settings = summary["settings"]
    tasks = [task_name(tables.kind_of(summary), row["language"], row["scenario"]) for row in summary["scores"]]
    return {"model": settings["model"] or settings["generations"] or settings["solutions"], "tasks": ",".join(tasks),
            "prompt": settings["prompt_style"], "do_sample": settings["temperature"] > 0,
            "temperature": settings["temperature"], "top_p": settings["top_p"], "n_samples": settings["samples"],
            "seed": settings["seed"], "max_new_tokens": settings["max_new_tokens"], "precision": settings["dtype"],
            "limit": settings["limit"] or None, "mode": settings["mode"]}
