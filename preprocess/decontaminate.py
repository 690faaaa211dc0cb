"""Training data without the benchmark: drops rows that hold a problem's solution, docstring or test.

    python preprocess/decontaminate.py --input data.jsonl --output clean.jsonl --benchmark humanevalpack/
"""

import argparse

from megatron_ft import cli
from megatron_ft.curation import decontaminate
from megatron_ft.curation.benchmark_index import FIELDS, HUMANEVALPACK, Settings
from megatron_ft.data.row_arguments import add_input, add_reading


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_input(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="JSONL to write, .jsonl, .jsonl.gz or .jsonl.zst; "
                        "FILE.report.json says what was dropped and what was in it")
    parser.add_argument("--benchmark", nargs="+", default=list(HUMANEVALPACK), metavar="PATH",
                        help="what must not be in the data: HumanEvalPack's JSONL, one file a language, or another's "
                        "(default: HumanEvalPack from the Hugging Face hub, which needs a network or the hub's cache)")
    parser.add_argument("--fields", nargs="+", default=list(FIELDS), metavar="NAME",
                        help="the benchmark's fields to look for (default: %(default)s)")
    parser.add_argument("--ngram", type=int, default=Settings.ngram, metavar="N",
                        help="words in an n-gram (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=Settings.threshold, metavar="S",
                        help="least share of a text's n-grams in a row (default: %(default)s)")
    parser.add_argument("--min-words", type=int, default=Settings.min_words, metavar="N",
                        help="shorter texts of the benchmark are not looked for (default: %(default)s)")
    add_reading(parser, bad_row="a row that cannot be read")
    return parser.parse_args()


def main() -> None:
    """Decontaminate and say what was found."""
    args = arguments()
    settings = Settings(tuple(args.benchmark), tuple(args.fields), args.ngram, args.threshold,
                        args.min_words)
    decontaminate.show(decontaminate.run(args.input, args.output, settings, workers=args.workers,
                                         on_bad_row=args.on_bad_row, split=args.split))


if __name__ == "__main__":
    cli.main(main)
