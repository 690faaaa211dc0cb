"""Generates in several processes and kills some: `python workers_killed.py TASK ...` prints what happened as JSON.

Workers are forks of this process, which has imported what is slow to import and has computed nothing: a test starts many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from megatron_ft import cli, evaluate
from megatron_ft.data.templates import Segment
from megatron_ft.errors import MegatronFTError
from megatron_ft.evaluation import decoding, generation_workers, model_folder
from megatron_ft.evaluation.answering import Completeness
from megatron_ft.evaluation.batching import Request, Row, Sampling
from megatron_ft.evaluation.completing import OneDevice
from megatron_ft.evaluation.generation_workers import Workers

LONGEST_S = 300
SAMPLING = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=24, seed=5)
NOWHERE = Path("/nowhere")


@dataclass(frozen=True)
class Blocked:
    """Says that no answer is complete, but not before a file is gone: so a worker surely has work left when it is killed."""

    file: Path

    def __call__(self, text: str) -> bool:
        while self.file.exists():
            time.sleep(0.01)
        return False


def rows(block: Path) -> list[Row]:
    """Three samples of seven prompts of different lengths, of which the longest, who are first, are blocked."""
    return [Row(Request(f"Own/{length}", sample, Segment(("",), supervised=False), Blocked(block if length == 17 else NOWHERE)),
                list(range(40, 40 + length)), 24)
            for length in (3, 11, 5, 17, 8, 2, 13) for sample in range(3)]


def answered(engine: object, wanted: list[Row], then: Callable[[int], None] = lambda count: None) -> tuple[dict, str]:
    """What came, by key and sample, and the error that ended it; `then` is told how many there are."""
    found: dict[str, list] = {}
    try:
        for row, done in engine.answers(wanted, SAMPLING, lambda tokens: None):
            found[f"{row.request.key} {row.request.sample}"] = [done.text, done.tokens, done.finish]
            then(len(found))
    except MegatronFTError as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


def workers(folder: str, count: int, batch_size: int = 3) -> Workers:
    return Workers(folder, ["cpu"] * count, dtype="auto", batch_size=batch_size, batch_tokens=10**6)


def killed(folder: str) -> dict:
    """A worker is killed after so many answers; the next time only the rest is asked for."""
    block = Path(folder, "block")
    alone, _ = answered(OneDevice(model_folder.load(folder, device="cpu", dtype="auto"), 3, 10**6), rows(block))
    draw, runs = random.Random(8), []
    for place in range(1, len(rows(block)) - 2, 3):
        block.touch()
        with workers(folder, 3) as engine:
            pids = engine.pids

            def kill(count: int, place: int = place, engine: Workers = engine) -> None:
                if count == place:
                    time.sleep(draw.uniform(0, 0.02))
                    (busy,) = (each for each in engine._workers if any(len(row.ids) == 17 for row in each.batch))
                    os.kill(busy.process.pid, signal.SIGKILL)
                    runs.append({"killed": busy.process.pid, "place": place})

            first, error = answered(engine, rows(block), kill)
        block.unlink()
        left = [row for row in rows(block) if f"{row.request.key} {row.request.sample}" not in first]
        with workers(folder, 2) as engine:
            rest, _ = answered(engine, left)
        runs[-1] |= {"first": len(first), "error": error, "alive": alive(pids),
                     "same": {**first, **rest} == alone and not set(first) & set(rest)}
    return {"runs": runs, "wanted": len(rows(block))}


def broken(folder: str) -> dict:
    """What a worker's own errors are in the parent."""
    config = Path(folder, "config.json")
    whole = config.read_text()
    config.write_text(json.dumps({**json.loads(whole), "n_layer": 3}))
    told = {}
    try:
        with workers(folder, 2):
            pass
    except MegatronFTError as error:
        told["loading"] = f"{type(error).__name__}: {error}"
    config.write_text(whole)

    def fault(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    def crowded(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    for name, decode in (("fault", fault), ("memory", crowded)):
        decoding.decode, before = decode, decoding.decode
        with workers(folder, 2) as engine:
            pids = engine.pids
            told[name] = answered(engine, rows(NOWHERE))[1]
        told[f"{name} alive"] = alive(pids)
        decoding.decode = before
    return told


def shared(folder: str) -> dict:
    """How many rows each batch has where one process could take all."""
    sizes = []
    with workers(folder, 3, batch_size=64) as engine:
        hand_out = engine._hand_out

        def noting(worker: object, *rest: object) -> None:
            hand_out(worker, *rest)
            sizes.append(len(worker.batch))

        engine._hand_out = noting
        found, _ = answered(engine, rows(NOWHERE))
    return {"sizes": sizes, "answers": len(found)}


def crowded(folder: str) -> dict:
    """What happens when where the memory holds the weights so many times."""
    start, ready = Workers._start, Workers._await_ready
    happened: dict[str, list[str]] = {}
    for copies in (1, 2, 9):
        seen = happened[str(copies)] = []
        Workers._start = lambda self, number, seen=seen: seen.append(f"start {number}") or start(self, number)
        Workers._await_ready = lambda self, worker, seen=seen: ready(self, worker) or seen.append(
            f"ready {self._workers.index(worker)}")
        model_folder.weights_bytes = lambda model, copies=copies: int(psutil.virtual_memory().available / (copies + 0.5))
        with workers(folder, 3):
            pass
    return happened


def signalled(*arguments: str) -> dict:
    """The whole command gets a signal when it has kept some answers; then it is given again and goes on.

    Its workers hold the others up from then on, so that there is work left however late the signal comes.
    """
    sys.argv = ["evaluate", *arguments]
    output = Path(arguments[arguments.index("--output") + 1])
    limit, complete = output.parent / "limit", Completeness.__call__
    kept = output.parent / f".{output.name}.partial" / "samples.jsonl"

    def held_up(self: Completeness, text: str) -> bool:
        while limit.exists() and lines(kept) >= int(limit.read_text()):
            time.sleep(0.01)
        return complete(self, text)

    Completeness.__call__ = held_up
    happened = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        place = lines(kept) + 1
        limit.write_text(str(place))
        child = command()
        ends = time.monotonic() + LONGEST_S
        while lines(kept) < place and time.monotonic() < ends:
            time.sleep(0.002)
        children = [each.pid for each in psutil.Process(child).children() if Path(__file__).name in " ".join(each.cmdline())]
        if number == signal.SIGINT:
            os.killpg(child, number)  # as a terminal does it
        else:
            os.kill(child, number)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        while alive(children) and time.monotonic() < ends:
            time.sleep(0.01)
        happened.append({"signal": number, "place": place, "kept": lines(kept), "code": code, "workers": len(children),
                         "alive": alive(children)})
    limit.unlink()
    return {"signals": happened, "code": os.waitstatus_to_exitcode(os.waitpid(command(), 0)[1])}


def command() -> int:
    """Run the command in a fork that leads a process group."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may be a background job, which ignores it
        sys.stdout = sys.stderr
        cli.main(evaluate.command)
    return child


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def alive(pids: list[int]) -> list[int]:
    """Those that run; one that nobody has waited for after its parent's death is none of them."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


if __name__ == "__main__":
    generation_workers.START = "fork"
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])) + "\n")
