"""A stand-in for vLLM, which needs CUDA to be installed: the calls that `vllm_backend` makes, with the signatures of vLLM's
documentation (LLM, SamplingParams, LLMEngine.add_request, step, abort_request, has_unfinished_requests; RequestOutput and
CompletionOutput as they come of a step), computed by transformers. It cannot show that vLLM itself keeps to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import AutoModelForCausalLM


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    detokenize: bool = True


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class Running:
    ids: list[int]
    params: SamplingParams
    generator: torch.Generator
    new: list[int] = field(default_factory=list)


class LLMEngine:
    """One token a step for at most `max_num_seqs` requests."""

    def __init__(self, model: str, max_num_seqs: int) -> None:
        self._network = AutoModelForCausalLM.from_pretrained(model).eval()
        self._most = max_num_seqs
        self.requests: dict[str, Running] = {}
        self.aborted: list[str] = []

    def add_request(self, request_id: str, prompt: dict, params: SamplingParams, arrival_time: float | None = None,
                    lora_request: object = None, priority: int = 0) -> None:
        assert request_id not in self.requests
        assert params.n == 1 and params.detokenize is False
        generator = torch.Generator()
        if params.seed is not None:
            generator.manual_seed(params.seed)
        self.requests[request_id] = Running(list(prompt["prompt_token_ids"]), params, generator)

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        for name in request_ids:
            self.aborted.append(name)
            self.requests.pop(name, None)

    @torch.inference_mode()
    def step(self) -> list[RequestOutput]:
        outputs = []
        for name, running in list(self.requests.items())[:self._most]:
            logits = self._network(torch.tensor([running.ids + running.new])).logits[0, -1]
            running.new.append(self._chosen(logits, running))
            ended = running.new[-1] in (running.params.stop_token_ids or [])
            reason = "stop" if ended else "length" if len(running.new) == running.params.max_tokens else None
            made = CompletionOutput(0, "", list(running.new), reason)
            outputs.append(RequestOutput(name, running.ids, [made], finished=reason is not None))
            if reason:
                del self.requests[name]
        return outputs

    @staticmethod
    def _chosen(logits: torch.Tensor, running: Running) -> int:
        if running.params.temperature == 0:
            return int(logits.argmax())
        shares, order = (logits / running.params.temperature).softmax(-1).sort(descending=True)
        shares[shares.cumsum(-1) - shares >= running.params.top_p] = 0
        return int(order[torch.multinomial(shares, 1, generator=running.generator)])


class LLM:
    """`made` notes how it was asked for."""

    made: list[dict] = []

    def __init__(self, model: str, *, dtype: str = "auto", tensor_parallel_size: int = 1,
                 enable_prefix_caching: bool | None = None, trust_remote_code: bool = False, max_num_seqs: int = 5) -> None:
        LLM.made.append({"dtype": dtype, "tensor_parallel_size": tensor_parallel_size,
                         "enable_prefix_caching": enable_prefix_caching, "trust_remote_code": trust_remote_code})
        if tensor_parallel_size == 7:
            raise ValueError("Total number of attention heads (3) must be divisible by tensor parallel size (7).")
        self.llm_engine = LLMEngine(model, max_num_seqs)
