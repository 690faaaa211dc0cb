"""What is in a dataset: its counts, the lengths of its documents, and documents as text, supervised tokens in green.

    python preprocess/inspect_dataset.py PREFIX
    python preprocess/inspect_dataset.py PREFIX --row-tokens 2048 --plot lengths.png
    python preprocess/inspect_dataset.py PREFIX --random 3 --ids
    python preprocess/inspect_dataset.py --documents-from runs/sft/spikes.jsonl
"""

import argparse
import functools
import sys

from megatron_ft import cli, log
from megatron_ft.data import document_list, report, report_plot, report_text
from megatron_ft.data.indexed import Dataset
from megatron_ft.errors import ConfigError, DataError


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", metavar="PREFIX", nargs="?",
                        help="what --output of preprocess/tokenize_sft.py named, or a dataset pair")
    parser.add_argument("--row-tokens", type=int, metavar="N",
                        help="say how many documents do not fit rows of N tokens, and how full packing makes the rows")
    parser.add_argument("--plot", metavar="FILE", help="draw the lengths (.png, .svg or .pdf)")
    parser.add_argument("--document", type=int, nargs="+", default=[], metavar="N", help="show these, counted from 0")
    parser.add_argument("--random", type=int, default=0, metavar="K", help="show K documents drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of --random (default: %(default)s)")
    parser.add_argument("--documents-from", metavar="FILE",
                        help="in place of PREFIX: show the documents that a run's spikes.jsonl names, worst first")
    parser.add_argument("--step", type=int, metavar="N", help="of --documents-from: only those of step N")
    parser.add_argument("--worst", type=int, default=3, metavar="K", help="of --documents-from: K of each step (default: 3)")
    parser.add_argument("--ids", action="store_true", help="show a line per token, with its id")
    parser.add_argument("--colour", "--color", default="auto", choices=report_text.COLOURS,
                        help="green for supervised tokens; else they are in brackets (default: auto, which is green on a "
                             "terminal unless NO_COLOR is set)")
    parser.add_argument("--tokenizer", metavar="PATH",
                        help="the tokenizer that the dataset was made with (default: where it was then)")
    return parser.parse_args()


def main() -> None:
    """Print to stdout."""
    args = arguments()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    if (args.prefix is None) == (args.documents_from is None):
        raise ConfigError("--documents-from: name either a PREFIX or a file of documents by --documents-from, "
                          f"{'not both' if args.prefix else 'one of them'}")
    if args.documents_from is not None:
        if args.row_tokens or args.plot or args.document or args.random:
            raise ConfigError("--documents-from: shows the documents of its file; leave out --row-tokens, --plot, --document "
                              "and --random")
        show_named(args)
        return
    picture = report_plot.require_writable(args.plot) if args.plot else None
    shows = bool(args.document or args.random)
    if args.ids and not shows:
        raise ConfigError("--ids: says how documents are shown; name some by --document or --random")
    dataset, reader = report.open_to_read(args.prefix, args.tokenizer, decodes=shows)
    numbers = report_text.choose(dataset, args.document, at_random=args.random, seed=args.seed)
    if isinstance(dataset, Dataset):
        sys.stdout.write(report.summary(args.prefix, dataset.manifest))
    sys.stdout.write(report.statistics(dataset))
    if args.row_tokens is not None:
        sys.stdout.write(report.fit(dataset, args.row_tokens))
    if not shows:
        blocks = report.BLOCKS if "utf" in sys.stdout.encoding.lower() else " #"
        sys.stdout.write(report.histogram(dataset, blocks=blocks))
    if picture:
        report_plot.plot(dataset, picture, row_tokens=args.row_tokens)
        log.get().info("%s: the lengths of the documents as a picture", picture)
    colour = report_text.has_colour(args.colour)
    for number in numbers:
        sys.stdout.write("\n" + report_text.shown(dataset, number, reader, colour=colour, ids=args.ids))


def show_named(args: argparse.Namespace) -> None:
    """Print the worst documents of each step of a file."""
    opened = functools.cache(lambda prefix: report.open_to_read(prefix, args.tokenizer, decodes=True))
    colour = report_text.has_colour(args.colour)
    for group in document_list.read(args.documents_from, step=args.step):
        sys.stdout.write(f"{group.title}; {len(group.documents):,} documents\n")
        for named in group.documents[:args.worst]:
            dataset, reader = opened(named.prefix)
            if not 0 <= named.number < dataset.documents:
                raise DataError(f"{group.where}: names document {named.number} of {named.prefix}, which has "
                                f"{dataset.documents:,}; it is not the dataset that the run was trained on")
            sys.stdout.write(f"\n{report_text.escaped(named.prefix)}, loss {document_list.written(named.loss)}\n"
                             + report_text.shown(dataset, named.number, reader, colour=colour, ids=args.ids))
        sys.stdout.write("\n")


if __name__ == "__main__":
    cli.main(main)
