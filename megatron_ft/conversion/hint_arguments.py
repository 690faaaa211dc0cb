"""The options by which a user says what another Megatron's checkpoint does not say itself. Importing this loads no torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_ft.conversion.opening import Hints


def add(parser: argparse.ArgumentParser) -> None:
    """Add --config, --vocab-size and --family."""
    parser.add_argument("--config", type=Path, help="of another Megatron's checkpoint: Hugging Face folder with the model's "
                        "config.json and tokenizer")
    parser.add_argument("--vocab-size", type=int, help="of the tokenizer, where neither --config nor the checkpoint say it")
    parser.add_argument("--family", help="where the checkpoint's arguments fit several")


def hints(given: argparse.Namespace) -> Hints:
    """What was given."""
    from megatron_ft.conversion.opening import Hints

    return Hints(config=given.config, vocabulary=given.vocab_size, family=given.family)
