"""A preprocessor of the usual kind, to compare with: a pool of workers that tokenize a line each, one process that writes.

    python benchmarks/plain_preprocessor.py INPUT.jsonl PREFIX --tokenizer DIR --workers 2

Made of public library calls: multiprocessing's imap, transformers' fast tokenizer (or SentencePiece for a .model),
megatron-core's IndexedDatasetBuilder. Knows rows of prompt and completion, and OctoCoder's wording.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

CHUNK_LINES = 32


class Encoder:
    """What a worker does; the tokenizer is loaded once in each."""

    tokenize: Any
    end: int

    def __init__(self, tokenizer: Path) -> None:
        self.path = tokenizer

    def begin(self) -> None:
        """Load the tokenizer."""
        if (self.path / "tokenizer.model").is_file():
            import sentencepiece
            from sentencepiece import sentencepiece_model_pb2

            proto = sentencepiece_model_pb2.ModelProto.FromString((self.path / "tokenizer.model").read_bytes())
            model = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
            proto.normalizer_spec.add_dummy_prefix = False  # no space in front of an answer
            later = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
            Encoder.tokenize = (lambda text: [model.bos_id(), *model.encode(text)], later.encode)
            Encoder.end = model.eos_id()
        else:
            from transformers import AutoTokenizer

            fast = AutoTokenizer.from_pretrained(self.path)
            Encoder.tokenize = (lambda text: fast(text, split_special_tokens=True).input_ids,) * 2
            Encoder.end = fast.eos_token_id

    def encode(self, line: str) -> tuple[list[int], list[int]]:
        """The ids of a row, and how many are the prompt's and the answer's."""
        row = json.loads(line)
        answer = row["completion"]
        separator = "" if answer.startswith(("\n", "\r\n")) else " "
        prompt_ids = self.tokenize[0](f"Question: {row['prompt']}\n\nAnswer:".strip())
        answer_ids = [*self.tokenize[1](separator + answer), self.end]
        return prompt_ids + answer_ids, [len(prompt_ids), len(answer_ids)]


def main() -> None:
    """Tokenize and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("prefix", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    encoder = Encoder(given.tokenizer)
    import numpy as np
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{given.prefix}.bin", dtype=np.uint16, multimodal=True)
    with (multiprocessing.Pool(given.workers, initializer=encoder.begin) as pool,
          open(given.input, encoding="utf-8") as lines):
        started = None
        for ids, lengths in pool.imap(encoder.encode, lines, CHUNK_LINES):
            started = started or time.perf_counter()
            builder.add_document(torch.tensor(ids), lengths, [0, 1])
    builder.finalize(f"{given.prefix}.idx")
    sys.stdout.write(json.dumps({"seconds_after_first_row": time.perf_counter() - started}) + "\n")


if __name__ == "__main__":
    main()
