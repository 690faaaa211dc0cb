"""What computes a model's answers here: this process, one process a device, or vLLM."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from megatron_ft import log
from megatron_ft.evaluation import model_folder, vllm_backend
from megatron_ft.evaluation.completing import OneDevice
from megatron_ft.evaluation.generation import Engine
from megatron_ft.evaluation.generation_workers import Workers
from megatron_ft.evaluation.settings import Settings


def resolve(settings: Settings) -> Settings:
    """Settings whose backend and devices are there; ConfigError says what is not. Nothing is loaded yet."""
    found = vllm_backend.version() if settings.device != "cpu" and model_folder.cuda_devices() else None
    if settings.backend == "auto":
        settings = replace(settings, backend="vllm" if found else "transformers")
        log.get().info(f"--backend: {settings.backend} generates here"
                       + (f" (version {found})" if found else ", as vllm with a GPU for it is not there"))
    elif found and settings.backend == "transformers":
        log.get().info(f"vllm {found} is installed here too; --backend vllm generates with it")
    if settings.backend == "vllm":
        vllm_backend.require(settings.devices)
    else:
        model_folder.choose_devices(settings.device, settings.devices)
    return settings


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Engine]:
    """The engine of resolved settings, with its model loaded; gone when the block ends."""
    if settings.backend == "vllm":
        log.get().info(f"{settings.model}: vllm {vllm_backend.version()}")
        yield vllm_backend.Vllm(settings.model, dtype=settings.dtype, devices=settings.devices)
        return
    devices = model_folder.choose_devices(settings.device, settings.devices)
    sizes = {"batch_size": settings.batch_size, "batch_tokens": settings.batch_tokens}
    if len(devices) == 1:
        model = model_folder.load(settings.model, device=devices[0], dtype=settings.dtype)
        log.get().info(f"{settings.model}: {model.described} on {devices[0]}")
        yield OneDevice(model, **sizes)
        return
    with Workers(settings.model, devices, dtype=settings.dtype, **sizes) as workers:
        log.get().info(f"{settings.model}: {workers.described} in each of {len(devices)} processes, on {', '.join(devices)}")
        yield workers
