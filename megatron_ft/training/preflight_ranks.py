"""How the ranks of a job check themselves together without ever hanging: words through a store, each with a deadline.

    rank 0           checks config and data alone -> waits for all others at the rendezvous
    rank 0 -> all    begin: which files to look at, a token
    all -> rank 0    facts: versions, GPU; of one rank of each node also files, memory, what it sees in run.dir
    rank 0 <-> node  clocks, one node after the other
    rank 0 -> all    go: which ranks sum up together; in a thread, since a collective that hangs cannot be told to stop
    all -> rank 0    network: times, or the error
    rank 0 -> all    verdict, after its table is printed: all ranks end with the same exit code
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_ft import cli
from megatron_ft.config import Config
from megatron_ft.errors import TrainingError
from megatron_ft.runtime import dead_rank
from megatron_ft.runtime.device import Process
from megatron_ft.training import preflight_compare, preflight_files, preflight_machine, preflight_network
from megatron_ft.training.preflight_check import Check, failed, listed, named

CLOCK_ROUNDS = 5
POLL_S = (0.005, 0.25)  # between two looks at the store, shortest and longest
LINGER_S = 5.0  # rank 0 holds the store until the others have read the verdict, or for this long


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the ranks are held to."""

    timeout_s: float
    """For each word that one waits for."""
    skew_s: float = 2.0
    bandwidth: float | None = None
    """Bytes/s on the bus, of an all-reduce of all ranks; None: whatever it is."""


class Meeting:
    """What the ranks say to each other. TrainingError where one that is waited for does not come."""

    def __init__(self, process: Process, limits: Limits) -> None:
        from torch.distributed import TCPStore

        from megatron_ft.runtime import rendezvous

        self.process, self._timeout_s = process, limits.timeout_s
        self.store = rendezvous.meet(process, timeout_s=limits.timeout_s)
        # A connection of its own: one that waits for something in another thread lets nobody else speak.
        self._words = TCPStore(process.address, self.store.port, process.size, False,
                               datetime.timedelta(seconds=limits.timeout_s), wait_for_workers=False)
        self.is_stuck = False
        """A thread hangs in a collective: the process cannot end in the usual way."""

    def say(self, key: str, value: Any) -> None:
        """Leave a word for whoever waits for it."""
        self._words.set(f"preflight/{key}", json.dumps(value))

    def hear(self, key: str, *, timeout_s: float | None = None) -> Any:
        """The word, when it is there; TrainingError after the time is over."""
        found = self.hear_all([key], timeout_s=timeout_s)
        if key not in found:
            raise TrainingError(f"rank {self.process.rank} has waited {timeout_s or self._timeout_s:g} s for '{key}' of the "
                                "preflight; look at what rank 0 printed")
        return found[key]

    def hear_all(self, keys: Sequence[str], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Those of the words that come in time."""
        deadline, pause = time.monotonic() + (timeout_s or self._timeout_s), POLL_S[0]
        found: dict[str, Any] = {}
        while True:
            for key in keys:
                if key not in found and self._words.check([f"preflight/{key}"]):
                    found[key] = json.loads(self._words.get(f"preflight/{key}"))
            if len(found) == len(keys) or time.monotonic() > deadline:
                return found
            time.sleep(pause)
            pause = min(2 * pause, POLL_S[1])

    def hear_at_once(self, key: str) -> str:
        """The word as soon as it comes, without pauses between looks: for clocks. An error of the store after the time."""
        self._words.wait([f"preflight/{key}"], datetime.timedelta(seconds=self._timeout_s))
        return json.loads(self._words.get(f"preflight/{key}"))

    def leave(self, code: int) -> None:
        """End together: rank 0 gives its exit code to all, and stays until they have it."""
        self._words.add("preflight/left", 1)
        if self.process.rank == 0:
            self.say("verdict", code)
            deadline = time.monotonic() + LINGER_S
            while self._words.add("preflight/left", 0) < self.process.size and time.monotonic() < deadline:
                time.sleep(POLL_S[0])


def follow(meeting: Meeting, config: Config, *, clock: Callable[[], float] = time.time) -> int:
    """What every rank but the first does; the exit code that the first one gives."""
    rank = meeting.process.rank
    begin = meeting.hear("begin")
    patience_s = 3 * begin["timeout_s"]  # rank 0 may wait for others first: for their words, their clocks, their sums
    try:
        own = _facts(meeting.process, config, begin)
        meeting.say(f"facts/{rank}", own)
        if "machine" in own:
            _tell_time(meeting, clock, patience_s)
        go = meeting.hear("go", timeout_s=patience_s)
        if go["groups"]:
            meeting.say(f"network/{rank}", _network(meeting, go))
        return meeting.hear("verdict", timeout_s=patience_s)
    finally:
        _own_probe(meeting.process, config, begin).unlink(missing_ok=True)


def lead(meeting: Meeting, config: Config, paths: Sequence[str], limits: Limits, *, checkpoint_bytes: int | None,
         clock: Callable[[], float] = time.time) -> tuple[list[Check], list[dict[str, Any]]]:
    """What the first rank does; the lines of the table, and all ranks' facts."""
    size, folder = meeting.process.size, Path(config.run.dir)
    begin = {"files": list(paths), "token": secrets.token_hex(6), "timeout_s": limits.timeout_s}
    ours = _own_probe(meeting.process, config, begin)
    _touch(ours)
    try:
        meeting.say("begin", begin)
        own = _facts(meeting.process, config, begin)
        heard = meeting.hear_all([f"facts/{rank}" for rank in range(1, size)])
        told = {0: own, **{int(key.partition("/")[2]): each for key, each in heard.items()}}
        found = [told[rank] for rank in sorted(told) if "broken" not in told[rank]]
        nodes = [each for each in found if "machine" in each]
        checks = _silent(told, size, limits)
        if found and nodes:
            checks += preflight_compare.compare(found, config, checkpoint_bytes=checkpoint_bytes)
            checks += preflight_files.compare({each["node"]: each["files"] for each in nodes})
        if len(nodes) > 1 and nodes[0]["rank"] == 0:
            checks.append(_shared(folder, begin["token"], nodes))
    finally:
        ours.unlink(missing_ok=True)
    checks += _clocks(meeting, [each for each in nodes if each["rank"]], limits, clock)
    # Ranks that are absent, or whose GPU is, would let the others hang.
    may_go = len(found) == size and not any(check.name == "GPUs" and check.verdict == "fail" for check in checks)
    checks += _all_reduces(meeting, found, config, limits) if may_go and size > 1 else _no_network(meeting, size)
    return checks, found


def _facts(process: Process, config: Config, begin: dict[str, Any]) -> dict[str, Any]:
    """This rank's, or {"broken", "node"}."""
    try:
        own = preflight_machine.facts(process, config)
        if "machine" in own:
            own["files"] = preflight_files.seen(begin["files"])
            own["sees_first"] = preflight_files.probe_of(Path(config.run.dir), begin["token"], "0").exists()
            if process.rank:
                _touch(_own_probe(process, config, begin))
    except Exception as error:  # noqa: BLE001 - it is told to rank 0, whatever it is
        return {"broken": dead_rank.summary(error), "node": preflight_machine.node()}
    return own


def _own_probe(process: Process, config: Config, begin: dict[str, Any]) -> Path:
    return preflight_files.probe_of(Path(config.run.dir), begin["token"], str(process.rank))


def _silent(told: dict[int, dict[str, Any]], size: int, limits: Limits) -> list[Check]:
    checks = []
    absent = [str(rank) for rank in range(size) if rank not in told]
    if absent:
        checks.append(Check("silent ranks", "fail", f"no word within {limits.timeout_s:g} s from rank {named(absent)}, which "
                            "came to the rendezvous", "look at what it printed; its node may hang on a file system"))
    broken = [f"rank {rank} ({each['node']}): {each['broken']}" for rank, each in sorted(told.items()) if "broken" in each]
    if broken:
        checks.append(Check("broken ranks", "fail", listed(broken), "leave these nodes out (--exclude), or mend what they say"))
    return checks


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # others will not see it, which is said
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _shared(folder: Path, token: str, nodes: Sequence[dict[str, Any]]) -> Check:
    unseen = []
    for each in nodes[1:]:
        path = preflight_files.probe_of(folder, token, str(each["rank"]))
        if not path.exists():
            unseen.append(each["node"])
    return preflight_files.shared({each["node"]: each["sees_first"] for each in nodes}, first=nodes[0]["node"], unseen=unseen,
                                  folder=folder)


def _tell_time(meeting: Meeting, clock: Callable[[], float], patience_s: float) -> None:
    """A node's part: how far its clock is ahead of the first one's, from the round trip that took least."""
    rank, trips = meeting.process.rank, []
    meeting.hear(f"clock/{rank}/begin", timeout_s=patience_s)
    for number in range(CLOCK_ROUNDS):
        sent = clock()
        meeting.say(f"clock/{rank}/ask/{number}", "")
        theirs = float(meeting.hear_at_once(f"clock/{rank}/answer/{number}"))
        back = clock()
        trips.append((back - sent, (sent + back) / 2 - theirs))
    meeting.say(f"clock/{rank}/result", min(trips))


def _clocks(meeting: Meeting, nodes: Sequence[dict[str, Any]], limits: Limits, clock: Callable[[], float]) -> list[Check]:
    from torch.distributed import DistError

    ahead: dict[str, tuple[float, float]] = {}
    silent = []
    for each in nodes:
        rank = each["rank"]
        try:
            meeting.say(f"clock/{rank}/begin", "")
            for number in range(CLOCK_ROUNDS):
                meeting.hear_at_once(f"clock/{rank}/ask/{number}")
                meeting.say(f"clock/{rank}/answer/{number}", clock())
            trip_s, offset_s = meeting.hear(f"clock/{rank}/result")
            ahead[each["node"]] = offset_s, trip_s
        except (DistError, TrainingError):
            silent.append(each["node"])
    if silent:
        return [Check("clocks", "fail", f"no answer from {named(silent)}", "leave these nodes out (--exclude)")]
    if not ahead:
        return []
    wrong = [f"{node} is {abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}" for node, (offset, trip) in ahead.items()
             if abs(offset) - trip / 2 > limits.skew_s]
    if wrong:
        return [Check("clocks", "fail", f"{named(wrong)} of rank 0's; the limit is {limits.skew_s:g} s", "have the node's time "
                      "service looked at, leave it out (--exclude), or raise --max-skew")]
    most = max(ahead.values(), key=lambda each: abs(each[0]))
    return [Check("clocks", "ok", f"at most {abs(most[0]):.3f} s (+- {most[1] / 2:.3f}) apart")]


def _no_network(meeting: Meeting, size: int) -> list[Check]:
    meeting.say("go", {"groups": []})
    return [] if size == 1 else [Check("all-reduce", "warn", "not tried: not all ranks can take part", "mend the rest first")]


def _all_reduces(meeting: Meeting, found: Sequence[dict[str, Any]], config: Config, limits: Limits) -> list[Check]:
    nodes: dict[str, list[int]] = {}
    for each in found:
        nodes.setdefault(each["node"], []).append(each["rank"])
    tp, pp = config.parallel.tp, config.parallel.pp
    go = {"groups": preflight_network.groups(list(nodes.values()), tp=tp, dp=max(1, len(found) // (tp * pp))),
          "device": found[0]["device"], "timeout_s": limits.timeout_s}
    meeting.say("go", go)
    own = _network(meeting, go)
    heard = meeting.hear_all([f"network/{each['rank']}" for each in found[1:]])
    results = {0: own, **{int(key.partition("/")[2]): result for key, result in heard.items()}}
    where = {each["rank"]: f"rank {each['rank']} ({each['node']})" for each in found}
    errors = {rank: result for rank, result in results.items() if "error" in result}
    absent = [where[rank] for rank in where if rank not in results or results[rank].get("error") == ""]
    advice = ("look at what NCCL or gloo printed there (NCCL_DEBUG=INFO), and which network interface it took "
              "(NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME)")
    if absent:
        return [Check("all-reduce", "fail", f"not done within {limits.timeout_s:g} s by {named(absent)}", advice)]
    if errors:
        rank = min(errors, key=lambda rank: (errors[rank]["echo"], rank))
        more = f" (and errors on {len(errors) - 1} more ranks)" if len(errors) > 1 else ""
        return [Check("all-reduce", "fail", f"{where[rank]}: {errors[rank]['error']}{more}", advice)]
    return preflight_network.checks(results, nodes, device=go["device"], least_bandwidth=limits.bandwidth)


def _network(meeting: Meeting, go: dict[str, Any]) -> dict[str, Any]:
    """This rank's times, or {"error", "echo"}; an empty error where it was not done in time."""
    process, box = meeting.process, []

    def work() -> None:
        try:
            box.append(preflight_network.measure(process, meeting.store, go["device"], go["groups"],
                                                 timeout_s=2 * go["timeout_s"]))
        except Exception as error:  # noqa: BLE001 - it is told to rank 0
            box.append({"error": dead_rank.summary(error), "echo": dead_rank.is_echo(error)})

    thread = threading.Thread(target=work, name="all-reduce", daemon=True)
    thread.start()
    thread.join(go["timeout_s"])
    meeting.is_stuck = thread.is_alive()
    return box[0] if box else {"error": "", "echo": False}


def exit_code(checks: Sequence[Check]) -> int:
    """0 where no line says no."""
    return cli.EXIT_CHECK_FAILED if failed(checks) else cli.EXIT_OK
