"""Instruction data into a dataset to train on: OUTPUT.bin, OUTPUT.idx and OUTPUT.json.

    python preprocess/tokenize_sft.py --input data.jsonl --output data/mix --tokenizer DIR --template octocoder

Started again after an interruption, the same command goes on where it was. docs/data.md says what rows may look like.
"""

import argparse
import sys

from megatron_ft import cli
from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe
from megatron_ft.data.fim import FIM_LOSS, from_options
from megatron_ft.data.inputs import Shard
from megatron_ft.data.kinds import KINDS
from megatron_ft.data.render import LOSS_ON
from megatron_ft.data.report import summary
from megatron_ft.data.row_arguments import add_input, add_reading
from megatron_ft.data.templates import NAMES


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_input(parser)
    parser.add_argument("--output", required=True, metavar="PREFIX", help="where to write PREFIX.bin, .idx and .json")
    parser.add_argument("--tokenizer", required=True, metavar="PATH",
                        help="Hugging Face folder, tokenizer.json or SentencePiece .model of the model to be trained")
    parser.add_argument("--template", choices=NAMES, metavar="NAME",
                        help=f"wording: {', '.join(NAMES)}; chat is the tokenizer's own (default: octocoder; of texts, plain)")
    parser.add_argument("--kind", choices=list(KINDS),
                        help="what rows are (default: what each row's keys say)")
    parser.add_argument("--loss-on", default="answers", choices=LOSS_ON,
                        help="which tokens are supervised (default: %(default)s)")
    add_reading(parser, bad_row="a row that is no example")
    parser.add_argument("--max-length", type=int, metavar="N", help="longest document in tokens (default: any)")
    parser.add_argument("--on-long", default="stop", choices=["stop", "drop", "truncate"],
                        help="a document beyond --max-length (default: %(default)s)")
    fim = parser.add_argument_group("fill-in-the-middle, for texts (--kind text)")
    fim.add_argument("--fim-rate", type=float, metavar="R", help="share of the texts that are cut (default: 0)")
    fim.add_argument("--fim-spm-rate", type=float, metavar="R",
                     help="of these, the share in the order suffix, prefix, middle; the others: prefix first (default: 0.5)")
    fim.add_argument("--fim-seed", type=int, metavar="N", help="decides which texts are cut, and where (default: 0)")
    fim.add_argument("--fim-tokens", nargs="+", metavar="TOKEN",
                     help="PREFIX MIDDLE SUFFIX and perhaps the one that ends a middle (default: as the tokenizer's names say)")
    fim.add_argument("--fim-loss", choices=FIM_LOSS,
                     help="what of a text that is cut is supervised: all, or the middle and its end (default: all)")
    parser.add_argument("--shard", type=Shard.parse, default=Shard(), metavar="i/n",
                        help="only this stretch of the input, i from 0 to n - 1; merge_datasets.py joins them")
    parser.add_argument("--encoder", default="auto", choices=["auto", "reference"],
                        help="auto encodes by gigatoken where it gives the reference's ids (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Build the dataset and say what is in it."""
    args = arguments()
    fim = from_options(args.fim_rate, spm_rate=args.fim_spm_rate, seed=args.fim_seed, tokens=args.fim_tokens,
                       loss=args.fim_loss)
    template = args.template or ("plain" if args.kind == "text" else "octocoder")
    recipe = Recipe(tokenizer=args.tokenizer, template=template, kind=args.kind, loss_on=args.loss_on,
                    on_bad_row=args.on_bad_row, max_length=args.max_length, on_long=args.on_long, fim=fim)
    manifest = build(args.input, args.output, recipe, workers=args.workers, shard=args.shard, split=args.split,
                     encoder=args.encoder)
    sys.stdout.write(summary(args.output, manifest))


if __name__ == "__main__":
    cli.main(main)
