"""Generation with a tiny random model: what a row gets does not depend on the rows beside it."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from megatron_ft.data.templates import Segment
from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import decoding, model_folder
from megatron_ft.evaluation.batching import Completion, Request, Row, Sampling, batches
from megatron_ft.evaluation.completing import OneDevice
from megatron_ft.evaluation.generation import Meter, Report, generate
from megatron_ft.evaluation.model_folder import Model
from tests.evaluation import tiny

GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=20, seed=0)
SAMPLED = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=20, seed=3)
PROMPTS = ["def", "def double(x):\n", "Question: Write a Python function that gives\n\nAnswer:\n", "    return x",
           "if x"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return model_folder.load(str(folder), device="cpu", dtype="auto")


def request_of(text: str, key: str = "Own/9", sample: int = 0) -> Request:
    return Request(key, sample, Segment((text,), supervised=False), lambda text: False)


def requests(samples: int = 1) -> list[Request]:
    return [request_of(text, f"Own/{number}", sample)
            for number, text in enumerate(PROMPTS) for sample in range(samples)]


def run(model: Model, wanted: list[Request], chosen: Sampling, size: int) -> list[Completion]:
    return with_report(model, wanted, chosen, size)[0]


def with_report(model: Model, wanted: list[Request], chosen: Sampling, size: int) -> tuple[list[Completion], Report]:
    kept: dict[tuple[str, int], Completion] = {}
    report = generate(OneDevice(model, size, 10**9), wanted, chosen,
                      lambda request, done: kept.update({(request.key, request.sample): done}))
    return [kept[request.key, request.sample] for request in wanted], report


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_batched_equals_one_by_one(model: Model, chosen: Sampling) -> None:
    wanted = requests(1 if chosen is GREEDY else 2)
    alone = run(model, wanted, chosen, 1)
    assert run(model, wanted, chosen, 3) == alone
    assert run(model, wanted, chosen, 16) == alone
    assert len({completion.text for completion in alone}) > 3


def test_greedy_is_what_a_plain_loop_gives(model: Model) -> None:
    for request, completion in zip(requests(), run(model, requests(), GREEDY, 4), strict=True):
        ids = model.tokenizer(request.prompt.text)["input_ids"]
        new: list[int] = []
        while len(new) < GREEDY.max_new_tokens and 0 not in new:
            with torch.no_grad():
                new.append(int(model.network(torch.tensor([ids + new])).logits[0, -1].argmax()))
        assert completion.tokens == len(new)
        assert completion.text == model.tokenizer.decode([number for number in new if number])


def test_samples_of_one_problem_differ_and_repeat_with_their_seed(model: Model) -> None:
    wanted = [request_of("def", "Own/0", sample) for sample in range(6)]
    first = run(model, wanted, SAMPLED, 6)
    assert len({completion.text for completion in first}) > 3
    assert run(model, wanted[2:4], SAMPLED, 2) == first[2:4]
    assert run(model, wanted, Sampling(1.0, 0.95, 20, seed=4), 6) != first


def test_an_answer_ends_when_the_rest_would_be_cut(model: Model) -> None:
    whole = run(model, requests(), GREEDY, 4)
    ended = run(model, [dataclasses.replace(each, is_complete=lambda text: len(text) > 5) for each in requests()], GREEDY, 4)
    for long, short in zip(whole, ended, strict=True):
        assert short.finish == "stop" or short == long
        assert long.text.startswith(short.text)
    assert any(completion.finish == "stop" and completion.tokens == 8 for completion in ended)


def test_a_row_without_room_gets_what_is_left_whatever_is_beside_it(model: Model) -> None:
    crowded = request_of("1" * (tiny.POSITIONS - 10))
    left = tiny.POSITIONS - len(model.tokenizer(crowded.prompt.text)["input_ids"])
    assert 0 < left < GREEDY.max_new_tokens
    wanted = [*requests(), crowded]
    completions, report = with_report(model, wanted, GREEDY, 8)
    assert report.capped == 1
    assert completions[-1].tokens <= left
    assert completions[:-1] == run(model, requests(), GREEDY, 8)


def test_a_prompt_that_leaves_no_room_is_an_error(model: Model) -> None:
    with pytest.raises(EvaluationError, match="Own/9: its prompt has .* tokens and the model 160 positions"):
        run(model, [request_of("1" * tiny.POSITIONS)], GREEDY, 1)


def test_batches_hold_rows_of_the_same_room_longest_first() -> None:
    rows = [Row(request_of("", f"Own/{number}"), [1] * length, room)
            for number, (length, room) in enumerate([(3, 9), (7, 9), (5, 9), (8, 4), (4, 9)])]
    assert [[len(row.ids) for row in batch] for batch in batches(rows, 3, 10**9)] == [[8], [7, 5, 4], [3]]


def test_a_batch_never_grows_beyond_its_tokens() -> None:
    rows = [Row(request_of("", f"Own/{number}"), [1] * (5 + number), 10) for number in range(6)]
    made = list(batches(rows, 100, 40))
    assert [[len(row.ids) for row in batch] for batch in made] == [[10, 9], [8, 7], [6, 5]]
    assert [len(batch) for batch in batches(rows, 100, 1)] == [1] * 6


def test_the_samples_of_a_prompt_stand_together() -> None:
    rows = [Row(request_of("", key, sample), [1] * 5, 9) for sample in range(3) for key in ("Own/1", "Own/0")]
    (batch,) = batches(rows, 100, 10**9)
    assert [(row.request.key, row.request.sample) for row in batch] == [(key, sample) for key in ("Own/0", "Own/1")
                                                                         for sample in range(3)]


def test_a_prompt_is_computed_once_for_its_samples(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda **inputs: seen.append(tuple(inputs["input_ids"].shape))
                        or forward(**inputs))
    run(model, [request_of(text, f"Own/{number}", sample) for number, text in enumerate(PROMPTS[:2]) for sample in range(5)],
        SAMPLED, 10)
    assert seen[0][0] == 2
    assert seen[1] == (10, 1)


def test_rows_that_are_over_leave_the_batch(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs))
    wanted = [dataclasses.replace(request_of("def", "Own/0", sample), is_complete=lambda text, sample=sample: sample > 0)
              for sample in range(8)]
    run(model, wanted, SAMPLED, 8)
    assert rows[1] == 8
    assert rows[-1] == 1


def test_a_row_is_kept_as_soon_as_it_is_over(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what ends the process costs only what was being written."""
    happened = []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda **inputs: happened.append("step") or forward(**inputs))
    wanted = [dataclasses.replace(request_of("def", "Own/0", sample), is_complete=lambda text, sample=sample: sample == 2)
              for sample in range(4)]
    generate(OneDevice(model, 8, 10**9), wanted, SAMPLED, lambda request, done: happened.append(done.finish))
    assert happened[:decoding.CHECK_EVERY + 1].count("stop") == 1
    assert happened.count("step") == SAMPLED.max_new_tokens or "length" not in happened


def test_the_report_counts_tokens(model: Model) -> None:
    completions, report = with_report(model, requests(), GREEDY, 8)
    assert report.as_dict()["tokens"] == sum(completion.tokens for completion in completions)
    assert report.as_dict()["tokens_per_s"] > 0


def test_tokens_are_told_as_they_come(model: Model) -> None:
    told: list[int] = []
    rows = [Row(request, model.tokenizer(request.prompt.text)["input_ids"], 20) for request in requests()]
    done = [completion for _, completion in OneDevice(model, 8, 10**9).answers(rows, GREEDY, told.append)]
    assert sum(told) == sum(completion.tokens for completion in done)
    assert len(told) == max(completion.tokens for completion in done)
    assert told[0] == len(rows)


def test_the_bar_shows_samples_tokens_per_second_and_what_is_left() -> None:
    """A batch takes minutes on a large model, so tokens are shown while no sample is over yet."""
    shown = io.StringIO()
    now = [0.0]
    with tqdm(total=8, unit="sample", file=shown, ascii=True, mininterval=0.1, ncols=100) as bar:
        meter = Meter(bar, clock=lambda: now[0])
        for now[0], tokens in ((0.01, 10), (2.0, 30), (4.0, 60)):
            meter.wrote(tokens)
            assert ("tokens/s" in shown.getvalue()) == (now[0] > 1), "not drawn at every step"
        assert "20 tokens/s" in shown.getvalue()
        bar.update(2)
        bar.refresh()
    last = shown.getvalue().split("\r")[-1]
    assert "2/8" in last and "25 tokens/s" in last and "sample" in last and "<" in last


class Crowded:
    """A decoder whose memory holds so many rows; with more it breaks after a step, as a GPU does."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, []
        self._decode = decoding.decode

    def __call__(self, network: object, prompts: list, rules: object) -> Iterator:
        self.sizes.append(sum(len(prompt.seeds) for prompt in prompts))
        for step, ended in enumerate(self._decode(network, prompts, rules)):
            if self.sizes[-1] > self.most and step == 9:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            yield ended


def test_a_batch_too_large_for_the_memory_is_tried_in_halves(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [dataclasses.replace(each, is_complete=lambda text, number=number: number == 4)
              for number, each in enumerate(requests(3)[:11])]
    alone, report = with_report(model, wanted, SAMPLED, 11)
    over_soon = sum(completion.tokens <= 9 for completion in alone)
    assert over_soon
    crowded = Crowded(3)
    monkeypatch.setattr(decoding, "decode", crowded)
    again, counted = with_report(model, wanted, SAMPLED, 11)
    assert again == alone
    assert (counted.tokens, counted.by_length) == (report.tokens, report.by_length)
    left = 11 - over_soon
    assert crowded.sizes[:2] == [11, left // 2], "what was over is not asked again"
    assert max(crowded.sizes[2:]) <= left - left // 2


def test_an_answer_too_large_for_the_memory_says_what_to_do(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "decode", Crowded(0))
    kept: list[Completion] = []
    with pytest.raises(EvaluationError, match=r"Own/9: its prompt of \d+ tokens and one answer of up to 20 do not fit into the "
                       "GPU's memory; lower --max-new-tokens"):
        generate(OneDevice(model, 4, 10**9), [request_of("def")], GREEDY, lambda _, done: kept.append(done))
    assert kept == []
