"""`python -m megatron_ft.evaluate`: a model's pass@k on a benchmark in HumanEvalPack's format."""

from __future__ import annotations

from megatron_ft import cli
from megatron_ft.evaluation import settings
from megatron_ft.evaluation.run import evaluate


def command() -> None:
    """Read the command line and evaluate."""
    evaluate(settings.parse())


if __name__ == "__main__":
    cli.main(command)
