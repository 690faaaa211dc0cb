"""What slurm/finetune_*.sh do with arguments, exit codes and signals; srun, scontrol and training are stand-ins here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.scripts import ROOT, executable, refusal, run

SCRIPT = ROOT / "slurm" / "finetune_llama.sh"
NEEDED = ("run.dir=my run", "load.from=base", "data.train=data/mix")
# Notes how it was called. Training ends with $CODE and, like a real one, with a line in the run's events; the rest is real.
PYTHON = f"""\
#!/bin/bash
case "$1 $2" in
    "-m megatron_ft.train" | "-m megatron_ft.preflight")
        printf '%s\\n' "$*" >>calls
        if [ "$2" = megatron_ft.preflight ]; then echo "a table"; exit "${{PREFLIGHT_CODE:-0}}"; fi
        [ "$SLURM_PROCID" != 0 ] \\
            || echo '{{"event": "attempt", "job": "17", "step": 0, "saved": 0}}' >>"my run/events.jsonl"
        echo "error: rank $SLURM_PROCID speaks"
        if [ -n "$TOLD" ]; then kill -TERM "$PPID"; sleep 0.5; fi
        exit "$CODE" ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""
# Runs the command twice, as ranks 0 and 3, one after the other.
SRUN = """\
#!/bin/bash
printf '%s\\n' "srun $*" >>calls
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=3 CODE=1 TOLD= "$@"
SLURM_PROCID=0 exec "$@"
"""
SCONTROL = """\
#!/bin/sh
case "$1" in
    show) if [ "$2" = hostnames ]; then echo gpu07; echo gpu08; else echo "JobState=COMPLETING Reason=$REASON"; fi ;;
    *) echo "scontrol $*" >>calls; exit "${QUEUE_CODE:-0}" ;;
esac
"""


@pytest.fixture
def job(tmp_path):
    """Runs the script as a job whose training ends with a code; its calls are in the file "calls"."""
    python = executable(tmp_path / "bin" / "python", PYTHON)
    executable(tmp_path / "bin" / "srun", SRUN)
    executable(tmp_path / "bin" / "scontrol", SCONTROL)
    executable(tmp_path / "bin" / "sleep", '#!/bin/sh\ncase "$1" in 60) ;; *) exec /bin/sleep "$1" ;; esac\n')

    def submit(*arguments: str, code: int = 0, script: Path = SCRIPT, **variables: str) -> subprocess.CompletedProcess:
        own = {"MEGATRON_FT_PYTHON": str(python), "MEGATRON_FT_PREFLIGHT": "off", "CODE": str(code),
               "SLURM_JOB_NODELIST": "gpu[07-08]"}
        return run(script, *arguments, folder=tmp_path, **own | variables)

    return submit


def calls(folder: Path, first: str = "") -> list[str]:
    path = folder / "calls"
    return [line for line in path.read_text().splitlines() if line.startswith(first)] if path.exists() else []


def test_one_task_a_gpu_gets_the_scripts_config_and_the_overrides(job, tmp_path):
    done = job(*NEEDED, "run.steps=5", "run.epochs=0", OMP_NUM_THREADS="")
    assert done.returncode == 0, done.stderr
    config = ROOT / "examples" / "configs" / "llama-13b.toml"
    assert calls(tmp_path, "-m")[-1] == f"-m megatron_ft.train {config} {' '.join(NEEDED)} run.steps=5 run.epochs=0"
    [srun] = calls(tmp_path, "srun")
    assert "--kill-on-bad-exit=1 --cpus-per-task=3 --cpu-bind=cores --gpu-bind=none --mpi=none bash -c " in srun
    assert "finetune_llama.sh: job 17 on gpu[07-08], start 1, " in done.stderr
    assert done.stderr.endswith("finetune_llama.sh: done; the model is in my run/checkpoints\n")


def test_another_config_takes_the_place_of_the_scripts(job, tmp_path):
    shutil.copy(ROOT / "examples" / "configs" / "quickstart.toml", tmp_path / "my.toml")
    assert job("my.toml", *NEEDED).returncode == 0
    assert calls(tmp_path, "-m")[-1] == f"-m megatron_ft.train my.toml {' '.join(NEEDED)}"
    assert 'tp = 2\n' in (tmp_path / "my run" / "jobs" / "17-1" / "config.toml").read_text()
    assert job("none.toml", *NEEDED).returncode == 2


def test_rank_0_writes_the_log_and_the_others_files_of_their_own(job, tmp_path):
    done = job(*NEEDED, SLURM_RESTART_COUNT="2")
    assert "rank 0 speaks" in done.stdout and "rank 3" not in done.stdout + done.stderr
    folder = tmp_path / "my run" / "jobs" / "17-3"
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "job.txt", "rank-0003.log"]
    assert (folder / "rank-0003.log").read_text() == "error: rank 3 speaks\n"
    about = (folder / "job.txt").read_text()
    assert about.startswith("job: 17, start 3, ") and "\nnodes: gpu[07-08]\n" in about
    assert "\ncommand: finetune_llama.sh " in about and "run.dir=my\\ run" in about


@pytest.mark.parametrize("code", [75, 1, 137])
def test_what_training_can_go_on_after_puts_the_job_back_into_the_queue(job, tmp_path, code):
    done = job(*NEEDED, code=code)
    assert done.returncode == code
    assert calls(tmp_path, "scontrol") == ["scontrol requeue 17"]
    assert f"training ended with exit code {code}; requeue: " in done.stderr
    # What rank 3 said is shown where it may be the reason.
    assert ("rank 3 speaks" in done.stderr) == (code != 75)


@pytest.mark.parametrize("code", [2, 130])
def test_what_a_user_must_change_or_has_ended_is_not_queued_again(job, tmp_path, code):
    done = job(*NEEDED, code=code)
    assert (done.returncode, calls(tmp_path, "scontrol")) == (code, [])
    assert f"error: exit code {code}: no requeue: " in done.stderr


def test_a_run_that_gets_no_further_is_given_up(job, tmp_path):
    codes = [job(*NEEDED, code=75, SLURM_RESTART_COUNT=str(start)) for start in range(4)]
    assert [done.returncode for done in codes] == [75] * 4
    assert len(calls(tmp_path, "scontrol requeue")) == 2
    assert "error: exit code 75: no requeue: " in codes[2].stderr


def test_a_queue_that_does_not_take_it_back_is_said(job):
    done = job(*NEEDED, code=75, QUEUE_CODE="1")
    assert done.returncode == 75
    assert "error: exit code 75: the queue does not take the job back; submit the same command again" in done.stderr


@pytest.mark.parametrize(("reason", "requeues"), [("None", 0), ("TimeLimit", 1)])
def test_a_job_that_slurm_ends_is_left_to_slurm_but_for_the_time_limit(job, tmp_path, reason, requeues):
    """After scancel a requeue would bring the job back to life; after preemption SLURM does it. After the limit nobody does."""
    done = job(*NEEDED, code=75, TOLD="yes", REASON=reason)
    assert done.returncode == 75
    assert len(calls(tmp_path, "scontrol requeue")) == requeues
    assert ("SLURM ends this job: preempted or requeued it comes back by itself" in done.stderr) != bool(requeues)


def test_an_srun_that_leaves_with_0_because_a_node_died_is_not_taken_for_the_end_of_training(job, tmp_path):
    done = job(*NEEDED, code=0, TOLD="yes", REASON="None")
    assert "done; the model is in" not in done.stderr
    assert "SLURM ends this job" in done.stderr and calls(tmp_path, "scontrol requeue") == []


def test_the_preflight_comes_first_and_its_no_is_final(job, tmp_path):
    assert job(*NEEDED, MEGATRON_FT_PREFLIGHT="").returncode == 0
    modules = [line.split()[1] for line in calls(tmp_path, "-m")]
    assert modules == ["megatron_ft.preflight"] * 2 + ["megatron_ft.train"] * 2
    (tmp_path / "calls").unlink()
    done = job(*NEEDED, MEGATRON_FT_PREFLIGHT="", PREFLIGHT_CODE="1")
    assert done.returncode == 1
    assert "error: exit code 1: the preflight says no, see above" in done.stderr
    assert [line.split()[1] for line in calls(tmp_path, "-m")] == ["megatron_ft.preflight"] * 2
    assert calls(tmp_path, "scontrol") == []


def test_a_config_that_cannot_be_is_refused_before_any_rank_is_started(job, tmp_path):
    done = job(*NEEDED, "optim.speed=0.9")
    assert (done.returncode, calls(tmp_path)) == (2, [])
    assert "error: ConfigError: override 'optim.speed=0.9'" in done.stderr


@pytest.mark.parametrize("name", ["finetune_llama.sh", "finetune_starcoderbase.sh"])
def test_outside_a_job_it_says_how_to_submit_it(job, name):
    text = refusal(job(*NEEDED, script=ROOT / "slurm" / name, SLURM_JOB_ID=""))
    assert f"sbatch slurm/{name} run.dir=runs/sft load.from=models/" in text
    assert "this is no SLURM job; submit it with sbatch as above, or run 'torchrun" in text
    shown = job("--help", script=ROOT / "slurm" / name, SLURM_JOB_ID="")
    assert shown.returncode == 0 and text.startswith(shown.stdout)
    assert "#SBATCH" not in text


def test_ranks_find_rank_0_and_stay_offline(job, tmp_path):
    executable(tmp_path / "bin" / "srun", "#!/bin/sh\nenv >seen\n")
    assert job(*NEEDED, NCCL_IB_TIMEOUT="18", MASTER_ADDR="").returncode == 0
    assert {"MASTER_ADDR=gpu07", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "HF_DATASETS_OFFLINE=1",
            "NCCL_DEBUG=WARN", "NCCL_IB_TIMEOUT=18", "OMP_NUM_THREADS=1"} <= set((tmp_path / "seen").read_text().splitlines())


def test_each_rank_is_a_container_of_apptainer(job, tmp_path):
    """What is called through the container is noted, then run without it."""
    executable(tmp_path / "bin" / "apptainer", '#!/bin/bash\nprintf "%s\\n" "apptainer $*" >>calls\n'
               f'while [ "$1" != image.sif ]; do shift; done; shift 2; exec "{tmp_path}/bin/python" "$@"\n')
    assert job(*NEEDED, MEGATRON_FT_PYTHON="", MEGATRON_FT_CONTAINER="image.sif", MEGATRON_FT_BIND="/scratch").returncode == 0
    start = f"apptainer exec --bind {tmp_path} --bind {ROOT} --bind /scratch image.sif python3 -"
    assert [line.startswith(f"{start}c") for line in calls(tmp_path, "apptainer")] == [True, False, False]
    assert [line.startswith(f"{start}m megatron_ft.train") for line in calls(tmp_path, "apptainer")] == [False, True, True]


def test_srun_starts_the_ranks_in_a_container_of_pyxis(job, tmp_path):
    assert "MEGATRON_FT_CONTAINER: there is no 'image.sqsh' on this node" in refusal(
        job(*NEEDED, MEGATRON_FT_CONTAINER="image.sqsh"))
    (tmp_path / "image.sqsh").touch()
    done = job(*NEEDED, MEGATRON_FT_CONTAINER="image.sqsh", MEGATRON_FT_BIND="/scratch")
    assert done.returncode == 0, done.stderr
    config, training = calls(tmp_path, "srun")
    mounts = ",".join(f"{path}:{path}" for path in (tmp_path, ROOT, "/scratch"))
    inside = f"--mpi=none --container-image=image.sqsh --container-mounts={mounts} --container-workdir={tmp_path} "
    assert config.startswith(f"srun --nodes=1 --ntasks=1 {inside}")
    assert f"--gpu-bind=none {inside}bash -c " in training


def test_the_sites_file_is_read_and_what_is_exported_wins(job, tmp_path):
    (tmp_path / "checkout" / "slurm").mkdir(parents=True)
    for path in (ROOT / "slurm").glob("*.sh"):
        shutil.copy(path, tmp_path / "checkout" / "slurm")
    for name in ("megatron_ft", "examples"):
        (tmp_path / "checkout" / name).symlink_to(ROOT / name)
    (tmp_path / "checkout" / "slurm" / "site.env").write_text(
        "export MEGATRON_FT_PREFLIGHT=off MEGATRON_FT_PYTHON=/nowhere/python NCCL_SOCKET_IFNAME='ib 0'\n")
    script = tmp_path / "checkout" / "slurm" / SCRIPT.name
    executable(tmp_path / "bin" / "srun", "#!/bin/sh\nenv >seen\n")
    assert "there is no '/nowhere/python' on this node" in refusal(job(*NEEDED, script=script, MEGATRON_FT_PYTHON=""))
    assert job(*NEEDED, script=script).returncode == 0
    assert "NCCL_SOCKET_IFNAME=ib 0" in (tmp_path / "seen").read_text().splitlines()
    assert job(*NEEDED, script=script, NCCL_SOCKET_IFNAME="eth0").returncode == 0
    assert "NCCL_SOCKET_IFNAME=eth0" in (tmp_path / "seen").read_text().splitlines()
    text = refusal(job(script=script, SLURM_JOB_ID=""))
    assert "note: 'source slurm/site.env' before sbatch lets it know your account and partition" in text
