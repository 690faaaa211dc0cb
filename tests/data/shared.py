"""Real data that is kept outside the project; tests that use it skip where it is absent."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STARCODER = DATA / "tokenizers" / "starcoderbase"
LLAMA = DATA / "tokenizers" / "llama"
SFT_ROWS = DATA / "sft" / "oasst_commitpackft_1178.jsonl"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not beside the checkout")
