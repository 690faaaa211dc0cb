"""Instruction data (JSONL) into a dataset to train on: OUTPUT.bin, OUTPUT.idx and OUTPUT.json.

    python preprocess/tokenize_sft.py --input data.jsonl --output data/mix --tokenizer DIR --template octocoder
"""

import argparse
import sys

from megatron_ft import cli
from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe
from megatron_ft.data.report import summary
from megatron_ft.data.templates import TEMPLATES


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", required=True, metavar="FILE",
                        help="JSONL files with inputs/outputs, inputs/targets or prompt/completion in every row")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="where to write PREFIX.bin, .idx and .json")
    parser.add_argument("--tokenizer", required=True, metavar="PATH",
                        help="Hugging Face folder, tokenizer.json or SentencePiece .model of the model to be trained")
    parser.add_argument("--template", default="octocoder", choices=list(TEMPLATES),
                        help="wording (default: %(default)s)")
    parser.add_argument("--on-bad-row", default="stop", choices=["stop", "skip"],
                        help="a row that is no example: stop with its line, or count it (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--max-length", type=int, metavar="N", help="longest document in tokens (default: any)")
    parser.add_argument("--on-long", default="stop", choices=["stop", "drop", "truncate"],
                        help="a document beyond --max-length (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Build the dataset and say what is in it."""
    args = arguments()
    recipe = Recipe(tokenizer=args.tokenizer, template=args.template, on_bad_row=args.on_bad_row,
                    max_length=args.max_length, on_long=args.on_long)
    sys.stdout.write(summary(args.output, build(args.input, args.output, recipe, workers=args.workers)))


if __name__ == "__main__":
    cli.main(main)
