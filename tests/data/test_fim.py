"""Fill-in-the-middle: the published formats, cut anywhere, by chance that no worker, shard or interruption changes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megatron_ft.data import build as build_module
from megatron_ft.data import input_files
from megatron_ft.data import tokenizer as reader
from megatron_ft.data.build import build
from megatron_ft.data.chunk import NO_ANSWER, Recipe
from megatron_ft.data.example import Example, Turn
from megatron_ft.data.fim import FAMILIES, Fim, Tokens, from_options
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.inputs import Shard
from megatron_ft.data.merge import merge
from megatron_ft.data.render import tokenize
from megatron_ft.data.report import summary
from megatron_ft.data.validate import validate
from megatron_ft.errors import ConfigError, DataError
from tests.data.shared import SFT_ROWS, STARCODER, needs_data
from tests.data.small_tokenizers import bytes_tokenizer, sentencepiece_tokenizer

SCRIPTS = Path(__file__).resolve().parents[2] / "preprocess"
STAR = FAMILIES["StarCoder"]
ALWAYS = Fim(1.0, tokens=STAR)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level tokenizer with StarCoder's three tokens."""
    return str(bytes_tokenizer(tmp_path_factory.mktemp("tokenizer"), STAR.names))


def texts(count: int) -> list[str]:
    return [f"def f{number}(x):\n" + f"    x += {number}  # ½ é 😀\n" * (number * 37 % 23) + "    return x\n"
            for number in range(count)]


def write_texts(path: Path, made: list[str], *bad: str) -> Path:
    lines = [json.dumps({"content" if number % 2 else "text": text}) for number, text in enumerate(made)]
    path.write_text("".join(line + "\n" for line in [*lines, *bad]), encoding="utf-8")
    return path


def recipe(folder: str, fim: Fim | None, **options: object) -> Recipe:
    return Recipe(folder, "plain", **{"kind": "text", "fim": fim} | options)


def contents(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}{suffix}").read_bytes() for suffix in (".bin", ".idx")]


def published(ids_of, special, text: str, fim: Fim) -> list[int]:
    """A text's document without its end, as the StarCoder training put it together (bigcode-project/Megatron-LM, `permute`)."""
    filling = fim.cut(text)
    if filling is None:
        return ids_of(text)
    prefix, middle, suffix = (ids_of(part) for part in (filling.prefix, filling.middle, filling.suffix))
    if filling.order == "SPM":
        return [special(STAR.prefix), special(STAR.suffix), *suffix, special(STAR.middle), *prefix, *middle]
    return [special(STAR.prefix), *prefix, special(STAR.suffix), *suffix, special(STAR.middle), *middle]


def read_back(ids: list[int], ours: reader.Tokenizer, tokens: Tokens = STAR) -> tuple[str, str]:
    """The text that a document was cut from, found by the marks in it alone, and what is between PREFIX and SUFFIX."""
    prefix, middle, suffix = (ours.special(name) for name in tokens.names[:3])
    if ids[0] != prefix:
        return ours.decode(ids), ""
    at_suffix, at_middle = ids.index(suffix), ids.index(middle)
    before, after, last = ids[1:at_suffix], ids[at_suffix + 1:at_middle], ids[at_middle + 1:]
    return ours.decode(before) + ours.decode(last) + ours.decode(after), ours.decode(before)


@given(text=TEXTS, seed=st.integers(-3, 2**40), spm_rate=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_three_parts_are_the_text(text, seed, spm_rate):
    filling = Fim(1.0, spm_rate, seed, STAR).cut(text)
    assert filling.prefix + filling.middle + filling.suffix == text
    if spm_rate != 0.5:
        assert filling.order == ("SPM" if spm_rate else "PSM")


@given(text=TEXTS, seed=st.integers(0, 9), characters=st.integers(0, 70))
def test_of_a_shortened_text_the_parts_are_its_beginning_and_the_order_stays(text, seed, characters):
    fim = Fim(0.5, 0.5, seed, STAR)
    whole, short = fim.cut(text), fim.cut(text, characters)
    assert (whole is None) == (short is None)
    if short is not None:
        assert short.prefix + short.middle + short.suffix == text[:characters]
        assert short.order == whole.order


@pytest.fixture(scope="module")
def ours(folder):
    return reader.load(folder)


@given(text=TEXTS, fim=st.builds(Fim, st.just(0.8), st.just(0.5), st.integers(0, 5), st.just(STAR)))
def test_documents_are_those_of_the_published_format_and_say_what_they_were_cut_from(ours, text, fim):
    filling = fim.cut(text)
    drafts = [fim.segments(filling)] if filling else []
    for document in tokenize(drafts, ours):
        ids = document.ids.tolist()
        expected = published(lambda part: ours.encode_text(part, first=False), ours.special, text, fim)
        assert ids == [*expected, ours.end_of_text]
        found, before = read_back(ids[:-1], ours)
        assert found == text
        assert before == ("" if filling.order == "SPM" else filling.prefix)
        assert document.supervised == len(ids) - 1


@pytest.mark.parametrize(("rate", "spm_rate"), [(0.5, 0.5), (0.9, 0.2), (0.1, 1.0), (1.0, 0.0)])
def test_the_rates_are_met(rate, spm_rate):
    count = 4000
    made = [Fim(rate, spm_rate, 7, STAR).cut(f"text {number}") for number in range(count)]
    cut = [filling for filling in made if filling]
    spm = sum(filling.order == "SPM" for filling in cut)
    assert abs(len(cut) - rate * count) <= 4 * math.sqrt(count * rate * (1 - rate))
    assert abs(spm - spm_rate * len(cut)) <= 4 * math.sqrt(len(cut) * spm_rate * (1 - spm_rate))


def test_cuts_fall_everywhere_and_every_pair_of_places_equally_often():
    """Two places out of the n + 1 around n characters: (n + 1)**2 pairs, of which those that differ count twice."""
    size, count = 3, 16_000
    found = np.zeros((size + 1, size + 1))
    for seed in range(count):
        filling = Fim(1.0, 0.5, seed, STAR).cut("abc")
        found[len(filling.prefix), size - len(filling.suffix)] += 1
    expected = np.triu(np.full((size + 1, size + 1), 2.0)) - np.eye(size + 1)
    expected *= count / expected.sum()
    assert found[np.tril_indices(size + 1, -1)].sum() == 0
    assert (np.abs(found - expected) <= 4.5 * np.sqrt(expected)).all()


def test_another_seed_cuts_other_texts():
    made = [f"text {number}" for number in range(1000)]
    one, other = ([Fim(0.5, 0.5, seed, STAR).cut(text) for text in made] for seed in (1, 2))
    agree = sum((a is None) == (b is None) for a, b in zip(one, other, strict=True))
    assert 420 < agree < 580


@pytest.mark.parametrize("text", ["a <fim_prefix> b", "<fim_middle>", "x<fim_suffix>"])
def test_a_text_that_has_one_of_the_tokens_written_in_it_stays_as_it_is(text):
    assert ALWAYS.cut(text) is None
    assert ALWAYS.cut(text.replace("_", "-")) is not None
    assert Fim(1.0, tokens=FAMILIES["Code Llama"]).cut("a ▁<EOT>") is None


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


def test_user_defined_symbols_with_a_space_in_front_are_special(tmp_path):
    """If Code Llama's four were of that type: text that has them written in it must not become them."""
    options = {"sentence_iterator": iter(["a b c " * 9] * 9), "model_prefix": str(tmp_path / "tokenizer"), "model_type": "bpe",
               "vocab_size": 290, "byte_fallback": True, "normalization_rule_name": "identity", "hard_vocab_limit": False,
               "user_defined_symbols": ["▁<PRE>", "plain"], "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(**options)
    ours = reader.load(tmp_path / "tokenizer.model")
    assert ours.special("▁<PRE>") not in ours.encode_text("a <PRE> b", first=True)
    assert ours.literals == ["plain"]


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


@pytest.mark.parametrize(("rate", "options", "message"), [
    (1.5, {}, "--fim-rate: 1.5 is no share; give a number from 0 to 1"),
    (-0.1, {}, "--fim-rate: -0.1 is no share"), (math.nan, {}, "--fim-rate: nan is no share"),
    (0.5, {"spm_rate": 2.0}, "--fim-spm-rate: 2.0 is no share"),
    (None, {"spm_rate": 0.5}, "--fim-spm-rate: is given and --fim-rate is not"),
    (None, {"seed": 0}, "--fim-seed: is given and --fim-rate is not"),
    (0.5, {"tokens": ["<a>", "<b>"]}, "--fim-tokens: has 2 names, <a> <b>; name three or four different tokens"),
    (0.5, {"tokens": ["<a>", "<b>", "<a>"]}, "name three or four different tokens")])
def test_options_that_contradict_themselves(rate, options, message):
    with pytest.raises(ConfigError, match=message):
        from_options(rate, **options)


def test_options_become_what_they_say():
    assert from_options(None) is None
    assert from_options(0.25) == Fim(0.25, 0.5, 0, None, "all")
    assert from_options(1.0, spm_rate=0.0, seed=3, tokens=["<a>", "<b>", "<c>", "<d>"], loss="middle") == Fim(
        1.0, 0.0, 3, Tokens(prefix="<a>", middle="<b>", suffix="<c>", end="<d>"), "middle")


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
    filling = ALWAYS.cut(texts(30)[4])
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


def test_a_bare_text_is_its_document():
    example = Example((Turn("assistant", "x = 1\n"),))
    assert example.bare_text == "x = 1\n"
    assert Example.pair("a", "b").bare_text is None
