"""The evaluator in a job: its boxes come up, hold, and give their verdicts."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.evaluation.problems import make_problem

pytestmark = pytest.mark.cluster

EVALUATE = shlex.join([sys.executable, "-m", "megatron_ft.evaluate"])


def test_programs_are_judged_in_a_job(cluster, tmp_path):
    rows = [make_problem(task_id=f"Python/{number}", canonical_solution=f"    return x * {number}\n",
                         buggy_solution="    return x\n", test=f"assert double(3) == {3 * number}") for number in (2, 4, 5)]
    benchmark = tmp_path / "python.jsonl"
    benchmark.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    runs = " && ".join(f"{EVALUATE} --benchmark {benchmark} --scenario fixtests --solutions {solutions} --fresh "
                       f"--output {tmp_path / solutions}" for solutions in ("canonical", "buggy"))
    job = cluster.sbatch("--cpus-per-task=2", "--wrap", f"srun {EVALUATE} doctor --language python && {runs}", cwd=tmp_path,
                         environment={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert cluster.wait(job, timeout_s=300) == {"": "COMPLETED"}, (tmp_path / f"slurm-{job}.out").read_text()
    assert "works" in (tmp_path / f"slurm-{job}.out").read_text()
    verdicts = {solutions: [json.loads(line)["status"] for line in (tmp_path / solutions / "results.jsonl").open()]
                for solutions in ("canonical", "buggy")}
    assert verdicts == {"canonical": ["passed"] * 3, "buggy": ["failed"] * 3}
    sandbox = json.loads((tmp_path / "canonical" / "summary.json").read_text())["sandbox"]
    assert sandbox["tool"] in ("bubblewrap", "unshare")
    assert sandbox["described"] in (tmp_path / "canonical" / "summary.md").read_text()
