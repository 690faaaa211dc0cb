"""Compare a checkpoint's logits with a Hugging Face folder's; exit code 1 when they differ. See docs/convert.md."""

import argparse

from megatron_ft import cli


def command() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf", required=True, help="Hugging Face model folder: the reference")
    parser.add_argument("--checkpoint", required=True, help="checkpoint root (its latest is taken) or iteration folder")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference that counts as equal")
    parser.add_argument("--tokens", type=int, default=256, help="random tokens, in documents of 1, 2, 4, ...")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks; tp * pp processes by torchrun")
    parser.add_argument("--pp", type=int, default=1, help="pipeline stages")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "auto"], help="for megatron-core")
    given = parser.parse_args()
    from megatron_ft.conversion import verify

    equal = verify.verify(given.hf, given.checkpoint, tolerance=given.tolerance, tokens=given.tokens, tp=given.tp,
                          pp=given.pp, device_setting=given.device)
    return cli.EXIT_OK if equal else cli.EXIT_CHECK_FAILED


if __name__ == "__main__":
    cli.main(command)
