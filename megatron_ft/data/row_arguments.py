"""The arguments that every command on rows has."""

from __future__ import annotations

import argparse

from megatron_ft import cli


def add_input(parser: argparse.ArgumentParser, *, required: bool = True, rows: str = "") -> None:
    """--input; `rows` says what its rows must have."""
    parser.add_argument("--input", nargs="+", required=required, metavar="PATH",
                        help="JSONL (.gz, .zst) or Parquet files, folders, globs, folders of datasets' save_to_disk, hub ids"
                             + (f"; {rows}" if rows else ""))


def add_reading(parser: argparse.ArgumentParser, *, bad_row: str) -> None:
    """--on-bad-row, --split, --workers; `bad_row` says what a bad row is here."""
    parser.add_argument("--on-bad-row", default="stop", choices=["stop", "skip"],
                        help=f"{bad_row}: stop with its line, or count it (default: %(default)s)")
    parser.add_argument("--split", default="train", metavar="NAME",
                        help="which split of a saved or hub dataset (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=cli.cores(), metavar="N",
                        help="processes (default: the cores that this one may use, here %(default)s)")
