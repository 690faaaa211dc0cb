"""Do two layouts train the same model on real data? Tokenizes, trains at TP2 x PP2 and at DP2, compares the curves.

    python benchmarks/layouts_real_data.py --input FILE.jsonl --tokenizer DIR --work DIR [--steps 200]

The model is a StarCoder of about 10 million parameters with random weights; every command is the user's own.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from megatron_ft import cli
from megatron_ft.training import run_folder

LAYOUTS = {"tp2pp2": (4, ["parallel.tp=2", "parallel.pp=2", "parallel.sequence_parallel=true"]), "dp2": (2, [])}
ROW_TOKENS, ROWS_PER_STEP = 512, 4
TOLERANCE = 1e-4  # fp32 sums in another order, grown over the whole run


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="JSONL of instruction rows")
    parser.add_argument("--tokenizer", required=True, type=Path, help="Hugging Face folder of StarCoder's tokenizer")
    parser.add_argument("--work", required=True, type=Path, help="folder for everything that is made; must not exist")
    parser.add_argument("--steps", type=int, default=200)
    return parser.parse_args()


def run(*command: object) -> float:
    """Run a command of ours, loudly; seconds it took."""
    words = [str(word) for word in command]
    sys.stderr.write(f"$ {' '.join(words)}\n")
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True)
    return time.perf_counter() - started


def shuffled(source: Path, target: Path) -> Path:
    """The rows in a fixed random order, so that the held-out range is like the rest."""
    rows = source.read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(5).shuffle(rows)
    target.write_text("".join(rows), encoding="utf-8")
    return target


def make_model(folder: Path, tokenizer: Path) -> None:
    """A StarCoder of 9.9 million parameters as a Hugging Face folder."""
    import torch
    from transformers import AutoTokenizer, GPTBigCodeConfig, GPTBigCodeForCausalLM

    torch.manual_seed(1)
    config = GPTBigCodeConfig(vocab_size=49152, n_positions=1024, n_embd=160, n_layer=6, n_head=4, n_inner=640,
                              bos_token_id=0, eos_token_id=0)
    GPTBigCodeForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def train(name: str, work: Path, steps: int) -> tuple[list[dict], float]:
    """One layout's metrics and wall time."""
    ranks, overrides = LAYOUTS[name]
    data = work / "data"
    seconds = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "-m", "megatron_ft.train",
                  work / "config.toml", f"load.from={work / 'base'}", f"run.dir={work / name}", f"run.steps={steps}",
                  f"data.train=['0:0.95 {data}']", f"data.valid=['0.95:1 {data}']", *overrides)
    return run_folder.read(work / name / run_folder.METRICS), seconds


def config_text() -> str:
    """What both layouts share."""
    return (f'[runtime]\ndevice = "cpu"\n[model]\nprecision = "fp32"\nhidden_dropout = 0.0\nattention_dropout = 0.0\n'
            f"[data]\nrow_tokens = {ROW_TOKENS}\nrows_per_step = {ROWS_PER_STEP}\nlong_documents = \"truncate\"\n"
            "[optim]\nlr = 4e-4\nmin_lr = 4e-5\nwarmup_fraction = 0.1\n[log]\nevery_steps = 1\n"
            "[validation]\nevery_steps = 50\nmax_steps = 8\n[checkpoint]\nevery_steps = 0\n")


def main() -> int:
    """Run both layouts and print the figures; 1 where one does not hold."""
    given = arguments()
    work = cli.require_absent(given.work, option="--work")
    work.mkdir(parents=True)
    make_model(work / "hf", given.tokenizer)
    (work / "config.toml").write_text(config_text())
    run("preprocess/tokenize_sft.py", "--input", shuffled(given.input, work / "rows.jsonl"), "--output", work / "data",
        "--tokenizer", given.tokenizer, "--template", "octocoder")
    run("convert/hf_to_megatron.py", "--hf", work / "hf", "--output", work / "base")
    results = {name: train(name, work, given.steps) for name in LAYOUTS}
    curves = {name: [line["loss"] for line in lines if "loss" in line] for name, (lines, _) in results.items()}
    valid = {name: [line["valid_loss"] for line in lines if "valid_loss" in line] for name, (lines, _) in results.items()}
    apart = max(abs(one - other) / one for one, other in zip(*curves.values(), strict=True))
    figures = [("steps compared", len(curves["dp2"]), "steps", given.steps, len(curves["dp2"]) == given.steps),
               ("largest relative difference of the training loss", apart, "", TOLERANCE, apart < TOLERANCE)]
    for name, losses in valid.items():
        figures.append((f"validation loss, {name}, before", losses[0], "nats/token", None, True))
        figures.append((f"validation loss, {name}, after", losses[-1], "nats/token", losses[0], losses[-1] < losses[0]))
        figures.append((f"wall time, {name}", results[name][1], "s", None, True))
    for figure, value, unit, target, holds in figures:
        sys.stdout.write(json.dumps({"benchmark": "layouts_real_data", "figure": figure, "value": value, "unit": unit,
                                     "target": target, "holds": holds}) + "\n")
    return 0 if all(figure[-1] for figure in figures) else 1


if __name__ == "__main__":
    cli.main(main)
