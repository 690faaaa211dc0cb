"""The page of a run holds what its files say, and nothing of it can act on the reader's browser."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ft.config import parse
from megatron_ft.errors import ConfigError
from megatron_ft.training import report_chart, report_page, run_folder, run_record
from megatron_ft.training.report_chart import Mark, Series, chart

EVIL = '</script><script>alert("1")</script><b onclick=x>&amp;'


class Page(html.parser.HTMLParser):
    """Fails where tags are not closed in order; keeps the text, the figures' curves and what a browser would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.curves, self.fetched, self.scripts = "", {}, [], 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.scripts += (tag == "script") + any(name.startswith("on") for name in named)
        if "data-points" in named:
            self.points = json.loads(named["data-points"])
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in {"line", "circle", "polyline"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "figcaption":
            self.curves[self.caption] = {each["name"]: each["at"] for each in self.points}

    def handle_data(self, data):
        if self.open and self.open[-1] == "figcaption":
            self.caption = data
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data + "\n"


def write_run(folder: Path, *, evil: str = "", steps: int = 40, rate: float = 1e-3) -> Path:
    """A run.dir with lines every ten steps, two tags, a resume, a spike and a skipped step."""
    folder.mkdir(parents=True)
    settings = parse({"run": {"dir": str(folder), "steps": steps}, "load": {"from": f"base{evil}"}, "data": {"train": ["mix"]},
                      "optim": {"lr": rate}})
    (folder / run_folder.CONFIG).write_text(settings.to_toml())
    for step in range(0, steps + 1, 10):
        if step:
            run_folder.append(folder / run_folder.METRICS, {
                "step": step, "loss": 100 / step, "lr": rate, "grad_norm": None if step == 20 else 1.5, "mfu": 0.431,
                "tokens_per_s": 1000, "tokens_per_s_per_gpu": 250, "tflops_per_gpu": 141.5, "seconds_per_step": 0.5,
                "data_seconds_per_step": 0.1, "supervised_share": 0.6, "padding_share": 0.05, "memory_bytes": 61.2e9,
                "reserved_bytes": 70e9, "epoch": step / 20, "rows": 8 * step, "skipped_steps": step // 20, "eta_s": 0})
        run_folder.append(folder / run_folder.METRICS, {
            "step": step, "valid_loss": 3 - step / 100, "valid_supervised_tokens": 7,
            "valid": {f"code{evil}": {"loss": 2.5 - step / 100, "supervised_tokens": 3},
                      "chat": {"loss": 3.5, "supervised_tokens": 4}}})
    events = folder / run_folder.EVENTS
    about = {"plan": [f"4 processes = 2 tp x 2 pp{evil}"], "versions": {"torch": "2.13.0", "device": "4 x NVIDIA A100"}}
    run_folder.append(events, {"step": 0, "event": "start", **about})
    run_folder.append(events, {"step": 20, "event": "checkpoint"})
    run_folder.append(events, {"step": 20, "event": "resume", **about})
    run_folder.append(events, {"step": steps, "event": "end", "why": f"done: {steps} steps{evil}", "exit_code": 0})
    for step, reason, loss in ((25, "spike", 9.31), (32, "not finite", None)):
        run_folder.append(folder / run_folder.SPIKES, {
            "step": step, "reason": reason, "loss": loss, "mean_before": 2.8, "documents": [
                {"prefix": f"data/mix{evil}", "document": 17, "loss": loss, "supervised": 5}]})
    whole = folder / "checkpoints" / "iter_0000020"
    whole.mkdir(parents=True)
    for name in ("metadata.json", ".metadata", "common.pt", "megatron_ft.json"):
        (whole / name).write_bytes(b"x" * 250_000)
    (folder / "checkpoints" / "iter_0000040").mkdir()
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("20")
    return folder


def page_of(*folders: Path) -> Page:
    return Page(report_page.page([run_record.read(folder) for folder in folders]))


def test_the_page_holds_what_the_files_say(tmp_path):
    page = page_of(write_run(tmp_path / "sft"))
    assert not page.fetched and page.scripts == 1, "one file, which fetches nothing"
    assert page.curves["Loss"]["training"] == [[step, pytest.approx(place, abs=0.1), value] for step, place, value in (
        (10, 203, "10"), (20, 344, "5"), (30, 485, "3.333"), (40, 626, "2.5"))]
    assert [at[0] for at in page.curves["Loss"]["validation"]] == [0, 10, 20, 30, 40]
    assert {name: at[-1][2] for name, at in page.curves["Validation loss by tag"].items()} == {"code": "2.1", "chat": "3.5"}
    assert [at[0] for at in page.curves["Gradient norm"]["last"]] == [10, 30, 40], "null is left out"
    assert page.curves["MFU"]["last"][0][2] == "43.1"
    assert set(page.curves["Memory"]) == {"used", "reserved"} and page.curves["Memory"]["used"][0][2] == "61.2"
    assert [at[2] for at in page.curves["Skipped steps"]["last"]] == ["0", "1", "1", "2"]
    for words in ("done: 40 steps (exit code 0)", "2.6000; best 2.6000 after step 40", "4 x NVIDIA A100", "43.1%", "resume",
                  "4 processes = 2 tp x 2 pp", "spike\n9.3100\n2.8000\n1\n17 of data/mix (9.3100)", "not finite\n-\n2.8000",
                  f"--documents-from {tmp_path}/sft/spikes.jsonl", "20\n1.0 MB", "complete, the latest", "unfinished: "):
        assert words in page.text, words


def test_the_config_shows_first_what_differs_from_the_defaults(tmp_path):
    text = page_of(write_run(tmp_path / "sft")).text
    changed, _, whole = text.partition("fields, in bold")
    assert re.search(r'optim.lr\n0.001\n5e-05\nPeak learning rate', changed)
    assert "optim.beta2" not in changed and "optim.beta2\n0.95\n0.95" in whole
    assert "model.hidden_dropout\nunset\nunset" in whole


def test_runs_side_by_side(tmp_path):
    page = page_of(write_run(tmp_path / "one"), write_run(tmp_path / "two", rate=2e-3, steps=30))
    assert set(page.curves["Loss"]) == {"one training", "two training", "one validation", "two validation"}
    assert set(page.curves["Validation loss: code"]) == {"one", "two"}
    assert "optim.lr\n0.001\n0.002\n5e-05" in page.text and "step\n40\n30" in page.text
    assert "Events: one" in page.text and "Events: two" in page.text


def test_nothing_out_of_a_file_becomes_markup(tmp_path):
    page = page_of(write_run(tmp_path / f"run{EVIL}".replace("/", ""), evil=EVIL))
    assert page.scripts == 1
    assert page.text.count(EVIL) >= 5, "it is there as text"
    assert f"code{EVIL}" in page.curves["Validation loss by tag"]


def test_a_run_that_goes_on_was_killed_or_has_just_begun(tmp_path):
    folder = write_run(tmp_path / "run")
    for name in (run_folder.METRICS, run_folder.EVENTS, run_folder.SPIKES):
        path = folder / name
        path.write_text(path.read_text()[:-25])  # in the middle of the last line
    page = page_of(folder)
    assert re.search(r"training, heard of \d+ s ago", page.text)
    assert page.curves["Loss"]["training"][-1][0] == 40 and page.curves["Loss"]["validation"][-1][0] == 30
    assert "Steps with a spike" in page.text and "not finite\n-\n" not in page.text
    run_folder.keep(folder / run_folder.EVENTS, up_to_step=40)  # as a process does that goes on
    run_folder.append(folder / run_folder.EVENTS, {"step": 40, "event": "failed", "error": "TrainingError: no"})
    for name in (run_folder.METRICS, run_folder.SPIKES, run_folder.CONFIG):
        (folder / name).unlink()
    page = page_of(folder)
    for words in ("failed (exit code 1): TrainingError: no", "No line of metrics yet.", "no config.toml that can be read"):
        assert words in page.text


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="RUN_DIR: .*none is no folder; name the run.dir"):
        run_record.read(tmp_path / "none")
    with pytest.raises(ConfigError, match="holds no metrics.jsonl and no config.toml; name the run.dir of a training run that"):
        run_record.read(tmp_path)


def test_the_command_writes_the_page_and_replaces_an_older_one(tmp_path):
    folder = write_run(tmp_path / "sft")
    command = [sys.executable, "-m", "megatron_ft.report", str(folder)]
    for _ in range(2):
        ended = subprocess.run(command, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (0, f"{folder}/report.html\n"), ended.stderr
    assert "done: 40 steps" in Page((folder / "report.html").read_text()).text
    subprocess.run([*command, "--output", str(tmp_path / "new" / "a.html")], check=True, capture_output=True)
    assert (tmp_path / "new" / "a.html").is_file()
    refused = subprocess.run([*command, "--output", str(tmp_path / "a.pdf")], capture_output=True, text=True)
    assert refused.returncode == 2 and "--output: " in refused.stderr and "end it in .html" in refused.stderr


def test_places_in_a_chart_are_those_of_the_axes():
    """A value's height follows from the gridlines around it, on a linear and on a logarithmic axis."""
    for values, may_be_log in (([1.0, 4.0, 2.5], False), ([0.01, 8.0, 0.3], True)):
        drawn = chart("t", [Series("a", list(zip([0, 50, 100], values, strict=True)))], may_be_log=may_be_log,
                      marks=[Mark(50, "resume")])
        labels = [(float(value), float(place)) for place, value in
                  re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', drawn)]
        points = [tuple(map(float, place.split(","))) for place in re.search(r' points="([^"]+)"', drawn)[1].split()]
        assert [x for x, _ in points] == pytest.approx([62, 344, 626])
        change = report_chart.math.log if may_be_log else float
        (low, bottom), (high, top) = labels[0], labels[-1]
        for value, (_, y) in zip(values, points, strict=True):
            share = (change(value) - change(low)) / (change(high) - change(low))
            assert y == pytest.approx((bottom - 4) + share * (top - bottom), abs=0.2)
        assert '<line class="mark resume" x1="344.0"' in drawn
    assert chart("t", [Series("a", [])]) == ""
    assert "<circle" in chart("t", [Series("a", [(3, 0.5)])]), "a single point is seen"
