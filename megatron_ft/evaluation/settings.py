"""What one evaluation is asked to do; each field is a command-line option, its text the option's help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields

from megatron_ft.errors import ConfigError
from megatron_ft.evaluation.benchmark import LANGUAGES
from megatron_ft.evaluation.judging import MODES
from megatron_ft.evaluation.model_folder import DEVICES, DTYPES
from megatron_ft.evaluation.prompts import STYLES
from megatron_ft.evaluation.scenarios import ABOUT, DESCRIBED, SCENARIOS
from megatron_ft.evaluation.shards import Shard

SOLUTIONS = ("canonical", "buggy")
BACKENDS = ("transformers", "vllm", "auto")


def option(text: str, default: object = MISSING, *, kind: type = str, choices: Sequence[str] | None = None) -> object:
    """A field with its help text; required when it has no default."""
    return field(default=default, metadata={"help": text, "type": kind, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One evaluation: a model (or the benchmark's own solutions) on one benchmark, in scenarios and languages."""

    benchmark: str = option("HumanEvalPack: a JSONL file of one language, a folder with python.jsonl, js.jsonl ..., or its id "
                            "on the hub; or a file of HumanEval, MBPP, HumanEval+ or MBPP+ (JSON lines, .gz too, or Parquet), "
                            "or the hub's id of it")
    output: str = option("folder to make for samples.jsonl, results.jsonl and summary.json")
    scenario: str = option("what is asked, separated by commas, or all: "
                           + "; ".join(f"{name} ({about})" for name, about in ABOUT.items())
                           + "; left out, synthesize of a benchmark that has no other", default="")
    language: str = option(f"languages of the programs, separated by commas, or all: {', '.join(LANGUAGES)}",
                           default="python")
    mode: str = option("fixed repairs the known faults of the public harness; compat has its rules and verdicts, for numbers "
                       "that compare with papers", default="fixed", choices=tuple(MODES))
    model: str = option("Hugging Face folder or hub id", default="")
    solutions: str = option("score the benchmark's own solutions instead of a model's", default="", choices=SOLUTIONS)
    generations: str = option("score the answers in a file instead: samples.jsonl of a run, generations.json of the public "
                              "harness (one language and scenario), or evalplus' JSONL", default="")
    samples: int = option("samples per problem; of --generations as many as the file has", default=1, kind=int)
    temperature: float = option("0 takes the likeliest token, above 0 samples", default=0.0, kind=float)
    top_p: float = option("share of the probability that is sampled from", default=0.95, kind=float)
    max_new_tokens: int = option("tokens an answer may have", default=512, kind=int)
    batch_size: int = option("samples generated at a time on each device, at most", default=64, kind=int)
    batch_tokens: int = option("positions that they may come to need together: prompts and --max-new-tokens", default=65536,
                               kind=int)
    prompt_style: str = option("wording of the prompt, the template of the training data; left out, octocoder, but in compat "
                               "mode continue for HumanEval, MBPP and their + versions", default="", choices=STYLES)
    seed: int = option("seed of the samples; each one derives its own from it", default=0, kind=int)
    backend: str = option("what generates: transformers; vllm, where it is installed and sees a GPU; auto takes vllm if it can",
                          default="transformers", choices=BACKENDS)
    device: str = option("where the model computes", default="auto", choices=DEVICES)
    devices: int = option("processes that generate, each with the model on a device of its own; 0 is every CUDA device that is "
                          "visible, or one process on the CPU. vllm splits the model over them instead", default=0, kind=int)
    dtype: str = option("in what it computes; auto: bfloat16 on CUDA, float32 on the CPU", default="auto",
                        choices=DTYPES)
    timeout_s: float = option("CPU seconds a program may use, four times as many by the clock; 0 is the language's own",
                              default=0.0, kind=float)
    workers: int = option("programs executed at a time; 0 is one per core", default=0, kind=int)
    limit: int = option("only the first so many problems; 0 is all", default=0, kind=int)
    problems: str = option("only these task ids, separated by commas", default="")
    shard: str = option("i/n: only every n-th task from the i-th (from 0), for n processes; `merge` joins their folders",
                        default="")
    generate_only: bool = option("keep the model's answers and end; the same command without this judges them, here or where "
                                 "programs can be run", default=False, kind=bool)
    fresh: bool = option("run every program, also those whose verdict an earlier run has kept", default=False, kind=bool)
    unsafe: bool = option("run programs without a sandbox where there is none; for throw-away machines", default=False,
                          kind=bool)

    def __post_init__(self) -> None:
        given = [flag(name) for name in ("model", "solutions", "generations") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigError("--model, --solutions, --generations: exactly one of them is needed, "
                              f"{' and '.join(given) or 'none'} given")
        if self.generate_only and not self.model:
            raise ConfigError(f"--generate-only: {given[0]} has the answers already; it goes with --model")
        least_of = {"samples": 1, "max_new_tokens": 1, "batch_size": 1, "batch_tokens": 1, "devices": 0, "workers": 0,
                    "limit": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{flag(name)}: {getattr(self, name)} is too small; use {least} or more")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(f"--temperature, --top-p: {self.temperature:g} and {self.top_p:g} cannot be sampled "
                              "with; use a temperature of 0 or more and a top-p above 0 and up to 1")
        if self.timeout_s < 0:
            raise ConfigError(f"--timeout-s: {self.timeout_s:g} leaves a program no time; use more, or 0 for the usual")
        if self.scenario:
            _chosen("scenario", self.scenario, SCENARIOS)
        _chosen("language", self.language, tuple(LANGUAGES))
        if self.scenario == DESCRIBED and not self.model:
            raise ConfigError(f"--scenario: {DESCRIBED} alone gives no program to score; use {', '.join(SCENARIOS[:3])} or "
                              "explainsynthesize")
        Shard.parse(self.shard)
        if self.samples > 1 and self.temperature == 0 and self.model:
            raise ConfigError(f"--samples: {self.samples} samples at temperature 0 would all be the same; use "
                              "--samples 1 or --temperature 0.2")
        if self.samples > 1 and self.solutions:
            raise ConfigError(f"--samples: a benchmark has one {self.solutions} solution per problem; use 1")

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Those of --scenario."""
        return _chosen("scenario", self.scenario, SCENARIOS)

    @property
    def languages(self) -> tuple[str, ...]:
        """Those of --language."""
        return _chosen("language", self.language, tuple(LANGUAGES))


def _chosen(name: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The values of a list, in their usual order; ConfigError for what is unknown.

    >>> _chosen("language", "rust, python", ("python", "go", "rust"))
    ('python', 'rust')
    """
    if text == "all":
        return known
    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in names if part not in known]
    if unknown or not names:
        raise ConfigError(f"{flag(name)}: '{', '.join(unknown) or text}' is unknown; use one or more of "
                          f"{', '.join(known)}, or all")
    return tuple(part for part in known if part in names)


def flag(name: str) -> str:
    """The option of a field.

    >>> flag("top_p")
    '--top-p'
    """
    return "--" + name.replace("_", "-")


class _Help(argparse.HelpFormatter):
    """Keeps the lines of the epilog."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def parse(argv: Sequence[str] | None = None, *, epilog: str = "") -> Settings:
    """Settings from a command line; `epilog` is what its help ends with."""
    parser = argparse.ArgumentParser(prog="python -m megatron_ft.evaluate", allow_abbrev=False, epilog=epilog, description=(
        "Generate answers to a benchmark's problems, execute them in a sandbox, and report pass@k."),
        formatter_class=_Help)
    for entry in fields(Settings):
        text, kind, choices = (entry.metadata[key] for key in ("help", "type", "choices"))
        required = entry.default is MISSING
        if kind is bool:
            parser.add_argument(flag(entry.name), action="store_true", help=text)
            continue
        shown = text if required or entry.default == "" else f"{text} (default: {entry.default})"
        parser.add_argument(flag(entry.name), type=kind, choices=choices, required=required, help=shown,
                            default=None if required else entry.default)
    return Settings(**vars(parser.parse_args(argv)))
