"""Convert any Megatron checkpoint (legacy folders, torch_dist) into one that loads at any TP x PP. See docs/convert.md."""

import argparse
from pathlib import Path

from megatron_ft import cli


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint root (its latest is taken) or iteration folder")
    parser.add_argument("--output", required=True, help="checkpoint root to make; must not exist")
    parser.add_argument("--dtype", default="keep", help="of the stored weights: keep, float32, bfloat16, float16")
    parser.add_argument("--workers", type=int, help="tensors at a time (default: one for each core, eight at most)")
    parser.add_argument("--config", type=Path, help="Hugging Face folder with the model's config.json and tokenizer")
    parser.add_argument("--vocab-size", type=int, help="of the tokenizer, where neither --config nor the checkpoint say it")
    parser.add_argument("--family", help="where the checkpoint's arguments fit several")
    given = parser.parse_args()
    from megatron_ft.conversion import to_torch_dist
    from megatron_ft.conversion.opening import Hints

    to_torch_dist.convert(given.checkpoint, given.output, dtype=given.dtype, workers=given.workers,
                          hints=Hints(config=given.config, vocabulary=given.vocab_size, family=given.family))


if __name__ == "__main__":
    cli.main(command)
