"""Convert a Megatron checkpoint of any TP x PP x DP into a Hugging Face folder. See docs/convert.md."""

import argparse
from pathlib import Path

from megatron_ft import cli


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint root (its latest is taken) or iteration folder")
    parser.add_argument("--output", required=True, help="Hugging Face folder to make; must not exist")
    parser.add_argument("--dtype", default="keep", help="of the written weights: keep, float32, bfloat16, float16")
    parser.add_argument("--max-shard-size", default="5GB", help="largest weights file, e.g. 5GB or 500MiB")
    parser.add_argument("--workers", type=int, help="tensors at a time (default: one for each core, eight at most)")
    parser.add_argument("--evaluation", type=Path, nargs="*", default=[], metavar="DIR",
                        help="what the evaluator has written, for the model card")
    parser.add_argument("--config", type=Path, help="of another Megatron's checkpoint: Hugging Face folder with the model's "
                        "config.json and tokenizer")
    parser.add_argument("--vocab-size", type=int, help="of the tokenizer, where neither --config nor the checkpoint say it")
    parser.add_argument("--family", help="where the checkpoint's arguments fit several")
    parser.add_argument("--lora", choices=["merged", "adapter"],
                        help="of a LoRA checkpoint: a whole model with the adapters added to its base, or a PEFT folder")
    parser.add_argument("--base", help="with --lora: the base model, Hugging Face folder or checkpoint (default: the run's)")
    given = parser.parse_args()
    if given.base and not given.lora:
        parser.error("--base goes with --lora")
    from megatron_ft.conversion import lora_to_hf, megatron_to_hf
    from megatron_ft.conversion.opening import Hints

    options = megatron_to_hf.Options(dtype=given.dtype, max_shard_size=given.max_shard_size, workers=given.workers,
                                     evaluations=tuple(given.evaluation))
    if given.lora:
        lora_to_hf.convert(given.checkpoint, given.output, options, form=given.lora, base=given.base)
    else:
        hints = Hints(config=given.config, vocabulary=given.vocab_size, family=given.family)
        megatron_to_hf.convert(given.checkpoint, given.output, options, hints=hints)


if __name__ == "__main__":
    cli.main(command)
