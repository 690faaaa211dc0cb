"""Whether the installed packages are in the ranges of setup.py. Torch-free."""

from __future__ import annotations

import ast
import importlib.metadata
import platform
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from megatron_ft.runtime.source_code import PACKAGE
from megatron_ft.training.preflight_check import Check, named

TOLD = ("torch", "megatron-core", "transformers")
"""Packages whose versions are shown also when all is well."""
MISSING = "missing"


def requirements(setup_file: Path = PACKAGE.parent / "setup.py") -> list[Requirement]:
    """What this project needs, of setup.py beside the package, else as it was when the package was installed."""
    if setup_file.is_file():
        found = re.search(r"install_requires=(\[.*?\n    \])", setup_file.read_text(encoding="utf-8"), re.DOTALL)
        written = ast.literal_eval(found[1]) if found else []
    else:
        written = [text for text in importlib.metadata.requires("megatron_ft") or [] if "extra ==" not in text]
    wanted = map(Requirement, written)
    return [each for each in wanted if each.marker is None or each.marker.evaluate()]


def versions() -> dict[str, str]:
    """Of Python and of all packages that are needed, as they are installed here."""
    found = {"python": platform.python_version()}
    for wanted in requirements():
        try:
            found[wanted.name] = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            found[wanted.name] = MISSING
    return found


def check(found: dict[str, str], wanted: list[Requirement]) -> Check:
    """Whether versions are in their ranges."""
    wrong = [f"{each.name} {found.get(each.name, MISSING)} ({each.specifier or 'any'} is needed)" for each in wanted
             if not _fits(found.get(each.name, MISSING), each)]
    if wrong:
        return Check("packages", "fail", named(wrong), "install what setup.py asks for: pip install -e . in the checkout, or "
                     "build the container anew")
    told = ", ".join(f"{name} {found[name]}" for name in ("python", *TOLD))
    return Check("packages", "ok", f"{told} and {len(found) - 1 - len(TOLD)} more are in the ranges of setup.py")


def _fits(version: str, wanted: Requirement) -> bool:
    return version != MISSING and wanted.specifier.contains(Version(version), prereleases=True)
