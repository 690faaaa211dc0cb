"""Convert a Megatron checkpoint of any TP x PP x DP into a Hugging Face folder. See docs/convert.md."""

import argparse
from pathlib import Path

from megatron_ft import cli
from megatron_ft.conversion import hint_arguments


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint root (its latest is taken) or iteration folder")
    parser.add_argument("--output", required=True, help="Hugging Face folder to make; must not exist")
    parser.add_argument("--dtype", default="keep", help="of the written weights: keep, float32, bfloat16, float16")
    parser.add_argument("--max-shard-size", default="5GB", help="largest weights file, e.g. 5GB or 500MiB")
    parser.add_argument("--workers", type=int, help="tensors at a time (default: one for each core, eight at most)")
    parser.add_argument("--evaluation", type=Path, nargs="*", default=[], metavar="DIR",
                        help="what the evaluator has written, for the model card")
    hint_arguments.add(parser)
    parser.add_argument("--lora", choices=["merged", "adapter"],
                        help="of a LoRA checkpoint: a whole model with the adapters added to its base, or a PEFT folder")
    parser.add_argument("--base", help="with --lora: the base model, Hugging Face folder or checkpoint (default: the run's)")
    given = parser.parse_args()
    if given.base and not given.lora:
        parser.error("--base goes with --lora")
    from megatron_ft.conversion import lora_to_hf, megatron_to_hf

    options = megatron_to_hf.Options(dtype=given.dtype, max_shard_size=given.max_shard_size, workers=given.workers,
                                     evaluations=tuple(given.evaluation))
    if given.lora:
        lora_to_hf.convert(given.checkpoint, given.output, options, form=given.lora, base=given.base)
    else:
        megatron_to_hf.convert(given.checkpoint, given.output, options, hints=hint_arguments.hints(given))


if __name__ == "__main__":
    cli.main(command)
