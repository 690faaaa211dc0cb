"""Rank 0's side of the watch over a run's ranks: one thread, one connection per rank, one verdict. Torch-free.

A connection tells what a heartbeat would, without its false alarms. It ends when its process ends, however that happens,
and the kernel says so at once; a machine that is off or cut off leaves the kernel's probes (TCP keepalive) unanswered. A
process that computes, compiles, holds the interpreter's lock or is stopped keeps its connection, and its machine answers.

Messages are JSON, one a line:

    rank -> hub   {"token", "rank", "host", "pid"}      I am here
                  {"failed": text, "code", "echo"}      my run failed; echo: perhaps only because another rank is gone
                  {"left": true}                        my run is over, all is well
    hub -> rank   {"welcome": true}                     all ranks are here
                  {"verdict": {"rank", "who", "what", "hint", "code"}}
                  {"over": true}                        rank 0 left: nobody watches any more

With 1024 ranks it costs 1024 idle connections: nothing is sent between the first message and the last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import selectors
import socket
import threading
import time
from typing import Any

from megatron_ft import cli
from megatron_ft.errors import TrainingError

ECHO_S = 5.0  # an echo of another rank's end waits this long for that rank's own word
CULPRIT_S = 3.0  # the rank that failed prints its error first; the others are told when it has gone, or after this
LINGER_S = 5.0  # how long the hub stays for ranks that have been told and not gone yet
LINE_BYTES = 65536
OTHER_FILES = 256  # that rank 0 has open beside its connections
ENDED = {errno.ECONNRESET, errno.EPIPE}
"""A connection's errors that mean that the process at its other end is gone; others mean that its machine is silent."""


@dataclasses.dataclass
class Peer:
    """One connection, and who is at its other end."""

    connection: socket.socket
    rank: int = -1
    """-1 until it has said who it is."""
    host: str = ""
    pid: int = 0
    failed: bool = False
    received: bytes = b""

    @property
    def who(self) -> str:
        """As errors name it."""
        return name(self.rank, self.host, self.pid)


def name(rank: int, host: str, pid: int) -> str:
    """How messages name a rank.

    >>> name(3, "n1", 4711)
    'rank 3 (host n1, pid 4711)'
    """
    return f"rank {rank} (host {host}, pid {pid})"


def killed(host: str) -> str:
    """What can be said of a process that ended without a word."""
    return ("ended without an error of its own: it was probably killed (out of memory? see `dmesg` on "
            f"{host}, `sacct -j JOBID` under SLURM), or crashed with a message of its own above")


def silent(silence_s: float) -> str:
    """What can be said of a machine that does not answer."""
    return f"has not been heard of for {silence_s:g} s: its machine is off, or the network to it is cut"


def watch_connection(connection: socket.socket, silence_s: float) -> None:
    """Let the kernel break a connection whose other machine has been silent for `silence_s` seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probe_s = max(1, int(silence_s / 4))
    # TCP_USER_TIMEOUT (Linux) bounds both unanswered probes and unacknowledged data, in ms; the count matters without it.
    for option, value in (("TCP_KEEPIDLE", probe_s), ("TCP_KEEPINTVL", probe_s), ("TCP_KEEPCNT", 4),
                          ("TCP_USER_TIMEOUT", int(1000 * silence_s))):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message; a connection that is gone is noticed where it is read."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


class Hub(threading.Thread):
    """Knows which ranks live and, when one does not, decides once whose fault the end is and tells all."""

    def __init__(self, size: int, *, token: str, silence_s: float) -> None:
        super().__init__(name="hub", daemon=True)
        self._size, self._token, self._silence_s = size, token, silence_s
        _allow_open_files(size)
        dual = socket.has_dualstack_ipv6()
        self._listener = socket.create_server(("", 0), family=socket.AF_INET6 if dual else socket.AF_INET,
                                              dualstack_ipv6=dual, backlog=max(128, size))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: list[Peer] = []
        self.here, own = socket.socketpair()  # rank 0's own connection, which no network can break
        self._add(own)
        self._welcomed = False
        self._echoes: list[tuple[Peer, dict[str, Any]]] = []
        self._verdict: dict[str, Any] | None = None
        self._told = False
        self._next: float | None = None
        """When something happens that no connection announces (time.monotonic)."""
        self._end = False

    def run(self) -> None:
        while not self._end:
            wait = None if self._next is None else max(0.0, self._next - time.monotonic())
            for key, _ in self._selector.select(wait):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.data)
            if self._next is not None and time.monotonic() >= self._next:
                self._on_time()
        for peer in self._peers:
            peer.connection.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        watch_connection(connection, self._silence_s)
        self._add(connection)

    def _add(self, connection: socket.socket) -> None:
        connection.settimeout(1.0)  # messages are small: only a machine that is gone would block a send
        peer = Peer(connection)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _read(self, peer: Peer) -> None:
        try:
            received = peer.connection.recv(LINE_BYTES)
        except OSError as error:
            return self._lost(peer, killed(peer.host) if error.errno in ENDED else silent(self._silence_s))
        if not received:
            return self._lost(peer, killed(peer.host))
        *lines, peer.received = (peer.received + received).split(b"\n")
        for line in lines:
            self._take(peer, line)
        if peer.rank < 0 and len(peer.received) > LINE_BYTES:
            self._forget(peer)
        return None

    def _take(self, peer: Peer, line: bytes) -> None:
        try:
            message = json.loads(line)
            if peer.rank < 0:
                if message["token"] != self._token:
                    raise ValueError("not of this run")
                peer.rank, peer.host, peer.pid = message["rank"], message["host"], message["pid"]
        except (ValueError, KeyError, TypeError):
            return self._forget(peer)  # a port scanner, or a process of another run
        if "left" in message:
            self._forget(peer)
            if peer.rank == 0 and not self._told:
                self._tell({"over": True})
        elif "failed" in message:
            peer.failed = True
            self._hear(peer, message)
        elif self._told:
            send(peer.connection, {"verdict": self._verdict} if self._verdict else {"over": True})
        elif not self._welcomed and sum(other.rank >= 0 for other in self._peers) == self._size:
            self._welcomed = True
            for other in self._peers:
                send(other.connection, {"welcome": True})
        return None

    def _hear(self, peer: Peer, message: dict[str, Any]) -> None:
        if self._verdict is not None or self._told:
            return
        if not message["echo"]:
            self._decide(peer, f"failed: {message['failed']}", message["code"])
        else:
            self._echoes.append((peer, message))
            if self._next is None:
                self._next = time.monotonic() + ECHO_S

    def _lost(self, peer: Peer, what: str) -> None:
        self._forget(peer)
        if self._told or peer.rank < 0:
            return
        if self._verdict is None and not peer.failed:
            self._decide(peer, what, cli.EXIT_FAILED)
        elif self._verdict is not None and self._verdict["rank"] == peer.rank:
            self._tell({"verdict": self._verdict})

    def _forget(self, peer: Peer) -> None:
        if peer in self._peers:
            self._peers.remove(peer)
            self._selector.unregister(peer.connection)
            peer.connection.close()
        if not self._peers and (self._told or self._welcomed):
            self._end = True

    def _decide(self, peer: Peer, what: str, code: int, *, hint: str = "") -> None:
        self._verdict = {"rank": peer.rank, "who": peer.who, "what": what, "hint": hint, "code": code}
        if peer in self._peers:
            send(peer.connection, {"verdict": self._verdict})
            self._next = time.monotonic() + CULPRIT_S
        else:
            self._tell({"verdict": self._verdict})

    def _tell(self, message: dict[str, Any]) -> None:
        self._told = True
        for peer in self._peers:
            send(peer.connection, message)
        self._next = time.monotonic() + LINGER_S
        self._end = not self._peers

    def _on_time(self) -> None:
        if self._told:
            self._end = True
        elif self._verdict is not None:
            self._tell({"verdict": self._verdict})
        else:  # nobody had a better reason than an echo
            peer, message = self._echoes[0]
            quiet = sorted(other.rank for other in self._peers if not other.failed)
            hint = f"; no such error in rank {', '.join(map(str, quiet))}, which may hang" if quiet else ""
            self._decide(peer, f"failed: {message['failed']}", message["code"], hint=hint)


def _allow_open_files(ranks: int) -> None:
    """Raise this process's limit of open files, which often is 1024; TrainingError where it may not be raised enough."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited, wanted = resource.RLIM_INFINITY, OTHER_FILES + 2 * ranks  # the rendezvous store has a connection per rank too
    if hard != unlimited and hard < wanted:
        raise TrainingError(f"rank 0 may open {hard} files (`ulimit -Hn`), but {ranks} ranks take {wanted}; have it raised on "
                            "its machine, or set runtime.dead_rank_seconds=0")
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
