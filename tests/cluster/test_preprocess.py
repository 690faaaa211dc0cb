"""slurm/preprocess.sh on a real SLURM: shards by an array over two nodes, merged by a job that waits for them."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.manifest import Manifest
from megatron_ft.data.partial import SUFFIXES
from tests.cluster.slurm import Cluster
from tests.data.small_tokenizers import bytes_tokenizer

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm" / "preprocess.sh"
BLOCKED = """\
# Runs a script, in which shard 2 of 4 stops at its third saved state until there is a file "gate".
import os, runpy, sys, time
from pathlib import Path
from megatron_ft.data import build, input_files
save, saved = build._Build._save, []
def save_and_wait(*arguments):
    save(*arguments)
    saved.append(1)
    if len(saved) == 3 and "2/4" in sys.argv and not Path("gate").exists():
        Path("blocked").write_text(f"{os.getpid()}\\n")
        while not Path("gate").exists():
            time.sleep(0.05)
build._Build._save, build.SAVE_EVERY_S, input_files.CHUNK_BYTES = save_and_wait, 0, 200
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class User:
    """Somebody in a folder with rows and a tokenizer, all with a space in their names, who submits the two jobs."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.output = cluster, folder, folder / "out put"
        self.environment = {"MEGATRON_FT_PYTHON": sys.executable}
        self.rows = folder / "raw rows" / "a.jsonl"
        self.rows.parent.mkdir(parents=True)
        for path, numbers in ((self.rows, range(70)), (self.rows.with_name("b.jsonl"), range(70, 120))):
            path.write_text("".join(json.dumps({"inputs": f"ask {number}", "outputs": "answer " * (number % 7 + 1)}) + "\n"
                                    for number in numbers))
        bytes_tokenizer(folder / "small tokenizer")

    def array(self, *arguments: str, tasks: str = "0-3", script: Path = SCRIPT) -> str:
        """Submit the array; a node has the memory for two tasks."""
        return self.cluster.sbatch(
            "--cpus-per-task=2", "--mem=32G", f"--array={tasks}", script, "--input", "raw rows/*.jsonl", "--output",
            "out put/mix", "--tokenizer", "small tokenizer", "--template", "plain", *arguments,
            cwd=self.folder, environment=self.environment)

    def merge(self, after: str, *arguments: str, script: Path = SCRIPT) -> str:
        """Submit the merge."""
        return self.cluster.sbatch(f"--dependency=afterok:{after}", script, "--merge", "--output", "out put/mix", *arguments,
                                   cwd=self.folder, environment=self.environment)

    def log(self, job: str, task: int | None = None) -> str:
        return (self.folder / f"slurm-{job}{'' if task is None else f'_{task}'}.out").read_text()

    def expect(self, job: str, *, failed: str | None = None) -> None:
        """Wait for a job: all its tasks are completed, but the one named, which failed."""
        states = self.cluster.wait(job)
        expected = {task: "FAILED" if task == failed else "COMPLETED" for task in states}
        logs = "".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob(f"slurm-{job}*")))
        assert states == expected, f"job {job}\n{logs}{self.cluster.logs()}"

    def expect_the_whole(self, on_bad_row: str = "stop") -> Manifest:
        """The dataset has the bytes that one process makes, and the parts are gone; its manifest."""
        build([self.rows, self.rows.with_name("b.jsonl")], self.folder / "whole",
              Recipe(str(self.folder / "small tokenizer"), "plain", on_bad_row=on_bad_row))
        for suffix in (".bin", ".idx"):
            assert (self.output / f"mix{suffix}").read_bytes() == (self.folder / f"whole{suffix}").read_bytes()
        assert sorted(path.name for path in self.output.iterdir()) == ["mix.bin", "mix.idx", "mix.json"]
        merged = open_dataset(self.output / "mix").manifest
        assert merged.counts == open_dataset(self.folder / "whole").manifest.counts
        return merged

    def parts(self) -> dict[str, tuple[int, int]]:
        """Each file of a shard, with what would change if it were made again."""
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (self.output / "mix.parts").iterdir()}

    def spoil_row_66(self) -> bytes:
        """Shard 2 of 4 gets a row that is no JSON; the file keeps its length. Gives what it was."""
        good = self.rows.read_bytes()
        lines = good.splitlines(keepends=True)
        lines[65] = lines[65].replace(b'"}', b'" ')
        self.rows.write_bytes(b"".join(lines))
        return good

    def array_blocked_in_shard_2(self) -> tuple[str, int]:
        """Submit the array with a python that stops in the middle of shard 2, and wait until it is there; job and process."""
        (self.folder / "blocked.py").write_text(BLOCKED)
        python = self.folder / "blocked python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{self.folder}/blocked.py" "$@"\n')
        python.chmod(0o755)
        self.environment["MEGATRON_FT_PYTHON"] = str(python)
        job = self.array()
        blocked = self.folder / "blocked"
        self.cluster.wait_until(lambda: blocked.exists() and blocked.read_text().endswith("\n"), what="the middle of shard 2")
        assert (self.output / "mix.parts" / ".shard-002-of-004.partial").is_dir()
        return job, int(blocked.read_text())


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path) -> Iterator[User]:
    yield User(cluster, tmp_path / "a user")
    cluster.cancel_all()


def test_shards_from_two_nodes_are_merged_into_what_one_process_makes(user):
    job = user.array()
    merge = user.merge(job)
    user.expect(job)
    user.expect(merge)
    tasks = user.cluster.tasks(job)
    assert sorted(tasks) == ["0", "1", "2", "3"]
    assert {fields["NodeList"] for fields in tasks.values()} == {"node0", "node1"}
    assert "shard 3 of 4 into out put/mix.parts/shard-003-of-004" in user.log(job, 3)
    assert "out put/mix: 120 documents of 120 rows, template plain" in user.log(merge)
    user.expect_the_whole()


def test_finished_shards_are_left_alone_when_all_is_submitted_again(user):
    job = user.array(tasks="0-3%2")
    user.expect(job)
    before = user.parts()
    assert len(before) == 4 * 3
    for suffix in SUFFIXES:
        (user.output / "mix.parts" / f"shard-001-of-004{suffix}").unlink()
    again = user.array()
    merge = user.merge(again, "--keep-parts")
    user.expect(again)
    user.expect(merge)
    after = user.parts()
    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        f"shard-001-of-004{suffix}" for suffix in SUFFIXES}
    assert "shard 3 of 4 is finished already: out put/mix.parts/shard-003-of-004" in user.log(again, 3)
    shutil.rmtree(user.output / "mix.parts")
    user.expect_the_whole()


def test_a_bad_row_stops_its_shard_and_the_merge_until_it_is_repaired(user):
    good = user.spoil_row_66()
    job = user.array()
    merge = user.merge(job)
    user.expect(job, failed="2")
    assert user.cluster.tasks(job)["2"]["ExitCode"] == "2:0"
    assert "raw rows/a.jsonl:66: " in user.log(job, 2)
    user.cluster.wait_until(lambda: user.cluster.tasks(merge)[""]["Reason"] == "DependencyNeverSatisfied",
                            what="DependencyNeverSatisfied")
    assert not (user.folder / f"slurm-{merge}.out").exists()
    assert len(user.parts()) == 3 * 3

    user.rows.write_bytes(good)
    alone = user.array(tasks="2")
    user.expect(alone, failed="2")
    assert "--array: 1 tasks from 2 to 2 are not all shards of a split" in user.log(alone, 2)
    alone = user.array("--shards", "4", tasks="2")
    merge = user.merge(alone)
    user.expect(alone)
    user.expect(merge)
    user.expect_the_whole()


def test_a_bad_row_can_be_skipped_in_its_shard_alone(user):
    user.spoil_row_66()
    user.expect(user.array(), failed="2")
    alone = user.array("--shards", "4", "--on-bad-row", "skip", tasks="2")
    merge = user.merge(alone)
    user.expect(alone)
    user.expect(merge)
    dropped = user.expect_the_whole(on_bad_row="skip").dropped
    assert dropped == {"invalid JSON": {"rows": 1, "first": ["raw rows/a.jsonl:66"]}}


def test_shards_of_a_file_that_changed_in_between_are_never_merged(user):
    good = user.spoil_row_66()
    user.expect(user.array(), failed="2")
    user.rows.write_bytes(good.replace(b"ask 65", b"ask the sixty-fifth time"))
    again = user.array()
    merge = user.merge(again)
    user.expect(again)
    user.expect(merge, failed="")
    assert "make all shards with the same --input, in the same order, of files that do not change" in user.log(merge)
    assert len(user.parts()) == 4 * 3
    shutil.rmtree(user.output / "mix.parts")
    again = user.array()
    merge = user.merge(again)
    user.expect(again)
    user.expect(merge)
    user.expect_the_whole()


def test_a_requeued_task_goes_on_where_it_was(user):
    job, process = user.array_blocked_in_shard_2()
    merge = user.merge(job)
    user.cluster.run("scontrol", "requeue", f"{job}_2")
    # Requeued is not ended yet: with an open gate the first start could make the whole shard.
    user.cluster.wait_until(lambda: not psutil.pid_exists(process), what="the end of the first start")
    (user.folder / "gate").touch()
    user.cluster.start_again(job, "2")
    user.expect(job)
    user.expect(merge)
    log = user.log(job, 2)
    assert log.index("start 1, ") < log.index("start 2, ") < log.index("going on after row ")
    assert log.count("shard 2 of 4 into ") == 2
    user.expect_the_whole()


def test_a_killed_task_goes_on_when_it_is_submitted_again(user):
    job, process = user.array_blocked_in_shard_2()
    os.kill(process, signal.SIGKILL)  # as the kernel does when memory runs out
    user.expect(job, failed="2")
    assert user.cluster.tasks(job)["2"]["ExitCode"] == "0:9"
    (user.folder / "gate").touch()
    again = user.array("--shards", "4", tasks="2")
    merge = user.merge(again)
    user.expect(again)
    user.expect(merge)
    assert "going on after row " in user.log(again, 2)
    user.expect_the_whole()


def test_a_checkout_with_a_space_in_its_path_is_found_with_its_venv(user):
    checkout = user.folder / "my checkout"
    (checkout / "slurm").mkdir(parents=True)
    script = Path(shutil.copy(SCRIPT, checkout / "slurm"))
    for name in ("preprocess", "megatron_ft", "slurm/lib.sh", "slurm/shards.sh"):
        (checkout / name).symlink_to(ROOT / name)
    (checkout / ".venv").symlink_to(sys.prefix)
    user.environment = {}
    job = user.array(tasks="0-0", script=script)
    merge = user.merge(job, script=script)
    user.expect(job)
    user.expect(merge)
    user.expect_the_whole()
