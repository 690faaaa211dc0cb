"""Commits that read as instructions, out of all commits (JSONL, Parquet ...), by CommitPackFT's rules or your own.

    python preprocess/filter_commits.py --input commits.jsonl.zst --output kept.jsonl --tokenizer DIR
    python preprocess/filter_commits.py --list-rules > rules.toml      # to change, for --rules rules.toml
"""

import argparse
import sys

from megatron_ft import cli
from megatron_ft.curation import commit_rules_file, filter_commits
from megatron_ft.data.row_arguments import add_input, add_reading


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_input(parser, required=False,
              rows="rows with old_contents, new_contents, subject or message, and perhaps new_file and lang")
    parser.add_argument("--output", metavar="FILE", help="JSONL to write, .jsonl, .jsonl.gz or .jsonl.zst; "
                        "FILE.report.json says what was dropped and why")
    parser.add_argument("--rules", metavar="FILE", help="TOML that switches rules off, changes and adds them")
    parser.add_argument("--list-rules", action="store_true", help="print the rules that are on, as TOML, and stop")
    parser.add_argument("--tokenizer", metavar="PATH", help="Hugging Face folder, tokenizer.json or SentencePiece .model, for "
                        "the rule token_length")
    parser.add_argument("--rejected", metavar="FILE", help="JSONL of the dropped rows, each with its rule and source")
    add_reading(parser, bad_row="a row that is no commit")
    args = parser.parse_args()
    if not args.list_rules and not (args.input and args.output):
        parser.error("the following arguments are required: --input, --output")
    return args


def main() -> None:
    """Filter, or list the rules."""
    args = arguments()
    rules = commit_rules_file.load(args.rules)
    if args.list_rules:
        sys.stdout.write(commit_rules_file.to_toml(rules))
        return
    filter_commits.show(filter_commits.run(args.input, args.output, rules, tokenizer_path=args.tokenizer, workers=args.workers,
                                           on_bad_row=args.on_bad_row, rejected=args.rejected, split=args.split))


if __name__ == "__main__":
    cli.main(main)
