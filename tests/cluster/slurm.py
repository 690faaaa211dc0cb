"""A real SLURM of two nodes on this machine, beside its own if it has one; eight names of /dev/null pass for a node's GPUs.

munged, slurmctld and one slurmd per node run in the foreground as children of this process, with key, configuration, state
and spool in one temporary folder. They die with this process, however it ends. Where namespaces can be made (network.py), nodes
have their own addresses and names and what they say to each other crosses a network; else all is on loopback, on free ports.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.cluster import network as networks
from tests.cluster.network import Network

BINARIES = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo", "squeue", "setpriv")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
GPUS = 8  # of a node
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}

CONFIGURATION = """
ClusterName=megatron-ft-tests
SlurmctldHost={host}({controller})
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# The rest makes it quick: jobs are scheduled at once.
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
MinJobAge=3600
"""


def require() -> None:
    """Skip the test where there is no SLURM; with CI=true fail it."""
    missing = [name for name in BINARIES if shutil.which(name, path=_path()) is None]
    if missing:
        reason = f"no SLURM here ({', '.join(missing)} missing); as root: apt-get install slurm-wlm munge"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


class Cluster:
    """The running SLURM. A job is its number as text; an array's tasks are told apart by theirs, a plain job's is ''."""

    def __init__(self, folder: Path, nodes: Sequence[str], network: Network | None) -> None:
        self.nodes = list(nodes)
        self._folder = folder
        self._network, self._prefix = network, network.at_controller if network else []
        self._daemons: dict[str, subprocess.Popen] = {}
        self.job_environment = {} if network else {"MASTER_ADDR": "127.0.0.1"}
        """What jobs of several nodes have to be told: on loopback the nodes' names lead nowhere."""
        # Within a job of another SLURM, its variables would steer ours.
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        self.environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}

    def run(self, *command: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
        """What one of SLURM's commands prints; AssertionError with what it complains of if it fails."""
        done = subprocess.run([*self._prefix, *map(str, command)], capture_output=True, text=True, timeout=60, cwd=cwd,
                              env=self.environment | dict(environment or {}), check=False)
        assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stderr}{self.logs()}"
        return done.stdout

    def sbatch(self, *arguments: object, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
        """Submit a job from a folder; gives its number."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd, environment=environment).strip().split(";")[0]

    def tasks(self, job: str) -> dict[str, dict[str, str]]:
        """Of each task what `scontrol show job` says; of those that wait, together under one name such as '2-3'."""
        found = {}
        for line in self.run("scontrol", "--oneliner", "show", "job", job).splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            found[fields.get("ArrayTaskId", "")] = fields
        return found

    def states(self, job: str) -> dict[str, str]:
        """{task: state}, as in {'0': 'COMPLETED', '1': 'FAILED'}."""
        return {task: fields["JobState"] for task, fields in self.tasks(job).items()}

    def wait(self, job: str, *, timeout_s: float = 120.0) -> dict[str, str]:
        """The states of all tasks when the last of them has ended."""
        self.wait_until(lambda: set(self.states(job).values()) <= ENDED, timeout_s=timeout_s, what=f"the end of job {job}")
        return self.states(job)

    def wait_until(self, holds: Callable[[], bool], *, timeout_s: float = 60.0, what: str) -> None:
        """Wait for something; AssertionError with the queue and the daemons' last words if it does not come."""
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, f"{what} did not come in {timeout_s:.0f} s\n{self._ask('squeue')}{self.logs()}"
            time.sleep(0.1)

    def start_again(self, job: str, task: str = "") -> None:
        """Wait until a job, or a task of an array, is back in the queue, and have it start now."""
        self.wait_until(lambda: self.states(job).get(task) == "PENDING", what=f"job {job} back in the queue")
        # SLURM lets it wait two minutes. A node takes no job whose credential is of the second in which it killed that job.
        self.run("scontrol", "update", f"JobId={job}{task and '_'}{task}", "StartTime=now+3")

    def logs(self) -> str:
        """The last lines of every daemon."""
        return "".join(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]) + "\n"
                       for path in sorted(self._folder.glob("*.log")))

    def is_idle(self) -> bool:
        """Whether every node waits for work."""
        return self._ask("sinfo", "--noheader", "--partition=cpu", "--Node", "--format=%N %T").split() == [
            word for node in self.nodes for word in (node, "idle")]

    def power_off(self, node: str) -> None:
        """End a node at once, its slurmd and all that jobs run on it, and have SLURM know: by itself it takes it minutes."""
        self._daemons[node].kill()
        for process in processes_of(self._folder, f"SLURMD_NODENAME={node}"):
            for one in (*_step_of(process), process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def power_on(self, node: str) -> None:
        """Start it again, and wait until all nodes are idle."""
        self._daemons[node].wait()
        self.start_node(node)
        self.wait_until(self.is_idle, what="idle nodes")

    def start(self) -> None:
        """Start all daemons, and wait until the nodes are idle."""
        own = self._folder
        self._start("munged", "munged", "--foreground", "--key-file", own / "munge.key", "--socket", own / "munge.socket",
                    "--pid-file", own / "munged.pid", "--log-file", own / "munged.out", "--seed-file", own / "munge.seed")
        self.wait_until((own / "munge.socket").exists, timeout_s=START_TIMEOUT_S, what="munge's socket")
        self._start("slurmctld", "slurmctld", "-D", where=self._prefix)
        for node in self.nodes:
            self.start_node(node)
        self.wait_until(self.is_idle, timeout_s=START_TIMEOUT_S, what="idle nodes")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._start(node, "slurmd", "-D", "-N", node, where=self._network.at_node(node) if self._network else ())

    def stop(self) -> None:
        """End all daemons."""
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def cancel_all(self) -> None:
        """End every job, and wait until the nodes have cleared up after them."""
        self._ask("scancel", "--user", str(os.getuid()))
        self.wait_until(lambda: not self._ask("squeue", "--noheader"), timeout_s=STOP_TIMEOUT_S, what="an empty queue")

    def _start(self, name: str, *command: object, where: Sequence[str] = ()) -> None:
        with open(self._folder / f"{name}.log", "ab") as log:
            # A daemon gets SIGKILL when the thread that started it ends: a run that is killed leaves none.
            self._daemons[name] = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *where, *map(str, command)],
                                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
                                                   env=self.environment, start_new_session=True)

    def _ask(self, *command: str) -> str:
        return subprocess.run([*self._prefix, *command], capture_output=True, text=True, timeout=60, env=self.environment,
                              check=False).stdout


@contextlib.contextmanager
def running(nodes: int = 2, cpus: int = 16) -> Iterator[Cluster]:
    """Start a cluster whose nodes claim to have so many cores, wait until they are idle, and leave nothing behind."""
    # Not pytest's folder: munged wants one that every user may enter, and a socket's path may have but 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="megatron_ft-slurm-"))
    folder.chmod(0o755)
    names = [f"node{index}" for index in range(nodes)]
    with contextlib.ExitStack() as stack:
        stack.callback(remove, folder)
        network = stack.enter_context(networks.running(names, folder)) if networks.is_possible() else None
        _configure(folder, names, cpus, network)
        cluster = Cluster(folder, names, network)
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster
        cluster.cancel_all()


def processes_of(folder: Path, mark: str = "") -> list[int]:
    """What runs and has our configuration, and `mark`, in its environment: it was started by this cluster."""
    marks = {f"SLURM_CONF={folder}/slurm.conf".encode()} | ({mark.encode()} if mark else set())
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours to read
            if marks <= set((process / "environ").read_bytes().split(b"\0")):
                found.append(int(process.name))
    return found


def _step_of(process: int) -> list[int]:
    """The slurmstepd that has started a task, and would report how it ended."""
    with contextlib.suppress(OSError):
        parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
            return [parent]
    return []


def remove(folder: Path) -> None:
    """End what jobs of a stopped cluster left running, and remove its files."""
    for process in processes_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder)


def _configure(folder: Path, names: Sequence[str], cpus: int, network: Network | None) -> None:
    ports = _free_ports(1 + len(names))
    text = CONFIGURATION.format(host=socket.gethostname().split(".")[0], user=str(os.getuid()), folder=folder, port=ports[0],
                                controller=network.controller if network else "127.0.0.1")
    for name, port in zip(names, ports[1:], strict=True):
        place = f"NodeAddr={network.addresses[name]}" if network else f"NodeHostname=localhost NodeAddr=127.0.0.1 Port={port}"
        text += f"NodeName={name} {place} CPUs={cpus} RealMemory=65536 Gres=gpu:{GPUS}\n"
    text += "PartitionName=cpu Nodes=ALL Default=YES State=UP MaxTime=INFINITE PriorityTier=1 GraceTime=60\n"
    text += "PartitionName=urgent Nodes=ALL State=UP MaxTime=INFINITE PriorityTier=2\n"
    (folder / "slurm.conf").write_text(text)
    for number in range(GPUS):
        (folder / f"gpu{number}").symlink_to(os.devnull)
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{SBIN}"
