"""What slurm/preprocess.sh understands and refuses, with a python that only says how it was called: no SLURM needed."""

import shutil
from pathlib import Path

import pytest

from tests.cluster.scripts import ECHO, ROOT, ArrayCall, executable, refusal, words

SCRIPT = ROOT / "slurm" / "preprocess.sh"
RECIPE = ("--input", "data/*.jsonl", "more rows.jsonl", "--tokenizer", "models/star coder")


@pytest.fixture
def call(tmp_path):
    return ArrayCall(SCRIPT, tmp_path)


def shard(folder: Path, name: str = "shard-002-of-004") -> Path:
    """A finished shard of mix, or what looks like one."""
    (folder / "mix.parts").mkdir(exist_ok=True)
    for suffix in (".bin", ".idx", ".json"):
        (folder / "mix.parts" / f"{name}{suffix}").touch()
    return folder / "mix.parts" / f"{name}.json"


def made(index: int, count: int) -> list[str]:
    """How tokenize_sft.py must have been called."""
    return [str(ROOT / "preprocess" / "tokenize_sft.py"), *RECIPE, "--output",
            f"mix.parts/shard-{index:03d}-of-{count:03d}", "--shard", f"{index}/{count}", "--workers", "3"]


def test_a_task_makes_the_shard_of_its_number(call):
    done = call(*RECIPE, "--output", "mix")
    assert words(done) == made(2, 4)
    assert "preprocess.sh: job 17 task 2 on " in done.stderr
    assert words(call("--output=mix/", *RECIPE)) == made(2, 4)
    assert words(call(*RECIPE, "--output", "mix", array="0-0", task=0)) == made(0, 1)


def test_some_tasks_of_an_array_make_the_same_shards_when_told_how_many_there_are(call):
    assert words(call(*RECIPE, "--output", "mix", "--shards", "16", array="3-3", task=3)) == made(3, 16)
    assert words(call(*RECIPE, "--output", "mix", "--shards=16", array="3-9", task=9, tasks=2)) == made(9, 16)


@pytest.mark.parametrize(("array", "tasks"), [("3-3", 1), ("1-4", 4), ("0-6", 4), ("0-5", 5)])
def test_an_array_that_is_not_the_whole_is_refused_unless_told_how_many_there_are(call, array, tasks):
    first, last = array.split("-")
    assert (f"--array: {tasks} tasks from {first} to {last} are not all shards of a split; submit all of them "
            f"(--array=0-{tasks - 1}), or say how many there are: --shards N"
            ) in refusal(call(*RECIPE, "--output", "mix", array=array, tasks=tasks, task=int(last)))


@pytest.mark.parametrize("name", ["shard-007-of-016.json", "shard-000-of-016.bin", ".shard-015-of-016.partial"])
def test_another_split_into_the_same_folder_is_refused(call, tmp_path, name):
    (tmp_path / "mix.parts").mkdir()
    (tmp_path / "mix.parts" / name).touch()
    message = "mix.parts holds shards of a split into 16, not into 4; submit them with --shards 16, or remove mix.parts"
    assert message in refusal(call(*RECIPE, "--output", "mix"))
    assert message.replace("into 4", "into 1") in refusal(call(*RECIPE, "--output", "mix", array="0-0", task=0))
    assert words(call(*RECIPE, "--output", "mix", "--shards", "16")) == made(2, 16)


def test_a_finished_shard_is_left_alone_and_an_unfinished_one_goes_on(call, tmp_path):
    shard(tmp_path)
    done = call(*RECIPE, "--output", "mix")
    assert (done.returncode, done.stdout) == (0, "")
    assert "shard 2 of 4 is finished already: mix.parts/shard-002-of-004" in done.stderr
    (tmp_path / "mix.parts" / ".shard-002-of-004.partial").mkdir()  # killed while it moved the files to their place
    assert words(call(*RECIPE, "--output", "mix")) == made(2, 4)


def test_no_shard_is_made_of_a_dataset_that_is_there(call, tmp_path):
    (tmp_path / "mix.json").touch()
    assert "--output: mix exists already" in refusal(call(*RECIPE, "--output", "mix"))


@pytest.mark.parametrize(("arguments", "message"), [
    ((*RECIPE,), "--output: is missing"),
    ((*RECIPE, "--output"), "--output: needs a value"),
    (("--output", "mix"), "--input: is missing"),
    ((*RECIPE, "--output", "mix", "--shard", "0/4"), "--shard: the task's number in the array is the shard"),
    ((*RECIPE, "--output", "mix", "--workers=8"), "--workers: one for each core of the task; sbatch --cpus-per-task=N"),
    ((*RECIPE, "--output", "mix", "--shards", "many"), "--shards: 'many' is no number of shards"),
    ((*RECIPE, "--output", "mix", "--shards", "08"), "--shards: '08' is no number of shards"),
    ((*RECIPE, "--output", "mix", "--shards", "3"), "--shards: 3 shards are numbered 0 to 2, but the array goes to 3"),
    ((*RECIPE, "--output", "mix", "--keep-parts"), "--keep-parts: belongs to --merge"),
    (("--merge", "--output", "mix"), "--merge: is one job and no array")])
def test_wrong_arguments_of_an_array_are_refused(call, arguments, message):
    assert message in refusal(call(*arguments))


@pytest.mark.parametrize(("arguments", "message"), [
    ((*RECIPE, "--output", "mix"), "--array: this job is no array"),
    (("--merge",), "--output: is missing"),
    (("--merge", "--output", "mix"), "--merge: there is no finished shard in mix.parts"),
    (("--merge", "--output", "mix", "--template", "plain"), "--merge: takes --output and --keep-parts only, not --template"),
    (("--merge", "--output", "mix", "--shards", "4"), "--shards: is for the array")])
def test_wrong_arguments_of_a_plain_job_are_refused(call, arguments, message):
    assert message in refusal(call(*arguments, array=None))


def test_a_merge_gets_every_shard_and_removes_them_but_nothing_else(call, tmp_path):
    for index in range(4):
        shard(tmp_path, f"shard-{index:03d}-of-004")
    merged = [str(ROOT / "preprocess" / "merge_datasets.py"), "--input",
              *(f"mix.parts/shard-{index:03d}-of-004" for index in range(4)), "--output", "mix"]
    assert words(call("--merge", "--output", "mix", "--keep-parts", array=None)) == merged
    assert len(list((tmp_path / "mix.parts").iterdir())) == 12
    (tmp_path / "mix.parts" / "notes.txt").touch()
    done = call("--merge", "--output", "mix", array=None)
    assert words(done) == merged
    assert "note: mix.parts stays, because there is something else in it" in done.stderr
    assert [path.name for path in (tmp_path / "mix.parts").iterdir()] == ["notes.txt"]


def test_a_merge_that_was_stopped_while_it_removed_the_shards_goes_on_with_that(call, tmp_path):
    shard(tmp_path)
    (tmp_path / "mix.parts" / "merged").touch()
    assert words(call("--merge", "--output", "mix", array=None)) == []
    assert not (tmp_path / "mix.parts").exists()


@pytest.mark.parametrize("merge", [False, True])
def test_the_exit_code_is_that_of_the_command_and_a_failed_merge_keeps_the_shards(call, tmp_path, merge):
    failing = executable(tmp_path / "bin" / "failing", "#!/bin/sh\nexit 42\n")
    finished = shard(tmp_path, "shard-000-of-004")
    arguments = ("--merge",) if merge else RECIPE
    done = call(*arguments, "--output", "mix", array=None if merge else "0-3", MEGATRON_FT_PYTHON=str(failing))
    assert done.returncode == 42
    assert finished.exists()


def test_outside_a_job_it_says_how_to_submit_it(call):
    text = refusal(call(*RECIPE, "--output", "mix", array=None, SLURM_JOB_ID=""))
    assert "job=$(sbatch --parsable --array=0-15 slurm/preprocess.sh --input" in text
    assert "sbatch --dependency=afterok:$job slurm/preprocess.sh --merge --output data/mix" in text
    assert "#SBATCH" not in text
    shown = call("--help", array=None, SLURM_JOB_ID="")
    assert shown.returncode == 0
    assert text.startswith(shown.stdout)


def test_the_checkout_is_found_where_slurm_says_that_the_script_was(call, tmp_path):
    copy = shutil.copy(SCRIPT, tmp_path / "slurm_script")
    assert "error: '' is no checkout; name it: export MEGATRON_FT_ROOT=DIR" in refusal(
        call(*RECIPE, "--output", "mix", script=copy))
    here = tmp_path / "my checkout"
    executable(tmp_path / "bin" / "scontrol", f'#!/bin/sh\necho "   Command={here}/slurm/preprocess.sh /slurm/preprocess.sh"\n')
    assert f"error: '{here}' is no checkout" in refusal(call(*RECIPE, "--output", "mix", script=copy))
    here.mkdir()
    (here / "slurm").symlink_to(ROOT / "slurm")
    assert words(call(*RECIPE, "--output", "mix", script=copy))[0] == f"{here}/preprocess/tokenize_sft.py"
    assert words(call(*RECIPE, "--output", "mix", script=copy, MEGATRON_FT_ROOT=str(ROOT))) == made(2, 4)
    assert f"error: '{tmp_path}' is no checkout" in refusal(
        call(*RECIPE, "--output", "mix", MEGATRON_FT_ROOT=str(tmp_path)))


def test_a_container_gets_the_checkout_and_what_the_site_binds(call, tmp_path):
    assert "MEGATRON_FT_CONTAINER: this node has no 'apptainer' command" in refusal(
        call(*RECIPE, "--output", "mix", MEGATRON_FT_CONTAINER="image.sif"))
    executable(tmp_path / "bin" / "apptainer", ECHO)
    done = call(*RECIPE, "--output", "mix", MEGATRON_FT_CONTAINER="image.sif", MEGATRON_FT_BIND="/scratch,/project",
                MEGATRON_FT_PYTHON="")
    assert words(done) == ["exec", "--bind", str(tmp_path), "--bind", str(ROOT), "--bind", "/scratch,/project", "image.sif",
                           "python3", *made(2, 4)]


def test_modules_are_loaded_before_python_is_looked_for(call, tmp_path):
    assert "MEGATRON_FT_MODULES: 'gcc/12 python' cannot be loaded, this node has no 'module' command" in refusal(
        call(*RECIPE, "--output", "mix", MEGATRON_FT_MODULES="gcc/12 python"))
    function = {"BASH_FUNC_module%%": f"() {{ echo $# $2 $UNSET >&2; false; PATH={tmp_path}/loaded:$PATH; }}"}
    executable(tmp_path / "loaded" / "modpython", ECHO)
    done = call(*RECIPE, "--output", "mix", MEGATRON_FT_MODULES="gcc/12 python", MEGATRON_FT_PYTHON="modpython", **function)
    assert words(done) == made(2, 4)
    assert "3 gcc/12" in done.stderr
    assert "there is no 'modpython' on this node" in refusal(call(*RECIPE, "--output", "mix", MEGATRON_FT_PYTHON="modpython"))


def test_libraries_stay_offline_and_on_one_thread(call, tmp_path):
    shown = executable(tmp_path / "bin" / "shown", "#!/bin/sh\nexec env\n")
    lines = call(*RECIPE, "--output", "mix", MEGATRON_FT_PYTHON=str(shown), PYTHONPATH="/mine").stdout.splitlines()
    assert {"HF_HUB_OFFLINE=1", "HF_DATASETS_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "OMP_NUM_THREADS=1",
            "TOKENIZERS_PARALLELISM=false", f"PYTHONPATH={ROOT}:/mine"} <= set(lines)
