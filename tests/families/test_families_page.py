"""docs/families.md is what the families' files say."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ft import families
from megatron_ft.families import rules
from megatron_ft.families.__main__ import DISTINCT, FLAGS, condition, page

COMMITTED = Path(__file__).parents[2] / "docs" / "families.md"


def test_the_page_is_the_generated_one():
    assert COMMITTED.read_text(encoding="utf-8") == page(), "run: python -m megatron_ft.families > docs/families.md"


def test_the_command_prints_it():
    done = subprocess.run([sys.executable, "-m", "megatron_ft.families"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, page()), done.stderr


@pytest.mark.parametrize("line", [
    "| `starcoder2-7b` | 32 | 4608 | 36 | 4 | 128 | 18432 | 49152 | 16384 | 4096 | tied | 7,173,923,840 |",
    "| `decoder.layers.{i}.mlp.linear_fc1.bias` | [gate_up] | `model.layers.{i}.mlp.gate_proj.bias` [ffn]<br>"
    "`model.layers.{i}.mlp.up_proj.bias` [ffn] | Gated | linear_bias |",
    "Its weights are those of [llama](#llama), without linear_bias, with qkv_bias."])
def test_a_line_says_what_it_should(line):
    assert f"\n{line}\n" in page()


def test_the_words_of_shapes_are_told_apart_by_their_sizes():
    numbers = rules.sizes(dataclasses.replace(families.preset("llama-7b"), **DISTINCT)).values()
    assert len(set(numbers)) == len(numbers)


def test_a_rule_that_goes_with_something_else_is_not_passed_over():
    odd = rules.Ignored("x", when=lambda a: a.tied_head and a.qkv_bias)
    with pytest.raises(ValueError, match=f"x: goes with none of {', '.join(FLAGS)} alone"):
        condition(odd, families.preset("llama-7b"))
