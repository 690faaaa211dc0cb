"""What the workers of test_preflight_ranks.py run: the preflight's ranks on pretended nodes, with faults on some of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

from megatron_ft.runtime.device import Process

PER_NODE = 2
FAULTS = ("skew", "stale", "missing", "copy", "versions", "blind", "broken", "hang before words", "hang in all-reduce",
          "wrong sum", "stranger to run.dir")


def checked(process: Process, *, config: str, arguments: list[str], fault: str = "", culprits: list[int] = (),
            absent: bool = False) -> dict[str, Any]:
    """One rank's preflight, nodes of two ranks each: {"code", "out", "err", "stuck"}.

    Args:
        fault: one of FAULTS, on the ranks in `culprits`.
        absent: the culprits do not come at all.
    """
    from megatron_ft import cli, preflight
    from megatron_ft.runtime import source_code

    assert fault in ("", *FAULTS)
    faulty = process.rank in culprits
    if absent and faulty:
        return {"code": None, "out": "", "err": ""}
    names = {"RANK": process.rank, "WORLD_SIZE": process.size, "LOCAL_RANK": process.rank % PER_NODE,
             "LOCAL_WORLD_SIZE": PER_NODE, "MASTER_ADDR": process.address, "MASTER_PORT": process.port,
             "SLURMD_NODENAME": f"n{process.rank // PER_NODE}", "HF_HUB_OFFLINE": 1, "HF_DATASETS_OFFLINE": 1,
             "TRANSFORMERS_OFFLINE": 1}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {name: str(value) for name, value in names.items()}))
        stack.enter_context(mock.patch("sys.argv", ["preflight", config, *arguments]))
        # A pool's process goes on: what would end it must not, and what hangs ends by itself a little later.
        stack.enter_context(mock.patch("os._exit", _leave))
        # Somebody may edit the checkout that the tests run in; nodes would then see it before and after.
        stack.enter_context(mock.patch.object(source_code, "commit", lambda: "abc"))
        stack.enter_context(mock.patch.object(source_code, "fingerprint", lambda: "def"))
        for patch in _faults(fault) if faulty else ():
            stack.enter_context(patch)
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            cli.main(preflight.main)
        except SystemExit as ended:
            code = ended.code
        except _Left as left:
            code = f"os._exit({left})"
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


class _Left(BaseException):
    pass


def _leave(code: int) -> None:
    raise _Left(code)


def _faults(fault: str) -> list[Any]:
    from megatron_ft.training import preflight_files, preflight_machine, preflight_network, preflight_packages, preflight_ranks

    seen, versions, follow = preflight_files.seen, preflight_packages.versions, preflight_ranks.follow
    reduced = preflight_network._all_reduce

    def changed(how: Any) -> Any:
        """The view of the dataset's .bin file, as `how` makes it of the true one."""
        return lambda paths: {path: how(view) if path.endswith(".bin") else view for path, view in seen(paths).items()}

    def hang(*arguments: Any, **named: Any) -> Any:
        time.sleep(25)
        raise RuntimeError("it hung")

    replaced: dict[str, tuple[Any, str, Any]] = {
        "skew": (preflight_ranks, "follow", lambda *given: follow(*given, clock=lambda: time.time() + 7.5)),
        "stale": (preflight_files, "seen", changed(lambda view: [view[0] + 2, view[1], "other"])),
        "missing": (preflight_files, "seen", changed(lambda view: ["No such file or directory"])),
        "copy": (preflight_files, "seen", changed(lambda view: [view[0], view[1] + 1, view[2]])),
        "versions": (preflight_packages, "versions", lambda: {**versions(), "torch": "1.0", "numpy": "0.5"}),
        "blind": (preflight_machine, "_gpu", lambda *_: {"device": "none", "gpu": None, "gpu_error": "torch sees no GPU"}),
        "broken": (preflight_machine, "facts", lambda *_: json.loads("{")),
        "hang before words": (preflight_machine, "facts", hang),
        "hang in all-reduce": (preflight_network, "measure", hang),
        "wrong sum": (preflight_network, "_all_reduce", lambda *given: (reduced(*given)[0], False)),
        "stranger to run.dir": (preflight_files, "probe_of", lambda folder, token, rank: Path(f"{folder}.other", rank))}
    return [mock.patch.object(*replaced[fault])]
