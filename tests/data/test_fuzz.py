"""Ten thousand broken rows: each becomes its document or is counted with its line; none crashes, none shifts another."""

import json
import random

import tokenizers

from megatron_ft.data import tokenizer as reader
from megatron_ft.data.build import build
from megatron_ft.data.chunk import Recipe
from megatron_ft.data.indexed import open_dataset
from megatron_ft.data.kinds import KINDS

MUTATED = 10_000
PLAIN_PAIRS = (("inputs", "outputs"), ("inputs", "targets"), ("prompt", "completion"), ("question", "answer"))
PIECES = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\\ud800", b"\\udc00\\ud800", b"\x00", b"\\u0000", b'"', b"\\", b"{", b"}", b"[",
          b"]", b",", b":", b"null", b"1e999", b"NaN", b"-", b"\xef\xbb\xbf", b"\r", b"\n", b"\xe2\x80\xa8", "½漢😀".encode(),
          b" ", b""]
VALUES = ["", "  ", None, 1, 1.5, True, [], {}, ["a"], {"a": "b"}, "\ud800", "a\x00b", "é\u2028"]
MEGABYTE = "x" * 1_000_000


def mutate(row: dict, random_: random.Random) -> bytes:
    """A row with one to three faults, most of them."""
    row = json.loads(json.dumps(row))
    if random_.random() < 0.4:
        key = random_.choice(list(row))
        row[key] = MEGABYTE if random_.random() < 0.002 else random_.choice(VALUES)
    if random_.random() < 0.1:
        row.pop(random_.choice(list(row)))
    if random_.random() < 0.1:
        row |= {random_.choice([key for pair in PLAIN_PAIRS for key in pair]): "more"}
    line = json.dumps(row, ensure_ascii=random_.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(random_.choice([0, 1, 1, 3])):
        at, kind = random_.randrange(len(line) + 1), random_.random()
        if kind < 0.5:
            line = line[:at] + random_.choice(PIECES) + line[at + random_.randrange(3):]
        elif kind < 0.6:
            line = line[:at]
        elif kind < 0.8:
            line = line[:at] + bytes([random_.randrange(256)]) + line[at + 1:]
    return line


def expected_pair(line: bytes) -> tuple[str, str] | None:
    """Prompt and answer of a line that holds a pair and nothing of another kind; by other code than ours."""
    try:
        row = json.loads(line.decode("utf-8"))
        others = any(set(keys) <= {key for key in row if row[key] is not None}
                     for name, kind in KINDS.items() if name != "pairs" for keys in kind.keys)
    except (ValueError, RecursionError, TypeError):
        return None
    if not isinstance(row, dict) or others:
        return None
    pair = next((pair for pair in PLAIN_PAIRS if pair[0] in row and pair[1] in row), None)
    if pair is None or not all(isinstance(row[key], str) and row[key].strip() for key in pair):
        return None
    try:
        return tuple(row[key].encode().decode() for key in pair)
    except UnicodeEncodeError:
        return None


def test_ten_thousand_mutated_rows(tmp_path):
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(["a"], vocab_size=257, special_tokens=["<|end|>"])
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    random_ = random.Random(7)
    pairs = [dict(zip(pair, ("Ask é?", " say\n"), strict=True)) for pair in PLAIN_PAIRS]
    rows = [kind.example for kind in KINDS.values()] + pairs * 3
    lines = []
    for number in range(MUTATED):
        lines.append(mutate(random_.choice(rows), random_))
        if number % 5 == 0:
            lines.append(json.dumps({"inputs": f"marker {number}", "outputs": f"answer {number}"}).encode())
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b"\n".join(lines))
    lines = source.read_bytes().split(b"\n")  # a mutation may have put a line break in

    manifest = build([source], tmp_path / "mix", Recipe(str(tmp_path), "plain", on_bad_row="skip"), workers=2)
    dropped = sum(entry["rows"] for entry in manifest.dropped.values())
    assert manifest.counts["rows"] == manifest.counts["documents"] + dropped
    assert manifest.counts["rows"] == sum(1 for line in lines if line.strip(b" \t\r\x0b\x0c"))
    assert dropped > MUTATED // 4
    assert len(manifest.dropped) > 10, manifest.dropped  # the faults are of many kinds
    for reason, entry in manifest.dropped.items():
        for place in entry["first"]:
            path, _, number = place.rpartition(":")
            assert path == str(source)
            assert lines[int(number) - 1].strip(), reason

    wanted = [pair for pair in map(expected_pair, lines) if pair is not None]
    dataset, ours = open_dataset(tmp_path / "mix"), reader.load(tmp_path)
    found = []
    for number in range(dataset.documents):
        ids, supervised = dataset.document(number)
        assert ids[-1] == ours.end_of_text
        found.append((ours.decode(ids[~supervised]), ours.decode(ids[supervised][:-1])))
    pairs = [(prompt.strip(), prompt[len(prompt.rstrip()):] + answer) for prompt, answer in wanted]
    remaining = iter(found)
    missing = [pair for pair in pairs if not any(pair == document for document in remaining)]
    assert missing == [], "a good row is lost or out of its order"
    assert sum(prompt.startswith("marker") for prompt, _ in found) == MUTATED // 5
    assert len(found) - len(pairs) < MUTATED  # the others are of other kinds
    assert manifest.kinds["pairs"] == len(pairs)
