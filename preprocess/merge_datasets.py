"""Several datasets into one: OUTPUT.bin, OUTPUT.idx and OUTPUT.json. Ids are copied, not made again.

    python preprocess/merge_datasets.py --input 'parts/mix-*' --output data/mix

Shards of one build (tokenize_sft.py --shard) must be all there, and give what the build gives without shards.
"""

import argparse
import sys

from megatron_ft import cli
from megatron_ft.data.merge import merge
from megatron_ft.data.report import summary


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", required=True, metavar="PREFIX",
                        help="prefixes or globs; shards in any order, other datasets in the order that they shall have")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="where to write PREFIX.bin, .idx and .json")
    return parser.parse_args()


def main() -> None:
    """Merge and say what came of it."""
    args = arguments()
    sys.stdout.write(summary(args.output, merge(args.input, args.output)))


if __name__ == "__main__":
    cli.main(main)
