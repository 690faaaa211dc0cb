"""Answers by vLLM, where it is installed: it plans its own batches, on one GPU or with the model split over several.

The engine is driven step by step, which is what vLLM's `LLM.generate` does too, because whether an answer is complete is
asked of a language's rules: no list of stop strings says it. Rows that are over are taken out and kept at once.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence

from megatron_ft.errors import ConfigError, EvaluationError
from megatron_ft.evaluation import model_folder
from megatron_ft.evaluation.batching import Completion, Row, Sampling, Wrote
from megatron_ft.evaluation.completing import completion_of, rules_of
from megatron_ft.evaluation.decoding import Rules, Written
from megatron_ft.evaluation.sampling import row_seed


def version() -> str | None:
    """The version that is installed here, if any."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None


def require(devices: int) -> None:
    """ConfigError where vLLM or its GPUs are missing."""
    try:
        import vllm  # noqa: F401 - an import that fails is the answer
    except ImportError as error:
        raise ConfigError(f"--backend: vllm cannot be imported here ({error}); `pip install vllm` on a machine with an NVIDIA "
                          "GPU (it brings a torch of its own, so rather into a copy of this environment), or use --backend "
                          "transformers") from error
    model_folder.choose_devices("cuda", devices)


class Vllm:
    """vLLM with a model on its GPUs."""

    def __init__(self, model: str, *, dtype: str, devices: int) -> None:
        """Args:
            devices: GPUs over which the model is split; 0 is every visible one.
        """
        import vllm

        self.outline = model_folder.outline(model)
        self._params = vllm.SamplingParams
        gpus = model_folder.choose_devices("cuda", devices)
        try:
            # The samples of a prompt are requests of their own, each with its seed; the cache computes the prompt once.
            self._llm = vllm.LLM(model=model, dtype=str(model_folder.dtype_of(dtype, gpus[0])).removeprefix("torch."),
                                 tensor_parallel_size=len(gpus), enable_prefix_caching=True, trust_remote_code=False)
        except (ValueError, RuntimeError, OSError) as error:
            raise EvaluationError(f"--backend: vllm does not load {model} on {len(gpus)} GPUs: {error}; use a number of "
                                  "--devices that divides its attention heads, or --backend transformers") from error

    def answers(self, rows: Sequence[Row], sampling: Sampling, wrote: Wrote) -> Iterator[tuple[Row, Completion]]:
        """Every row with its completion, as soon as it is over."""
        engine = self._llm.llm_engine
        rules = rules_of(self.outline, rows, sampling.max_new_tokens, sampling, wrote)
        unfinished = {str(number): Written() for number in range(len(rows))}
        for name, row in zip(unfinished, rows, strict=True):
            engine.add_request(name, {"prompt_token_ids": row.ids}, self._params_of(row, sampling))
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.request_id not in unfinished:
                        continue  # taken out before the engine knew
                    number, written = int(output.request_id), unfinished[output.request_id]
                    if _take(written, output.outputs[0], number, rules) or output.finished:
                        if not output.finished:
                            engine.abort_request([output.request_id])
                        del unfinished[output.request_id]
                        yield rows[number], completion_of(self.outline, rows[number], written)
            if unfinished:
                raise EvaluationError(f"--backend: vllm gave no end to {len(unfinished)} of {len(rows)} answers; use --backend "
                                      "transformers")
        finally:
            if unfinished:
                engine.abort_request(list(unfinished))

    def _params_of(self, row: Row, sampling: Sampling) -> object:
        seed = row_seed(sampling.seed, row.request.key, row.request.sample) if sampling.temperature else None
        return self._params(n=1, temperature=sampling.temperature, top_p=sampling.top_p, seed=seed, max_tokens=row.room,
                            stop_token_ids=list(self.outline.end_ids), detokenize=False)


def _take(written: Written, output: object, number: int, rules: Rules) -> bool:
    """Add the new ones of an output's tokens (it has all since the prompt) to a row; whether the row is over."""
    new = list(output.token_ids)[len(written.ids):]
    rules.wrote(len(new))
    if any(written.take(number, token, rules) for token in new):
        return True
    if output.finish_reason == "stop":  # at a token that it does not show
        written.finish = "end"
    return False
