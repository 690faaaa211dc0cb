"""What is in a dataset: its counts, and with --document a document as text, supervised tokens in green.

    python preprocess/inspect_dataset.py PREFIX --document 7 --tokenizer DIR
"""

import argparse
import sys

from megatron_ft import cli
from megatron_ft.data import tokenizer
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.report import coloured, summary
from megatron_ft.errors import ConfigError


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", metavar="PREFIX", help="what --output of preprocess/tokenize_sft.py named")
    parser.add_argument("--document", type=int, metavar="N", help="show this one, counted from 0")
    parser.add_argument("--tokenizer", metavar="PATH", help="the tokenizer that the dataset was made with")
    return parser.parse_args()


def main() -> None:
    """Print to stdout."""
    args = arguments()
    dataset = open_dataset(args.prefix)
    sys.stdout.write(summary(args.prefix, dataset.manifest))
    if args.document is not None:
        if args.tokenizer is None:
            raise ConfigError("--document: needs --tokenizer to turn ids into text")
        sys.stdout.write(coloured(dataset, args.document, tokenizer.load(args.tokenizer)))


if __name__ == "__main__":
    cli.main(main)
