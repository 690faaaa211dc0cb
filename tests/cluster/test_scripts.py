"""What holds for every script of slurm/, and what pipeline.sh refuses before it submits anything: no SLURM needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ft import config
from tests.cluster.scripts import ROOT, executable, refusal, run

SHARED = {"lib.sh", "shards.sh", "training.sh"}
SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))
JOBS = [path for path in SCRIPTS if path.name not in {*SHARED, "pipeline.sh"}]
NAMES = [path.name for path in JOBS]


def test_shellcheck_has_nothing_to_say():
    others = (ROOT / name for name in ("install.sh", "tests/run.sh", "examples/quickstart.sh", ".ci/run"))
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "--external-sources", f"--source-path={ROOT}", *SCRIPTS, *others], capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", JOBS, ids=NAMES)
def test_a_script_says_where_things_run_and_no_hyper_parameter(path):
    text = path.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#") or line.startswith("#SBATCH"))
    assert not [field for field in config.fields() if re.search(rf"\b{re.escape(field)}=", code)]
    headers = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, flags=re.MULTILINE))
    assert {"job-name", "nodes", "time", "requeue"} <= set(headers) and headers["open-mode"] == "append"
    assert "set -euo pipefail" in text.splitlines()
    assert path.stat().st_mode & 0o111


def test_all_scripts_find_the_checkout_in_the_same_way():
    blocks = set()
    for path in JOBS:
        text = path.read_text()
        start, end = text.index(f"script={path.name}\n"), text.index('. "$root/slurm/lib.sh"')
        blocks.add(text[start + len(f"script={path.name}"):end])
    assert len(blocks) == 1


@pytest.mark.parametrize("path", JOBS, ids=NAMES)
def test_outside_a_job_a_script_explains_itself(path, tmp_path):
    text = refusal(run(path, folder=tmp_path, SLURM_JOB_ID=""))
    assert f"slurm/{path.name} " in text and f"{path.name}: error: this is no SLURM job; submit it with sbatch as above" in text
    shown = run(path, "--help", folder=tmp_path, SLURM_JOB_ID="")
    assert shown.returncode == 0 and text.startswith(shown.stdout) and shown.stdout.count("\n") > 5


def test_a_conversion_must_be_one_that_there_is(tmp_path):
    text = refusal(run(ROOT / "slurm" / "convert.sh", "../setup", "--hf", "x", folder=tmp_path))
    assert "'../setup' is no command of convert/; the first argument is one of: hf_to_megatron " in text
    assert "'nothing' is no command" in refusal(run(ROOT / "slurm" / "convert.sh", "nothing", folder=tmp_path))


@pytest.fixture
def pipeline(tmp_path):
    """Runs pipeline.sh on the example with lines added to it; sbatch notes how it is called and gives numbers from 1 on."""
    executable(tmp_path / "bin" / "sbatch", '#!/bin/bash\nprintf "%s\\n" "$*" >>calls; n=$(wc -l <calls)\n'
               'if [ "$n" -gt "${ACCEPTED:-9}" ]; then echo "sbatch: error: no" >&2; exit 1; fi\necho "$n;here"\n')
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").touch()

    def submit(*overrides: str, lines: str = "", **variables: str) -> subprocess.CompletedProcess:
        text = (ROOT / "slurm" / "pipeline.example").read_text()
        (tmp_path / "mine").write_text(f"{text}\nBASE=base OUTPUT='my model'\n{lines}\n")
        return run(ROOT / "slurm" / "pipeline.sh", "mine", *overrides, folder=tmp_path, **{"SLURM_JOB_ID": "", **variables})

    return submit


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_a_pipeline_is_six_jobs_each_after_the_one_before(pipeline, tmp_path):
    done = pipeline("optim.lr=1e-5")
    assert done.returncode == 0, done.stderr
    data, merge, train, convert, evaluate, last = calls(tmp_path)
    logs, after = "--output=my model/logs", "--kill-on-invalid-dep=yes"
    assert data == (f"--parsable --job-name=data {logs}/data-%A_%a.out --partition=cpu --array=0-15 {ROOT}/slurm/preprocess.sh "
                    "--input data/*.jsonl --template octocoder --tokenizer base --output my model/data/mix")
    assert merge.endswith(f"--partition=cpu --dependency=afterok:1 {after} {ROOT}/slurm/preprocess.sh --merge "
                          "--output my model/data/mix")
    assert train.endswith(f"--nodes=8 --time=24:00:00 --dependency=afterok:2 {after} {ROOT}/slurm/finetune_starcoderbase.sh "
                          "examples/configs/starcoderbase-15b.toml run.dir=my model/run load.from=base "
                          "data.train=0:0.95 my model/data/mix data.valid=0.95:1 my model/data/mix optim.lr=1e-5")
    assert convert.endswith(f"--dependency=afterok:3 {after} {ROOT}/slurm/convert.sh megatron_to_hf --checkpoint "
                            "my model/run/checkpoints --output my model/model")
    assert "--array=0-15 --dependency=afterok:4 " in evaluate
    assert evaluate.endswith("--model my model/model --output my model/results")
    assert last.endswith(f"--gpus-per-node=0 --partition=cpu --dependency=afterok:5 {after} {ROOT}/slurm/evaluate.sh --merge "
                         "--output my model/results")
    assert "scancel 1 2 3 4 5 6 ends all of it" in done.stderr


def test_stages_whose_output_is_there_are_left_out(pipeline, tmp_path):
    for made, left in (("data/mix.json", ["train", "convert", "evaluate", "evaluate-merge"]),
                       ("model/config.json", ["evaluate", "evaluate-merge"]), ("results/summary.json", [])):
        (tmp_path / "my model" / made).parent.mkdir(parents=True)
        (tmp_path / "my model" / made).touch()
        (tmp_path / "calls").unlink(missing_ok=True)
        assert pipeline().returncode == 0
        assert [line.split("--job-name=")[1].split()[0] for line in calls(tmp_path)] == left
        assert not calls(tmp_path) or "--dependency" not in calls(tmp_path)[0]


@pytest.mark.parametrize(("lines", "message"), [
    ("unset SPLIT", "mine: SPLIT is not set; slurm/pipeline.example says what it is"),
    ("EVALUATE=()", "mine: EVALUATE is not set"),
    ("DATA_SHARDS=many", "mine: DATA_SHARDS: 'many' is no number of shards"),
    ("TRAIN=(my.toml)", "mine: TRAIN: 'my.toml' is no script of slurm/"),
    ("BASE=nowhere", "mine: BASE: nowhere is no Hugging Face folder, it has no config.json")])
def test_a_pipeline_that_cannot_work_is_refused(pipeline, tmp_path, lines, message):
    assert message in refusal(pipeline(lines=lines))
    assert calls(tmp_path) == []


def test_a_pipeline_belongs_on_a_login_node(pipeline, tmp_path):
    assert "this submits jobs and is none itself" in refusal(pipeline(SLURM_JOB_ID="17"))
    done = pipeline(ACCEPTED="2")
    assert done.returncode == 2
    assert "sbatch refused the stage 'train'; what is in the queue already: scancel 1 2" in done.stderr
