"""Whether a checkpoint and a Hugging Face folder are the same model: files, weights bit for bit, logits. See docs/convert.md.

Exit code 0: equal, 1: different, 2: something cannot be compared.
"""

import argparse
import sys
from pathlib import Path

from megatron_ft import cli
from megatron_ft.conversion import hint_arguments

LAYERS = 2


def command() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf", required=True, type=Path, help="Hugging Face model folder: the reference")
    parser.add_argument("--checkpoint", required=True, type=Path,
                        help="checkpoint root (its latest is taken) or iteration folder")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks; tp * pp processes are started")
    parser.add_argument("--pp", type=int, default=1, help="pipeline stages")
    parser.add_argument("--quick", action="store_true",
                        help="for models that do not fit: all files and weights, but logits of the first layers only")
    parser.add_argument("--layers", type=int, help=f"with --quick: how many layers (default: {LAYERS})")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of logits that counts as equal")
    parser.add_argument("--tokens", type=int, default=256, help="random tokens, in documents of 1, 2, 4, ...")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "auto"], help="for megatron-core")
    parser.add_argument("--workers", type=int, help="weights compared at a time (default: one for each core, eight at most)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write verdict and all numbers there; must not exist")
    hint_arguments.add(parser)
    given = parser.parse_args()
    if given.layers is not None and not given.quick:
        parser.error("--layers goes with --quick")
    if given.quick and given.layers is None:
        given.layers = LAYERS
    from megatron_ft.conversion import verify, verify_ranks

    settings = verify.Settings(
        hf=given.hf, checkpoint=given.checkpoint, tolerance=given.tolerance, tokens=given.tokens, tp=given.tp, pp=given.pp,
        hints=hint_arguments.hints(given), device=given.device,
        layers=given.layers, workers=given.workers)
    try:
        equal = verify.run(settings, output=given.json)
    except verify_ranks.RankError as error:
        sys.stderr.write(f"error: {error}\n")
        return cli.EXIT_FAILED
    return cli.EXIT_OK if equal else cli.EXIT_CHECK_FAILED


if __name__ == "__main__":
    cli.main(command)
