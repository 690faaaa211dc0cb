"""Convert any Megatron checkpoint into one that loads at any TP x PP, or into legacy folders. See docs/convert.md."""

import argparse

from megatron_ft import cli
from megatron_ft.conversion import hint_arguments


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint root (its latest is taken) or iteration folder")
    parser.add_argument("--output", required=True, help="checkpoint root to make; must not exist")
    parser.add_argument("--dtype", default="keep", help="of the stored weights: keep, float32, bfloat16, float16")
    parser.add_argument("--workers", type=int, help="tensors at a time (default: one for each core, eight at most)")
    hint_arguments.add(parser)
    parser.add_argument("--layout", default="torch_dist", help="of the output: torch_dist, or the legacy folders of nvidia, "
                        "bigcode, megatron-llm or core (megatron-core's --ckpt-format torch)")
    parser.add_argument("--tp", type=int, default=1, help="of legacy folders: tensor-parallel ranks")
    parser.add_argument("--pp", type=int, default=1, help="of legacy folders: pipeline stages")
    given = parser.parse_args()
    from megatron_ft.conversion import to_legacy, to_torch_dist

    hints = hint_arguments.hints(given)
    if given.layout == "torch_dist":
        to_torch_dist.convert(given.checkpoint, given.output, dtype=given.dtype, workers=given.workers, hints=hints)
    else:
        to_legacy.convert(given.checkpoint, given.output, dialect=given.layout, tp=given.tp, pp=given.pp, dtype=given.dtype,
                          hints=hints)


if __name__ == "__main__":
    cli.main(command)
