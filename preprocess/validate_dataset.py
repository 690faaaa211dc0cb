"""Is a dataset whole, and can it be trained on? Every check that training makes, and those that take reading all of it.

    python preprocess/validate_dataset.py data/mix --tokenizer DIR --row-tokens 2048
    python preprocess/validate_dataset.py '0:0.95 data/mix' data/more

Exit code 0: no check failed (warnings do not count); 1: a check failed; 2: there is no such dataset.
"""

import argparse
import json
import sys

from megatron_ft import cli
from megatron_ft.data import tokenizer
from megatron_ft.data.validate import to_json, to_text, validate


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefixes", nargs="+", metavar="PREFIX",
                        help="datasets, as data.train names them; several are also checked against one another")
    parser.add_argument("--tokenizer", metavar="PATH",
                        help="the model's tokenizer; checks that it made the datasets, and how documents begin and decode")
    parser.add_argument("--row-tokens", type=int, metavar="N", help="count the documents that do not fit rows of N tokens")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    return parser.parse_args()


def main() -> int:
    """Print the verdict to stdout; the exit code."""
    args = arguments()
    reader = tokenizer.load(args.tokenizer) if args.tokenizer else None
    verdicts = validate(args.prefixes, reader=reader, row_tokens=args.row_tokens)
    sys.stdout.write(json.dumps(to_json(verdicts), indent=2) + "\n" if args.json else to_text(verdicts))
    return cli.EXIT_OK if all(verdict.ok for verdict in verdicts) else cli.EXIT_CHECK_FAILED


if __name__ == "__main__":
    cli.main(main)
