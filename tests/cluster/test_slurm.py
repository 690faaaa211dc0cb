"""The cluster of the other tests: two nodes, started in seconds, with nothing left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import network, slurm

pytestmark = pytest.mark.cluster


def test_srun_starts_a_task_on_each_node(cluster, tmp_path):
    job = cluster.sbatch("--nodes=2", "--wrap", "srun bash -c 'echo $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME'",
                         cwd=tmp_path)
    assert cluster.wait(job) == {"": "COMPLETED"}
    assert sorted((tmp_path / f"slurm-{job}.out").read_text().splitlines()) == ["0 of 2 on node0", "1 of 2 on node1"]


def test_each_node_has_an_address_of_its_own_and_reaches_the_other_by_name(cluster, tmp_path):
    if not network.is_possible():
        pytest.skip("no network namespaces here, the nodes are all on loopback")
    see = "hostname; hostname -I; ip -brief link show up | wc -l; getent hosts node0 node1"
    job = cluster.sbatch("--nodes=2", "--wrap", f"srun --output=%n.txt bash -c '{see}'", cwd=tmp_path)
    assert cluster.wait(job) == {"": "COMPLETED"}
    both = [["10.99.0.2", "node0"], ["10.99.0.3", "node1"]]
    for number, (address, name) in enumerate(both):
        lines = [line.split() for line in (tmp_path / f"{number}.txt").read_text().splitlines()]
        assert lines == [[name], [address], ["2"], *both]


CLUSTER = """
import os, sys
from pathlib import Path
from tests.cluster import slurm
with slurm.running(nodes=1) as cluster:
    job = cluster.sbatch("--wrap", "sleep 1234", cwd=Path(sys.argv[1]))
    cluster.wait_until(lambda: cluster.states(job)[""] == "RUNNING", what="a start")
    print(cluster.environment["SLURM_CONF"], flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
"""


def run_cluster(folder: Path, end: str) -> Path:
    """The folder of a cluster that had a job running when it was stopped, or when its process was killed."""
    done = subprocess.run([sys.executable, "-c", CLUSTER, str(folder), end], cwd=Path(__file__).parents[2],
                          stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == (-9 if end == "killed" else 0)
    return Path(done.stdout.strip()).parent


def test_a_cluster_that_was_stopped_leaves_nothing(cluster, tmp_path):
    stopped = run_cluster(tmp_path, "stopped")
    assert stopped.name.startswith("megatron_ft-slurm-") and not stopped.exists()
    assert slurm.processes_of(stopped) == []
    cluster.wait_until(cluster.is_idle, what="idle nodes")  # another one is not touched


def test_a_cluster_whose_process_is_killed_leaves_no_daemon(cluster, tmp_path):
    killed = run_cluster(tmp_path, "killed")
    try:
        cluster.wait_until(lambda: not {"munged", "slurmctld", "slurmd"} & set(map(name_of, slurm.processes_of(killed))),
                           what="the end of the daemons")
    finally:
        slurm.remove(killed)  # the job: it outlives the daemons in any SLURM
    cluster.wait_until(lambda: slurm.processes_of(killed) == [], what="the end of its job")
    assert not killed.exists()
    cluster.wait_until(cluster.is_idle, what="idle nodes")


def test_without_slurm_a_test_is_skipped_with_the_reason_and_in_ci_it_fails(monkeypatch):
    monkeypatch.setattr(slurm, "BINARIES", ("bash", "slurmctld-of-nowhere"))
    reason = r"no SLURM here \(slurmctld-of-nowhere missing\); as root: apt-get install slurm-wlm munge"
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=reason):
        slurm.require()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=reason):
        slurm.require()


def name_of(process: int) -> str:
    try:
        return (Path("/proc") / str(process) / "comm").read_text().strip()
    except OSError:
        return ""
