"""OctoPack's weights files as their users have them; everything else is refused with file and line."""

import pytest

from megatron_ft.data import weights_file
from megatron_ft.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    """Reads files of these texts, named a.txt, b.txt, ..."""

    def read_texts(*texts: str):
        paths = [tmp_path / f"{name}.txt" for name in "abcd"[:len(texts)]]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return weights_file.read(paths)

    return read_texts


@pytest.fixture
def messages(monkeypatch):
    lines = []
    monkeypatch.setattr(weights_file.log.get(), "info", lambda text, *values: lines.append(text % values))
    return lines


def test_octopacks_own_two_files(read):
    """As its README and training scripts show them: quoted, a newline at the end or none."""
    train = '"train: 1.0 0:0.950 /gpfs/finetune/train_bigcode"\n'
    for name, end in (("valid", ""), ("validation", "\n")):
        valid = f'"{name}: 1.0 0.950:1 /gpfs/finetune/train_bigcode"{end}'
        assert read(train, valid) == (
            ["1.0 0:0.950 /gpfs/finetune/train_bigcode"], [f"{name}= 0.950:1 /gpfs/finetune/train_bigcode"])


@pytest.mark.parametrize("text", [
    '"train: 0.7 0:0.95 a, 0.3 0:1 b" "valid: 1 0.95:1 a"',
    '"train: 0.7 0:0.95 a, 0.3 0:1 b"\n"valid: 1 0.95:1 a"\n',
    "train: 0.7 0:0.95 a, 0.3 0:1 b\nvalid: 1 0.95:1 a",
    "train: 0.7 0:0.95 a,\n       0.3 0:1 b\nvalid: 1 0.95:1 a\n",
    "train: 0.7 0:0.95 a\n     , 0.3 0:1 b\nvalid: 1 0.95:1 a\n",
    "# ours\n\ntrain: 0.7 0:0.95 a, # commits\n\n  0.3 0:1 b\nvalidation: 1 0.95:1 a # the rest\n",
    'Train:0.7 0:0.95 a,0.3 0:1 b\r\n"VALID:1 0.95:1 a"\r\n',
    '"train: 0.7 0:0.95 a,\n 0.3 0:1 b\n"\n\n   "valid: 1\t0.95:1  a"'])
def test_quoted_or_not_on_one_line_or_several(read, text):
    train, valid = read(text)
    assert (train, [entry.partition("= ")[2] for entry in valid]) == (["0.7 0:0.95 a", "0.3 0:1 b"], ["0.95:1 a"])


def test_validation_groups_name_their_losses(read):
    """Several groups, as Megatron's --valid-weighted-split-paths takes them; the datasets of one count in one loss."""
    _, valid = read("train: 1 0:0.9 a\nvalid_code: 1 0.9:1 a, 2 0:1 b", '"Validation_chat: 1 0:1 c"')
    assert valid == ["valid_code= 0.9:1 a", "valid_code= 0:1 b", "Validation_chat= 0:1 c"]
    with pytest.raises(ConfigError, match="a.txt:3: is a second valid_code group"):
        read("train: 1 0:0.9 a\nvalid_code: 1 0.9:1 a\nVALID_code: 1 0:1 b")


def test_numbers_stay_as_they_are_written(read):
    assert read("train: 0.70000000001 0:0.9500000001 a") == (["0.70000000001 0:0.9500000001 a"], [])


def test_what_is_not_used_is_said(read, messages):
    read("train: 1 0:0.9 a\nvalid: 0.7 0.9:1 a, 0.3 0:1 b\ntest: 1 0:1 c")
    assert [line.split("a.txt:")[1] for line in messages] == [
        "3: the test group is not used: nothing is trained or validated on it",
        "2: weights are not used: validation reads every document once"]


@pytest.mark.parametrize(("text", "message"), [
    ("train: 1 0:1 a\n\nvalid: 0.7 0:1 b 0.3 0:1 c", r"a.txt:3: '0.7 0:1 b 0.3 0:1 c' is not WEIGHT START:END PREFIX; sep"),
    ("train: 1 0:1 a,\n\n  0.3 b", r"a.txt:3: '0.3 b' is not WEIGHT START:END PREFIX"),
    ("train: 1 0:1 a,\n 0.3 0:1 b,\n", r"a.txt:2: '' is not WEIGHT"), ("train:", "a.txt:1: '' is not WEIGHT"),
    ("train: 1 0:1 my data/mix", "a.txt:1: '1 0:1 my data/mix' is not WEIGHT"),
    ("train: a= 0:1 b", "a.txt:1: 'a= 0:1 b': 'a=' must be a number"),
    ("train: a 0:1 b", "a.txt:1: 'a 0:1 b': 'a' must be a number and '0:1' two with a colon between them"),
    ("train: 1 0:x b", "a.txt:1: '1 0:x b': '1' must be a number and '0:x' two with"),
    ("\ntrain: 1 0:1 a, -1 0:0.95 b", "a.txt:2: data: '-1 0:0.95 b' has weight -1"),
    ("train: 1 0.9:0.1 a", "a.txt:1: data: '1 0.9:0.1 a': the range must be 0 <= START < END <= 1, found 0.9:0.1"),
    ("\n\n1.0 0:1 a", "a.txt:3: '1.0 0:1 a' belongs to no group; write NAME: WEIGHT START:END PREFIX"),
    ('"1.0 0:1 a"', "a.txt:1: '1.0 0:1 a' belongs to no group"),
    ("train: 1 0:1 a\nCOMMITS: 1 0:1 b", "a.txt:2: group 'COMMITS' is unknown; name it one of train, valid, .*, valid_S"),
    ("train: 1 0:1 a\ntrain: 1 0:1 b", "a.txt:2: is a second train group, the first is in .*a.txt:1; write one group"),
    ('\n"train: 1 0:1 a\n', "a.txt:2: a quote is opened and never closed"),
    ("valid: 1 0:1 a", "data.weights_files: no train group in .*a.txt"), ("", "no train group"), ("# train: 1 0:1 a", "group")])
def test_everything_else_is_refused_with_its_line(read, text, message):
    with pytest.raises(ConfigError, match=message):
        read(text)


def test_a_group_in_two_files_is_refused_with_both(read):
    with pytest.raises(ConfigError, match=r"b.txt:2: is a second valid group, the first is in .*a.txt:2"):
        read("train: 1 0:1 a\nvalid: 1 0:1 b", "\nvalidation: 1 0:1 b")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="data.weights_files: .*none.txt cannot be read .*No such file"):
        weights_file.read([tmp_path / "none.txt"])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="binary cannot be read"):
        weights_file.read([tmp_path / "binary"])
