"""A network for a cluster on one machine: each node has an address, a name and interfaces of its own.

Made of network namespaces, which live as long as the process that holds each: a run that is killed leaves none, nor any
interface, and nothing of the machine's own network or files is changed. It takes root, or what a container's root may do.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SUBNET = "10.99.0"
WITH_A_NAME = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'


class Network:
    """A bridge with the controller at .1 and the nodes behind it, from .2 on."""

    def __init__(self, names: Sequence[str], folder: Path, hub: int, holders: Sequence[int]) -> None:
        self._hub, self._holders = hub, dict(zip(names, holders, strict=True))
        self.addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(names, start=2)}
        self.controller = f"{SUBNET}.1"
        self._hosts = folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{self.addresses[name]} {name}\n" for name in names))
        self._ip(hub, "link add name bridge type bridge", f"addr add {self.controller}/24 dev bridge", "link set bridge up",
                 "link set lo up")
        for name, holder in self._holders.items():
            self._ip(hub, f"link add name {name} type veth peer name eth0 netns {holder}", f"link set {name} master bridge up")
            self._ip(holder, f"addr add {self.addresses[name]}/24 dev eth0", "link set eth0 up", "link set lo up")

    @property
    def at_controller(self) -> list[str]:
        """What to put before a command that runs where the controller does."""
        return _inside(self._hub)

    def at_node(self, name: str) -> list[str]:
        """The same of a node, whose name it then has as its machine's."""
        return [*_inside(self._holders[name]), "unshare", "--uts", "--mount", "sh", "-c", WITH_A_NAME, name, str(self._hosts)]

    def _ip(self, process: int, *commands: str) -> None:
        for command in commands:
            subprocess.run([*_inside(process), "ip", *command.split()], check=True, capture_output=True, text=True)


def is_possible() -> bool:
    """Whether this user may make namespaces with a bridge and a file of its own in them."""
    try:
        done = subprocess.run(["unshare", "--net", "--uts", "--mount", "sh", "-c",
                               "ip link add name bridge type bridge && ip link add name one type veth peer name two && "
                               "hostname x && mount --bind /dev/null /etc/hosts"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def running(names: Sequence[str], folder: Path) -> Iterator[Network]:
    """The network, as long as the block lasts."""
    holders = [subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
               for _ in range(1 + len(names))]
    try:
        own = Path("/proc/self/ns/net").readlink()
        while any(Path(f"/proc/{holder.pid}/ns/net").readlink() == own for holder in holders):
            time.sleep(0.01)
        yield Network(names, folder, holders[0].pid, [holder.pid for holder in holders[1:]])
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _inside(process: int) -> list[str]:
    return ["nsenter", f"--net=/proc/{process}/ns/net"]
