"""Convert a Hugging Face folder into a torch_dist checkpoint that loads at any TP x PP. See docs/convert.md."""

import argparse

from megatron_ft import cli


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf", required=True, help="Hugging Face model folder: config.json, weights, tokenizer")
    parser.add_argument("--output", required=True, help="checkpoint root to make; must not exist")
    parser.add_argument("--dtype", default="keep", help="of the stored weights: keep, float32, bfloat16, float16")
    parser.add_argument("--workers", type=int, help="tensors at a time (default: one for each core, eight at most)")
    given = parser.parse_args()
    from megatron_ft.conversion import hf_to_megatron

    hf_to_megatron.convert(given.hf, given.output, dtype=given.dtype, workers=given.workers)


if __name__ == "__main__":
    cli.main(command)
