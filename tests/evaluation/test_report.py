"""What a run leaves: tables, the harness's files, and a page on which the text of a hostile program stays text."""

from __future__ import annotations

import html.parser
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from megatron_ft.errors import DataError
from megatron_ft.evaluation import page_failures, report
from tests.evaluation import runs
from tests.evaluation.problems import make_problem

HOSTILE = "</script></pre><img src=http://evil/ onerror=alert(1)><svg onload='x'>\x00\x1b[2J\u202e\ud800 &amp; \"'"
PROBLEMS = [make_problem(), make_problem(task_id="Own/1", bug_type="missing logic"), make_problem(task_id="Own/2")]
HALF = {"Own/0": ["failed", "passed"], "Own/1": ["passed", "passed"]}


class Tags(html.parser.HTMLParser):
    """Every element with its attributes, and the text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def hostile(write_benchmark, tmp_path: Path) -> str:
    """The page of a run whose program, reason and output try to be more than text."""
    runs.write(tmp_path / "run", write_benchmark(*PROBLEMS), {"Own/0": ["failed", "passed"], "Own/1": ["timeout", "refused"]},
               program=f"def double(x):\n    return '{HOSTILE}'\n", reason=HOSTILE, printed=HOSTILE, scenario="fixtests")
    return (tmp_path / "run" / "report.html").read_text()


def test_a_hostile_program_stays_text(hostile: str) -> None:
    tags = Tags(hostile)
    assert not {"img", "iframe", "object", "link", "a", "base", "embed"} & {tag for tag, _ in tags.found}
    assert sum(tag == "script" for tag, _ in tags.found) == hostile.count("</script>") == 1
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on") or name in ("src", "href")]
    assert "return '</script></pre><img src=http://evil/ onerror=alert(1)>" in tags.text
    assert "\\x00\\x1b[2J\\u202e\\ud800 &amp; \"'" in tags.text  # what cannot be seen is spelled out
    assert not re.search("[\x00\x1b\u202e]", hostile)


def test_the_page_forbids_itself_to_load_and_to_run_anything_else(hostile: str) -> None:
    (policy,) = [attributes["content"] for _, attributes in Tags(hostile).found if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert hostile.index("Content-Security-Policy") < hostile.index("<style") < hostile.index("<script")
    assert not [1 for _, attributes in Tags(hostile).found if "style" in attributes]  # the policy would drop them


class Counted(http.server.BaseHTTPRequestHandler):
    """A server that nothing should ever ask."""

    asked: list[str] = []

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server looks for
        self.asked.append(self.path)
        self.send_error(404)


def in_browser(page: str, path: Path) -> str:
    """The document as chromium has it after its scripts, with everything that the page asks the network for allowed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no chromium (Debian's package chromium)")
    path.write_text(page)
    return subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path.parent / 'profile'}",
                           "--dump-dom", path.as_uri()], capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
def test_a_browser_loads_nothing_and_runs_the_page_s_own_script_only(hostile: str, tmp_path: Path) -> None:
    page = hostile.replace('<option value="timeout">', '<option value="timeout" selected>')
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    # What a text could do if it were not escaped: the policy stops that too.
    escaped = (f"<img src={place}/img onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
               f"<script src={place}/script></script><iframe src={place}/frame></iframe><style>@import '{place}/css';</style>")
    found = in_browser(page.replace("<h2>Plots", f"{escaped}<h2>Plots", 1), tmp_path / "page.html")
    server.shutdown()
    assert Counted.asked == []
    assert "<title>elsewhere.json</title>" in found
    assert '<form id="filter">' in found and ">1 of 2</output>" in found  # the filter is there, and it filters
    assert found.count('hidden=""') == 1


def test_the_page_says_what_failed_and_what_would_have_been_right(hostile: str) -> None:
    tags = Tags(hostile)
    assert [attributes["data-status"] for tag, attributes in tags.found if tag == "details"] == ["failed", "timeout"]
    for words in ("1 of 2 passed", "0 of 2 passed", "buggy", "generated", "canonical", "return x * 3", "return x * 2",
                  "value misuse"):
        assert words in tags.text


def test_the_page_is_bounded_whatever_programs_write(write_benchmark, tmp_path: Path) -> None:
    many = [make_problem(task_id=f"Own/{number}") for number in range(60)]
    flood = "<" * 1_000_000 + "\n" * 1_000_000
    run = runs.write(tmp_path / "run", write_benchmark(*many), {problem.task_id: ["failed"] for problem in many}, program=flood,
                     reason=flood[:20_000], printed=flood[-2_000:])
    assert (run.path / "report.html").stat().st_size < 1.3 * page_failures.WHOLE_BYTES


def test_what_does_not_fit_is_listed_and_every_scenario_has_its_turn(write_benchmark, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_failures, "WHOLE_FAILURES", 2)
    runs.write(tmp_path / "run", write_benchmark(*PROBLEMS), {problem.task_id: ["failed"] for problem in PROBLEMS},
               scenario="synthesize,fixdocs")
    page = (tmp_path / "run" / "report.html").read_text()
    whole = [attributes["data-scenario"] for tag, attributes in Tags(page).found if tag == "details"]
    assert whole == ["synthesize", "fixdocs"]
    assert "2 of 6 are shown with their programs" in page
    assert page.count('class="line"') == 4


def test_a_diff_has_both_sides_and_ends_early_for_endless_texts() -> None:
    table = page_failures.side_by_side("a\nb\n", "a\nc\nd\n", "old", "new")
    assert "<td>a</td><td>a</td>" in table
    assert "<td class=removed>b</td><td class=added>c</td>" in table
    assert "<td></td><td class=added>d</td>" in table
    assert "more lines" in page_failures.side_by_side("x\n" * 3000, "y\n" * 3000, "", "")


def test_the_same_run_gives_the_same_files(write_benchmark, tmp_path: Path) -> None:
    run = runs.write(tmp_path / "run", write_benchmark(*PROBLEMS), HALF)
    names = ("summary.json", "summary.md", "report.html", "harness/evaluation_results.json")
    before = {name: (run.path / name).read_bytes() for name in names}
    (run.path / "report.html").unlink()
    shutil.rmtree(run.path / "harness")
    report.command([str(run.path)])
    assert {name: (run.path / name).read_bytes() for name in names} == before


def test_a_benchmark_that_is_gone_leaves_a_page_without_its_solutions(write_benchmark, tmp_path: Path) -> None:
    source = write_benchmark(*PROBLEMS)
    run = runs.write(tmp_path / "run", source, {"Own/0": ["failed"]})
    source.rename(tmp_path / "moved.jsonl")
    report.command([str(run.path)])
    page = (run.path / "report.html").read_text()
    assert "return 0" in page and "canonical" not in page
    report.command([str(run.path), "--benchmark", str(tmp_path / "moved.jsonl")])
    assert "canonical" in (run.path / "report.html").read_text()
    write_benchmark(*PROBLEMS[:1])
    report.command([str(run.path)])
    assert "canonical" not in (run.path / "report.html").read_text()


def test_the_table_has_scenarios_down_and_the_k_that_papers_have(write_benchmark, tmp_path: Path) -> None:
    run = runs.write(tmp_path / "run", write_benchmark(*PROBLEMS), {"Own/0": ["failed"] * 12, "Own/1": ["passed"] * 12},
                     scenario="synthesize,fixdocs")
    text = (run.path / "summary.md").read_text()
    assert "| pass@1 | Python |\n| --- | ---: |\n| synthesize | 50.0 (0.0 to 100.0) |\n| fixdocs | 50.0 (" in text
    assert "|  | problems | pass@1 | pass@5 | pass@10 | pass@12 |" in text
    assert "| missing logic | 1 | 100.0 | 100.0 | 100.0 | 100.0 |" in text


def test_the_public_harness_could_have_written_the_files(write_benchmark, tmp_path: Path) -> None:
    run = runs.write(tmp_path / "run", write_benchmark(*PROBLEMS), HALF)
    programs = json.loads((run.path / "harness" / "generations_humanevalsynthesize-python.json").read_text())
    assert programs == [["def double(x):\n    return 0\n", "right"], ["right", "right"]]
    metrics = json.loads((run.path / "harness" / "evaluation_results.json").read_text())
    assert metrics["humanevalsynthesize-python"] == {"pass@1": 0.75, "pass@2": 1.0}
    assert metrics["config"]["n_samples"] == 2 and metrics["config"]["tasks"] == "humanevalsynthesize-python"


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder; name the --output of a finished run"):
        report.command([str(tmp_path / "out")])
    (tmp_path / ".out.partial").mkdir()
    with pytest.raises(DataError, match=".out.partial beside it is unfinished: give its command again"):
        report.command([str(tmp_path / "out")])
    with pytest.raises(DataError, match="run.json: is missing; .* is not the whole --output"):
        report.command([str(tmp_path)])
