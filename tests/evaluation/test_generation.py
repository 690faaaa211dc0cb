"""Generation with a tiny random model: what a row gets does not depend on the rows beside it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from megatron_ft.data.templates import Segment
from megatron_ft.errors import CheckpointError, ConfigError, EvaluationError
from megatron_ft.evaluation import model_folder, sampling
from megatron_ft.evaluation.generation import Completion, Report, Request, Row, Sampling, batches, generate
from megatron_ft.evaluation.model_folder import Model
from megatron_ft.evaluation.sampling import SeededSampling, nucleus
from tests.evaluation import tiny

GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=20, seed=0)
SAMPLED = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=20, seed=3)
PROMPTS = ["def", "def double(x):\n", "Question: Write a Python function that gives\n\nAnswer:\n", "    return x",
           "if x"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine make these tiny models a hundred times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    report = generate(model, wanted, chosen, batch_size=size, batch_tokens=10**9,
                      keep=lambda request, done: kept.update({(request.key, request.sample): done}))
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


def test_sampling_draws_from_the_distribution() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(4000, 4)
    drawn = SeededSampling(range(4000), 1.0, 0.9, 20).choose(scores, torch.arange(4000), 7)
    share = {token: count / 4000 for token, count in Counter(drawn.tolist()).items()}
    assert share.get(3, 0) == 0
    assert share[0] == pytest.approx(0.5 / 0.95, abs=0.03)
    assert share[2] == pytest.approx(0.15 / 0.95, abs=0.03)


def test_a_nucleus_keeps_the_token_that_crosses_its_edge() -> None:
    order, share = nucleus(torch.tensor([[0.1, 0.6, 0.3]]), 0.61)
    assert order.tolist() == [[1, 2, 0]]
    assert share.tolist() == [[pytest.approx(0.6), pytest.approx(0.3), 0.0]]


def test_a_flat_nucleus_is_as_wide_as_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = torch.full((2, 1000), 1 / 1000)
    assert [(row > 0).sum().item() for row in nucleus(flat, 0.5)[1]] == [500, 500]
    steep = torch.tensor([[2.0**-place for place in range(1, 40)]])
    whole = nucleus(steep, 0.9)[1]
    monkeypatch.setattr(sampling, "FEW", 8)
    assert torch.equal(nucleus(steep, 0.9)[1], whole[:, :8])


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


def test_the_report_counts_tokens(model: Model) -> None:
    completions, report = with_report(model, requests(), GREEDY, 8)
    assert report.as_dict()["tokens"] == sum(completion.tokens for completion in completions)
    assert report.as_dict()["tokens_per_s"] > 0


def test_a_leading_space_is_kept_with_sentencepiece() -> None:
    """Such a tokenizer drops the space of the first word it decodes, so an answer is decoded with its prompt."""
    from megatron_ft.evaluation.generation import _text

    class Tokenizer:
        def decode(self, ids: list[int], **_: object) -> str:
            return "".join(["▁def", "▁f", ":", "▁return"][number] for number in ids).replace("▁", " ").strip()

    model = Model(network=None, tokenizer=Tokenizer(), end_ids=(9,), positions=None)
    assert _text(model, [0, 1, 2], [3]) == " return"


@pytest.mark.parametrize(("removed", "message"), [
    ("config.json", "has no config.json: it is no Hugging Face folder"),
    ("model.safetensors", "has no weights .*was it copied whole"),
    ("tokenizer.json", "has no tokenizer .*copy the one"),
])
def test_an_incomplete_folder_says_what_it_lacks(tmp_path: Path, folder: Path, removed: str, message: str) -> None:
    for path in folder.iterdir():
        if path.name != removed:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=message):
        model_folder.check(str(tmp_path))


def test_a_megatron_checkpoint_is_sent_to_the_converter(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    with pytest.raises(CheckpointError, match=r"convert it with convert/megatron_to_hf.py"):
        model_folder.check(str(tmp_path))


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(CheckpointError, match="--model: there is no folder /no/such/model; give a Hugging Face folder"):
        model_folder.check("/no/such/model")
    assert model_folder.check("bigcode/starcoderbase-1b") is False


def changed_copy(folder: Path, place: Path, **config: object) -> str:
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    text = json.loads((folder / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**text, **config}))
    return str(place)


@pytest.mark.parametrize(("config", "message"), [
    ({"n_layer": 3}, "lacks .* weights that its config.json asks for, such as .*; they would be random"),
    ({"model_type": "unheard-of"}, "cannot be loaded"),
    ({"model_type": "unheard-of", "auto_map": {"AutoConfig": "own.Config"}}, "cannot be loaded"),
    ({"vocab_size": 200}, "cannot be loaded|do not belong together|lacks"),
])
def test_a_folder_that_would_give_a_wrong_model_is_refused(folder: Path, tmp_path: Path, config: dict, message: str
                                                           ) -> None:
    with pytest.raises(CheckpointError, match=message):
        model_folder.load(changed_copy(folder, tmp_path, **config), device="cpu", dtype="auto")


def test_a_config_that_is_no_json_is_refused(folder: Path, tmp_path: Path) -> None:
    changed_copy(folder, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json is not JSON"):
        model_folder.check(str(tmp_path))


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device: cuda is not available here; use cpu or auto"):
        model_folder.choose_device("cuda")
    assert model_folder.choose_device("auto") == "cpu"
