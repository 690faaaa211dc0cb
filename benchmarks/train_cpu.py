"""Is our training as fast as a plain transformers loop, and what does packing gain? On the CPU, one rank, in one run.

    python benchmarks/train_cpu.py --input FILE.jsonl --tokenizer DIR --work DIR [--steps 8]

Both train the same StarCoder of random weights in fp32 on the same packed rows of the real data, with as many threads; then
the plain loop takes documents in random order in batches padded to the longest, which is what packing is compared with.
Documents longer than a row are cut to it, for all. Useful tokens are those of documents; padding is none.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_ft import cli
from megatron_ft.data.loader import Loader
from megatron_ft.data.source import open_views
from megatron_ft.training import run_folder

SLOWER_TARGET, PACKING_TARGET = 1.1, 3.0
ROW_TOKENS = 2048
ROWS_PER_STEP = 2
DOCUMENTS_PER_BATCH = 8
RATE = 1e-4
WARM_UP = 2
"""Steps that are not timed: memory is claimed and caches are filled in them."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="JSONL of instruction rows")
    parser.add_argument("--tokenizer", required=True, type=Path, help="Hugging Face folder of StarCoder's tokenizer")
    parser.add_argument("--work", required=True, type=Path, help="folder for everything that is made; must not exist")
    parser.add_argument("--steps", type=int, default=8, help="timed optimizer steps")
    return parser.parse_args()


def make_model(folder: Path, tokenizer: Path) -> None:
    """A StarCoder of 23 million parameters as a Hugging Face folder."""
    import torch
    from transformers import AutoTokenizer, GPTBigCodeConfig, GPTBigCodeForCausalLM

    torch.manual_seed(1)
    config = GPTBigCodeConfig(vocab_size=49152, n_positions=ROW_TOKENS, n_embd=320, n_layer=6, n_head=5, n_inner=1280,
                              activation_function="gelu_pytorch_tanh", bos_token_id=0, eos_token_id=0)
    GPTBigCodeForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def ours(work: Path, steps: int) -> list[dict]:
    """The metrics of each of our steps."""
    subprocess.run([sys.executable, "-m", "megatron_ft.train", str(work / "config.toml"), f"load.from={work / 'hf'}",
                    f"run.dir={work / 'run'}", f"run.steps={steps}", f"data.train={work / 'data'}", *config(work)],
                   check=True, stdout=sys.stderr)
    return [line for line in run_folder.read(work / "run" / run_folder.METRICS) if "loss" in line]


def config(work: Path) -> list[str]:
    """Overrides of our run; an empty file stands for the rest."""
    (work / "config.toml").write_text("")
    return ["runtime.device=cpu", f"runtime.threads={cli.cores()}", "model.precision=fp32", "model.hidden_dropout=0.0",
            "model.attention_dropout=0.0", f"data.row_tokens={ROW_TOKENS}", f"data.rows_per_step={ROWS_PER_STEP}",
            "data.long_documents=truncate", f"optim.lr={RATE}", f"optim.min_lr={RATE}", "optim.schedule=constant",
            "optim.warmup_steps=0", "validation.every_steps=0", "checkpoint.every_steps=0", "log.every_steps=1",
            "log.tensorboard=false"]


def plain(work: Path, steps: int) -> dict[str, dict[str, float]]:
    """Loss of the last step, seconds a step and useful tokens a second of the plain loop, on packed rows and padded batches."""
    import torch

    from benchmarks import plain_trainer

    torch.set_num_threads(cli.cores())
    views, _ = open_views([str(work / "data")])
    loader = Loader(views, row_tokens=ROW_TOKENS, rows_per_step=ROWS_PER_STEP, seed=1234, on_long="truncate")

    def document(prefix: str, number: int) -> plain_trainer.Document:
        ids, supervised = views[0].dataset.document(number)
        return ids[:ROW_TOKENS + 1], supervised[:ROW_TOKENS + 1]

    rows = [[[document(*name) for name in row] for batch in batches for row in batch.rows]
            for _, batches in zip(range(steps), loader, strict=False)]
    order = random.Random(3).sample(range(len(views[0].dataset.lengths)), steps * DOCUMENTS_PER_BATCH)
    batches = [[document("", number) for number in order[at:at + DOCUMENTS_PER_BATCH]]
               for at in range(0, len(order), DOCUMENTS_PER_BATCH)]
    found = {}
    for name, per_step, passes in (
            ("packed", rows, [[plain_trainer.packed(row, ROW_TOKENS) for row in step] for step in rows]),
            ("padded", [[batch] for batch in batches], [[plain_trainer.padded(batch)] for batch in batches])):
        losses, _, seconds = plain_trainer.train(work / "hf", passes, rates=[RATE] * steps)
        tokens = [sum(len(ids) for row in step for ids, _ in row) for step in per_step]
        found[name] = {"loss": losses[-1], "seconds": statistics.median(seconds[WARM_UP:]),
                       "tokens_per_s": sum(tokens[WARM_UP:]) / sum(seconds[WARM_UP:])}
    return found


def figures(lines: Sequence[dict], plain_loop: dict[str, dict[str, float]]) -> list[tuple[str, float, str, float | None, bool]]:
    """(name, value, unit, target, holds) of everything that was measured."""
    timed = lines[WARM_UP:]
    seconds = statistics.median(line["seconds_per_step"] for line in timed)
    tokens = sum(line["tokens_per_s"] * line["seconds_per_step"] for line in timed)
    rate = tokens / sum(line["seconds_per_step"] for line in timed)
    apart = abs(lines[-1]["loss"] - plain_loop["packed"]["loss"]) / plain_loop["packed"]["loss"]
    slower, gain = seconds / plain_loop["packed"]["seconds"], rate / plain_loop["padded"]["tokens_per_s"]
    return [("step, ours", seconds, "s", None, True),
            ("step, plain loop on the same rows", plain_loop["packed"]["seconds"], "s", None, True),
            ("step against the plain loop's", slower, "ratio", SLOWER_TARGET, slower <= SLOWER_TARGET),
            ("useful tokens per second, ours", rate, "1/s", None, True),
            ("useful tokens per second, plain loop on padded batches", plain_loop["padded"]["tokens_per_s"], "1/s", None, True),
            ("useful tokens per second against padded batches", gain, "ratio", PACKING_TARGET, gain >= PACKING_TARGET),
            ("relative difference of the last loss", apart, "", 1e-4, apart < 1e-4)]


def main() -> int:
    """Run both and print the figures; 1 where one does not hold."""
    given = arguments()
    work = cli.require_absent(given.work, option="--work")
    work.mkdir(parents=True)
    make_model(work / "hf", given.tokenizer)
    subprocess.run([sys.executable, "preprocess/tokenize_sft.py", "--input", given.input, "--output", work / "data",
                    "--tokenizer", given.tokenizer, "--template", "octocoder"], check=True, stdout=sys.stderr)
    steps = given.steps + WARM_UP
    measured = figures(ours(work, steps), plain(work, steps))
    for figure, value, unit, target, holds in measured:
        sys.stdout.write(json.dumps({"benchmark": "train_cpu", "figure": figure, "value": value, "unit": unit, "target": target,
                                     "holds": holds}) + "\n")
    return 0 if all(figure[-1] for figure in measured) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    cli.main(main)
