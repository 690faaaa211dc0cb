"""What an attacked machine has, and what of it an attack that got out of its box would have changed."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
SECRET_VARIABLE, ALONE = "SECRET_OF_THE_TEST", "HOSTILE_WORLD_IS_ALONE"
SHARED_FOLDERS = ("/tmp", "/dev/shm", "/var/tmp", "/run", "/etc")
DEATH_S = 60  # what is killed may take this long to be gone, on a machine that does much else


class Outside:
    """A home with a secret, a folder that anybody may change, servers; `left` says what became of them."""

    def __init__(self, folder: Path) -> None:
        """Make it all in a folder, and look at it."""
        self.secret = secrets.token_hex(20)
        self.home, self.kept = folder / "home", folder / "anybody" / "kept"
        for place in (self.home, self.kept.parent):
            place.mkdir(exist_ok=True)
        self.kept.parent.chmod(0o777)
        self.kept.write_text("here")
        self.kept.chmod(0o666)
        (self.home / "secret").write_text(self.secret)
        os.environ.update({"HOME": str(self.home), SECRET_VARIABLE: self.secret})
        self._name = f"hostile-{secrets.token_hex(8)}"
        self._servers = {"tcp": socket.create_server(("127.0.0.1", 0)), "a socket": abstract(self._name),
                         "a socket by a padded name": abstract(self._name.ljust(107, "\0"))}  # libuv's way
        self._toolchains = Path(os.environ["MEGATRON_FT_CACHE"], "toolchains")
        self.look_again()

    @property
    def words(self) -> dict[str, str]:
        """What stands for it in a program's text; the secret itself does not."""
        return {"HOME": str(self.home), "KEPT": str(self.kept), "FOLDER": str(self.kept.parent), "SOCKET": self._name,
                "REPOSITORY": str(REPOSITORY), "PAUSE_MS": "300", "PORT": str(self._servers["tcp"].getsockname()[1])}

    def look_again(self) -> None:
        """What is there now is as it should be: toolchains have been built."""
        self._built = sorted(self._toolchains.glob("[!.]*"))  # other tests may build more meanwhile
        self._before = self._seen()

    def left(self, marker: str) -> list[str]:
        """What attacks changed, made, or reached; markers are of the files that they make wherever they can."""
        after = self._seen()
        found = [f"{path}: {self._before.get(path)} before, {after.get(path)} now"
                 for path in sorted(self._before.keys() | after.keys()) if self._before.get(path) != after.get(path)]
        found += [f"{place}: made" for folder in (*SHARED_FOLDERS, "/", "/usr/lib", "/dev", REPOSITORY)
                  for place in Path(folder).glob(f"hostile*{marker}*")]
        found += [f"a connection to {name}" for name, peer in self._servers.items() if reached(peer)]
        return found + [f"System V {kind}: {rows}" for kind, rows in system_v().items() if rows and self.is_alone]

    @property
    def is_alone(self) -> bool:
        """Whether nothing else of the machine is in sight (`world.py`): then whatever is left is an attack's."""
        return ALONE in os.environ

    def _seen(self) -> dict[str, tuple]:
        folders = [self.home, self.kept.parent, Path.cwd(), *self._built, *(map(Path, SHARED_FOLDERS) if self.is_alone else ())]
        return {path: told for folder in folders for path, told in listing(folder)}


def listing(folder: Path) -> Iterator[tuple[str, tuple]]:
    """Whatever is below a folder, and is no other file system: path, and its mode, owner, size, time of change, link."""
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not os.path.ismount(f"{above}/{name}")]
        for path in (Path(above, name) for name in (*folders, *files)):
            with contextlib.suppress(FileNotFoundError):
                told = path.lstat()
                size = None if stat.S_ISDIR(told.st_mode) else (told.st_size, told.st_mtime_ns)
                yield str(path), (oct(told.st_mode), told.st_uid, size, str(path.readlink()) if path.is_symlink() else None)


def abstract(name: str) -> socket.socket:
    """A server that has no file: its name is the network namespace's."""
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0" + name)
    server.listen()
    return server


def reached(server: socket.socket) -> bool:
    """Whether anybody connected."""
    server.setblocking(False)
    try:
        server.accept()
    except BlockingIOError:
        return False
    return True


def system_v() -> dict[str, int]:
    """How many segments, semaphores and queues there are."""
    return {kind: len(Path(f"/proc/sysvipc/{kind}").read_text().splitlines()) - 1 for kind in ("shm", "sem", "msg")}


def processes(marker: str = "") -> list[str]:
    """The command lines of this machine's processes that hold a marker; this one and those above it aside."""
    mine, above = set(), os.getpid()
    while above:
        mine.add(str(above))
        above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (place / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ").strip()
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            found += [f"{place.name}: {text or state}"] if place.name not in mine and marker in text and state != "Z" else []
    return found


def gone(marker: str = "") -> list[str]:
    """What of them is still there after a while; nothing, if all is well."""
    deadline = time.monotonic() + DEATH_S
    while (found := processes(marker)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
