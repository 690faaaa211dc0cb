"""What goes to the processes that generate: whether an answer is over, for every language and both modes."""

from __future__ import annotations

import pickle

import pytest

from megatron_ft.evaluation import judging, languages, scenarios
from megatron_ft.evaluation.answering import Completeness
from megatron_ft.evaluation.benchmark import LANGUAGES
from megatron_ft.evaluation.sandbox import Sandbox
from tests.evaluation.problems import make_problem

TEXTS = ["", "    return x * 2\n", "    return x * 2\n\nprint(1)\n", "\n  return x * 2;\n}\n\nint", "\n    }\n}\n\nclass",
         "It doubles x" * 9]


@pytest.mark.parametrize("mode", judging.MODES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_copy_in_another_process_says_what_the_judge_says(language: str, mode: str) -> None:
    judge = judging.MODES[mode](languages.get(language)(Sandbox("none", as_root=False)), "octocoder")
    said = []
    for scenario in ("synthesize", scenarios.DESCRIBED):
        task = scenarios.task(make_problem(docstring="x" * 40), scenario, language, mode=mode)
        copy = pickle.loads(pickle.dumps(Completeness(task, mode, "octocoder")))
        said += [copy(text) for text in TEXTS]
        assert said[-len(TEXTS):] == [judge.is_complete(task, text) for text in TEXTS]
    assert {True, False} == set(said)
