"""On a slower machine everything that is limited in seconds gets more of them, compilers too."""

from __future__ import annotations

import pytest

from megatron_ft.evaluation import run
from megatron_ft.evaluation.box import Box
from megatron_ft.evaluation.languages.compiled import Compiled
from megatron_ft.evaluation.problem import KINDS, PACK
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.settings import Settings

BOXES = Sandbox("none", as_root=False, locked=False, filtered=False)


def judged(name: str, slowness: float) -> Compiled:
    """A language as a run on such a machine has it."""
    settings = Settings(benchmark="any", output="any", scenario="synthesize", solutions="canonical")
    return run.judge_of(settings, name, BOXES, slowness, KINDS[PACK]).language


@pytest.mark.parametrize("name", ["cpp", "go", "java", "rust"])
def test_a_compiler_gets_as_much_longer_as_a_program(name: str) -> None:
    usual, slow = judged(name, 1.0), judged(name, 2.5)
    assert usual.build_limits == type(usual).build_limits
    assert slow.build_limits.cpu_s == 2.5 * usual.build_limits.cpu_s
    assert slow.build_limits.wall_s == 2.5 * usual.build_limits.wall_s
    assert slow.limits.cpu_s == 2.5 * usual.limits.cpu_s


def test_so_does_the_public_harness_s_compiler() -> None:
    def allowed(slowness: float) -> tuple[Box, str]:
        return judged("cpp", slowness).public_build()

    (usual, script), (slow, same_script) = allowed(1.0), allowed(3.0)
    assert script == same_script
    assert (usual.limits.cpu_s, slow.limits.cpu_s) == (60, 180)
