"""Say what a folder is: format, family, sizes, TP x PP, dtype, iteration, tensors, next command. See docs/convert.md."""

import argparse

from megatron_ft import cli


def command() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="DIR", help="Hugging Face folder, adapter, checkpoint, checkpoint root or run.dir")
    parser.add_argument("--tensors", action="store_true", help="list every tensor with its shape and dtype")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables, tensors included")
    given = parser.parse_args()
    from megatron_ft.conversion import inspection

    report = inspection.inspect(given.folder)
    if given.json:
        print(report.to_json())
    else:
        report.show(tensors=given.tensors)
    return cli.EXIT_CHECK_FAILED if report.problems else cli.EXIT_OK


if __name__ == "__main__":
    cli.main(command)
