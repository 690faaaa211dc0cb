"""Datasets with fill-in-the-middle: of every family's format, the same bytes for any workers and shards, counted, checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer

from megatron_ft.data import build as build_module
from megatron_ft.data import input_files
from megatron_ft.data import tokenizer as reader
from megatron_ft.data.build import build
from megatron_ft.data.chunk import NO_ANSWER, Recipe
from megatron_ft.data.fim import FAMILIES, Fim, Tokens, from_options
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.inputs import Shard
from megatron_ft.data.merge import merge
from megatron_ft.data.report import summary
from megatron_ft.data.validate import validate
from megatron_ft.errors import ConfigError, DataError
from tests.data.shared import SFT_ROWS, STARCODER, needs_data
from tests.data.small_texts import STAR, published, read_back, texts, write_texts
from tests.data.small_tokenizers import bytes_tokenizer, sentencepiece_tokenizer

SCRIPTS = Path(__file__).resolve().parents[2] / "preprocess"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level tokenizer with StarCoder's three tokens."""
    return str(bytes_tokenizer(tmp_path_factory.mktemp("tokenizer"), STAR.names))


@pytest.fixture(scope="module")
def ours(folder):
    return reader.load(folder)


def recipe(folder: str, fim: Fim | None, **options: object) -> Recipe:
    return Recipe(folder, "plain", **{"kind": "text", "fim": fim} | options)


def contents(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}{suffix}").read_bytes() for suffix in (".bin", ".idx")]


def test_a_dataset_of_texts_says_what_became_of_them(folder, tmp_path, ours):
    made, fim = texts(300), Fim(0.6, 0.3, 5)
    source = write_texts(tmp_path / "a.jsonl", made)
    manifest = build([source], tmp_path / "mix", recipe(folder, fim))
    dataset = open_dataset(tmp_path / "mix")
    complete = fim.complete(ours, folder)
    fillings = [complete.cut(text) for text in made]
    for number, text in enumerate(made):
        ids = dataset.document(number)[0].tolist()
        expected = published(lambda part: ours.encode_text(part, first=False), ours.special, text, complete)
        assert ids == [*expected, ours.end_of_text]
        assert read_back(ids[:-1], ours)[0] == text
    assert manifest.kinds == {"text": fillings.count(None)} | {
        f"text as {order}": sum(filling is not None and filling.order == order for filling in fillings)
        for order in ("PSM", "SPM")}
    assert {name: value for name, value in manifest.recipe.items() if name.startswith("fim")} == {
        "fim_rate": 0.6, "fim_spm_rate": 0.3, "fim_seed": 5, "fim_loss": "all",
        "fim_tokens": "<fim_prefix> <fim_middle> <fim_suffix>"}
    assert ("fill-in-the-middle: rate 0.6, of it 0.3 suffix first, loss on all, seed 5, tokens <fim_prefix> <fim_middle> "
            "<fim_suffix>") in summary("mix", manifest)
    assert all(verdict.ok for verdict in validate([str(tmp_path / "mix")], reader=ours))


def test_rate_0_gives_the_bytes_of_no_option(folder, tmp_path):
    source = write_texts(tmp_path / "a.jsonl", texts(20))
    build([source], tmp_path / "none", recipe(folder, None))
    build([source], tmp_path / "zero", recipe(folder, from_options(0.0, spm_rate=0.3, seed=4, tokens=STAR.names)))
    for suffix in (".bin", ".idx", ".json"):
        assert (tmp_path / f"none{suffix}").read_bytes() == (tmp_path / f"zero{suffix}").read_bytes()


@pytest.fixture
def whole(folder, tmp_path, monkeypatch):
    """Files of texts, read in small chunks, and the dataset that one process makes of them with the reference encoder."""
    monkeypatch.setattr(input_files, "CHUNK_BYTES", 12_000)
    sources = [write_texts(tmp_path / f"{name}.jsonl", texts(count)) for name, count in (("a", 90), ("b", 7), ("c", 160))]
    build(sources, tmp_path / "whole", recipe(folder, Fim(0.5, seed=2)), encoder="reference")
    return sources


def test_workers_encoder_and_shards_give_the_same_bytes(folder, tmp_path, whole):
    build(whole, tmp_path / "workers", recipe(folder, Fim(0.5, seed=2)), workers=3)
    assert contents(tmp_path / "workers") == contents(tmp_path / "whole")
    for index in range(3):
        build(whole, tmp_path / f"s{index}", recipe(folder, Fim(0.5, seed=2)), shard=Shard(index, 3))
    merged = merge([tmp_path / f"s{index}" for index in range(3)], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert (merged.recipe, merged.kinds) == tuple(
        getattr(open_dataset(tmp_path / "whole").manifest, name) for name in ("recipe", "kinds"))


def test_shards_of_another_seed_are_not_merged_and_other_datasets_are(folder, tmp_path, whole):
    for index, seed in ((0, 2), (1, 3)):
        build(whole, tmp_path / f"s{index}", recipe(folder, Fim(0.5, seed=seed)), shard=Shard(index, 2))
    with pytest.raises(DataError, match=r"shards of different builds \(fim_seed: 2 and 3\)"):
        merge([tmp_path / "s0", tmp_path / "s1"], tmp_path / "merged")
    build(whole, tmp_path / "plain", recipe(folder, None))
    assert merge([tmp_path / "plain", tmp_path / "whole"], tmp_path / "both").recipe["fim_rate"] == "mixed (0.5, None)"


def test_an_interrupted_build_goes_on_and_one_of_another_rate_does_not(folder, tmp_path, whole, monkeypatch, capsys):
    monkeypatch.setattr(build_module, "SAVE_EVERY_S", 0.0)
    good = whole[2].read_bytes()
    for rate, says in ((0.5, "going on after row"), (0.4, "is thrown away, because it had another fim_rate")):
        whole[2].write_bytes(good + b"{broken\n")
        with pytest.raises(DataError, match="is no JSON"):
            build(whole, tmp_path / "mix", recipe(folder, Fim(0.5, seed=2)))
        whole[2].write_bytes(good)
        build(whole, tmp_path / "mix", recipe(folder, Fim(rate, seed=2)))
        assert says in capsys.readouterr().err
        assert (contents(tmp_path / "mix") == contents(tmp_path / "whole")) == (rate == 0.5)
        for suffix in (".bin", ".idx", ".json"):
            (tmp_path / f"mix{suffix}").unlink()


def test_with_loss_on_the_middle_it_and_its_end_are_supervised(folder, tmp_path, ours):
    source = write_texts(tmp_path / "a.jsonl", texts(40))
    build([source], tmp_path / "all", recipe(folder, Fim(1.0)))
    build([source], tmp_path / "middle", recipe(folder, Fim(1.0, loss="middle")))
    assert contents(tmp_path / "all")[0] == contents(tmp_path / "middle")[0]
    dataset, everything = (open_dataset(tmp_path / name) for name in ("middle", "all"))
    for number, text in enumerate(texts(40)):
        ids, supervised = dataset.document(number)
        assert ours.decode(ids[supervised][:-1].tolist()) == Fim(1.0, tokens=STAR).cut(text).middle
        assert ids[supervised][-1] == ours.end_of_text
        assert everything.document(number)[1].all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "Code Llama"])
def test_the_tokens_of_a_family_are_found_by_their_names(tmp_path, family):
    tokens = FAMILIES[family]
    path = str(bytes_tokenizer(tmp_path / "tokenizer", ["<pad>", *sorted(tokens.names)]))
    build([write_texts(tmp_path / "a.jsonl", texts(9))], tmp_path / "mix", recipe(path, Fim(1.0)))
    theirs, dataset = reader.load(path), open_dataset(tmp_path / "mix")
    found = [read_back(dataset.document(number)[0].tolist()[:-1], theirs, tokens)[0] for number in range(9)]
    assert found == texts(9)


def test_code_llama_is_written_as_its_reference_writes_it(tmp_path):
    """The prefix is encoded with a space in front, suffix and middle without; a middle has an end of its own."""
    tokens = FAMILIES["Code Llama"]
    model = sentencepiece_tokenizer(tmp_path / "tokenizer", tokens.names)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    smiley = len(theirs.encode("☺"))
    made = ["def double(x):\n    return x * 2\n", " a b", "double"]
    build([write_texts(tmp_path / "a.jsonl", made)], tmp_path / "mix", recipe(str(model), Fim(1.0, seed=9)))
    for number, text in enumerate(made):
        filling = Fim(1.0, seed=9, tokens=tokens).cut(text)
        before, (after, middle) = theirs.encode(filling.prefix), [theirs.encode("☺" + part)[smiley:] for part in (
            filling.suffix, filling.middle)]
        pre, mid, suf, eot = map(theirs.piece_to_id, tokens.names)
        asked = {"PSM": [pre, *before, suf, *after, mid], "SPM": [pre, suf, *after, mid, *before]}[filling.order]
        ids = open_dataset(tmp_path / "mix").document(number)[0].tolist()
        assert ids == [theirs.bos_id(), *asked, *middle, eot, theirs.eos_id()]
    orders = [Fim(1.0, seed=9, tokens=tokens).cut(text) for text in made]
    assert {filling.order for filling in orders} == {"PSM", "SPM"}
    assert any(filling.prefix and filling.middle for filling in orders)


def test_a_long_text_loses_its_end_and_not_its_middle(folder, tmp_path, ours):
    made = texts(60)
    source = write_texts(tmp_path / "a.jsonl", made)
    manifest = build([source], tmp_path / "mix", recipe(folder, Fim(0.5), max_length=100, on_long="truncate"))
    dataset, plain = open_dataset(tmp_path / "mix"), Fim(0.5, tokens=STAR)
    assert manifest.counts["documents"] == 60
    assert manifest.counts["truncated"] > 20
    shortened = 0
    for number, text in enumerate(made):
        ids = dataset.document(number)[0].tolist()
        assert len(ids) <= 100
        whole = [*published(lambda part: ours.encode_text(part, first=False), ours.special, text, plain), ours.end_of_text]
        if len(whole) <= 100 or plain.cut(text) is None:
            assert ids == whole[:100]
            continue
        assert ids[-1] == ours.end_of_text
        found, _ = read_back(ids[:-1], ours)
        assert text.startswith(found)
        assert len(ids) >= 80, "no more is left out than must be"
        shortened += 1
    assert shortened > 8
    assert all(verdict.ok for verdict in validate([str(tmp_path / "mix")], reader=ours))


def test_a_text_of_which_nothing_would_be_left_is_counted(folder, tmp_path):
    source = write_texts(tmp_path / "a.jsonl", ["x" * 30, "y"])
    fim = Fim(1.0)
    assert build([source], tmp_path / "five", recipe(folder, fim, max_length=5, on_long="truncate")).counts["documents"] == 2
    with pytest.raises(DataError, match=rf"no document came of 2 rows \(dropped: \{{'{NO_ANSWER}': 2\}}\)"):
        build([source], tmp_path / "four", recipe(folder, fim, max_length=4, on_long="truncate"))
    dropped = build([source], tmp_path / "drop", recipe(folder, fim, max_length=9, on_long="drop"))
    assert (dropped.counts["documents"], dropped.counts["truncated"]) == (1, 0)


@pytest.mark.parametrize(("specials", "options", "error", "message"), [
    ([], {}, ConfigError, r"--fim-rate: the tokenizer .*folder has none of the token sets .*\(StarCoder: <fim_prefix> "
                          r"<fim_middle> <fim_suffix>; SantaCoder: .* --fim-tokens PREFIX MIDDLE SUFFIX"),
    (STAR.names[:2], {}, ConfigError, "has none of the token sets"),
    ([*STAR.names, *FAMILIES["SantaCoder"].names], {}, ConfigError, "has the tokens of StarCoder and of SantaCoder; say which"),
    (["<a>", "<b>"], {"fim": Fim(0.5, tokens=Tokens("<a>", "<b>", "<c>"))}, DataError, "has no special token '<c>'; it has"),
    (STAR.names, {"kind": None, "template": "octocoder"}, ConfigError,
     "--fim-rate: 0.5 of the texts are to be cut, but --kind is not given; .* two datasets"),
    (STAR.names, {"kind": "chat"}, ConfigError, "but --kind is chat; only bare texts are"),
    (STAR.names, {"template": "octocoder"}, ConfigError, "--template: 'octocoder' words instructions .* use plain"),
    (STAR.names, {"template": "chat", "fim": None}, ConfigError, "--template: 'chat' words instructions .* use plain"),
    (STAR.names, {"fim": Fim(0.5, loss="middle"), "loss_on": "all"}, ConfigError, "--fim-loss: 'middle' contradicts")])
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, specials, options, error, message):
    path = str(bytes_tokenizer(tmp_path / "folder", specials))
    source = write_texts(tmp_path / "a.jsonl", texts(3))
    with pytest.raises(error, match=message):
        build([source], tmp_path / "out" / "mix",
              Recipe(path, **{"kind": "text", "template": "plain", "fim": Fim(0.5)} | options))
    assert not (tmp_path / "out").exists()


def test_the_commands_make_and_show_such_a_dataset(folder, tmp_path):
    source = write_texts(tmp_path / "a.jsonl", texts(30))
    arguments = ["--input", source, "--output", tmp_path / "mix", "--tokenizer", folder, "--kind", "text", "--fim-rate", "1",
                 "--fim-spm-rate", "0", "--fim-tokens", *STAR.names]
    made = subprocess.run([sys.executable, SCRIPTS / "tokenize_sft.py", *map(str, arguments)], capture_output=True, text=True,
                          check=False)
    assert made.returncode == 0, made.stderr
    assert "30 documents of 30 rows, template plain" in made.stdout
    shown = subprocess.run([sys.executable, SCRIPTS / "inspect_dataset.py", tmp_path / "mix", "--document", "4"],
                           capture_output=True, text=True, check=True)
    assert "kinds of rows: text as PSM 30\n" in shown.stdout
    filling = Fim(1.0, 0.0, tokens=STAR).cut(texts(30)[4])
    assert (f"<fim_prefix>⟦{filling.prefix}<fim_suffix>{filling.suffix}<fim_middle>{filling.middle}<|endoftext|>⟧"
            in shown.stdout)


@needs_data
def test_real_texts_become_what_transformers_own_tokenizer_says(tmp_path):
    rows = [json.loads(line) for line in SFT_ROWS.read_text(encoding="utf-8").splitlines()[::12]]
    made = [row["completion"] for row in rows]
    build([write_texts(tmp_path / "a.jsonl", made)], tmp_path / "mix", recipe(str(STARCODER), Fim(0.5)))
    theirs, dataset = AutoTokenizer.from_pretrained(STARCODER), open_dataset(tmp_path / "mix")
    for number, text in enumerate(made):
        expected = published(lambda part: theirs(part, split_special_tokens=True).input_ids, theirs.convert_tokens_to_ids, text,
                             Fim(0.5, tokens=STAR))
        assert dataset.document(number)[0].tolist() == [*expected, theirs.eos_token_id]
