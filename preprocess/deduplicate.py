"""Every row once: drops rows that repeat an earlier one, or nearly repeat it.

    python preprocess/deduplicate.py --input data.jsonl.zst --output once.jsonl
    python preprocess/deduplicate.py --input data.jsonl.zst --output once.jsonl --method near --threshold 0.85
"""

import argparse

from megatron_ft import cli
from megatron_ft.curation import deduplicate
from megatron_ft.data.kinds import KINDS
from megatron_ft.data.row_arguments import add_input, add_reading


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_input(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="JSONL to write, .jsonl, .jsonl.gz or .jsonl.zst; "
                        "FILE.duplicates.jsonl says which row was dropped for which, FILE.report.json counts")
    parser.add_argument("--method", default="exact", choices=["exact", "near"],
                        help="the same text, or n-grams that are the same for the most part (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.85, metavar="S",
                        help="near: least Jaccard similarity of two rows' n-grams (default: %(default)s)")
    parser.add_argument("--ngram", type=int, default=5, metavar="N", help="near: words in an n-gram (default: %(default)s)")
    parser.add_argument("--fields", nargs="+", default=[], metavar="NAME",
                        help="compare the text of these fields, or of 'all' (default: the example that is trained on)")
    parser.add_argument("--kind", choices=list(KINDS), help="what rows are (default: as their keys say)")
    add_reading(parser, bad_row="a row that cannot be read")
    return parser.parse_args()


def main() -> None:
    """Deduplicate and say how much was dropped."""
    args = arguments()
    recipe = deduplicate.Recipe(method=args.method, threshold=args.threshold, ngram=args.ngram, fields=tuple(args.fields),
                                kind=args.kind, on_bad_row=args.on_bad_row)
    deduplicate.show(deduplicate.run(args.input, args.output, recipe, workers=args.workers, split=args.split))


if __name__ == "__main__":
    cli.main(main)
