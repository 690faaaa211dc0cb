"""Damaged and hostile files of every kind that is read: refused by name, or without any effect on what comes out."""

import argparse
import contextlib
import os
import pickle
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file

from megatron_ft.conversion import dcp_metadata, hf_manifest, hf_to_megatron, megatron_to_hf
from megatron_ft.conversion.opening import Hints
from megatron_ft.errors import MegatronFTError
from megatron_ft.runtime import checkpoint_files, torch_file
from tests.conversion.legacy_writer import write
from tests.conversion.test_round_trip import tensors_of
from tests.small_models import hf_config, make_hf_model

PLACES = 50
HINTS = Hints(vocabulary=203)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """kind -> (folder, function that converts it): a LLaMA as each kind of folder that is read, and its tensors."""
    root = tmp_path_factory.mktemp("whole")
    hf = make_hf_model("llama", "gqa", root / "first")
    made = hf_to_megatron.convert(hf, root / "torch_dist")
    megatron_to_hf.convert(made, root / "hf")
    write(root / "legacy", load_file(hf / "model.safetensors"), hf_config("llama", "gqa"), dialect="nvidia", tp=2, pp=2)
    (root / "bin").mkdir()
    shutil.copy(hf / "config.json", root / "bin/config.json")
    torch.save(load_file(hf / "model.safetensors"), root / "bin/pytorch_model.bin")
    return root, tensors_of(hf)


def come_through(kind, folder, output):
    """The tensors after a conversion."""
    if kind in ("hf", "bin"):
        folder = hf_to_megatron.convert(folder, output.with_name("between"))
    return tensors_of(megatron_to_hf.convert(folder, output, hints=HINTS if kind == "legacy" else Hints()))


def survives(kind, folder, output, tensors):
    """Whether a conversion went through; what it gave must then be the right bits."""
    try:
        found = come_through(kind, folder, output)
    except MegatronFTError as error:
        assert str(error)
        assert not list(output.parent.glob(f"*{output.name}*")), "something half-written is left"
        return False
    finally:
        for path in (output, output.with_name("between")):
            shutil.rmtree(path, ignore_errors=True)
    assert sorted(found) == sorted(tensors) and all(torch.equal(found[name], tensors[name]) for name in tensors)
    return True


def places(folder, seed):
    """50 random (file, byte), each byte of the folder as likely."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    draw = random.Random(seed)
    return [(path.relative_to(folder), draw.randrange(path.stat().st_size)) for path in
            draw.choices(files, weights=[path.stat().st_size for path in files], k=PLACES)]


@pytest.mark.parametrize("kind", ["torch_dist", "legacy", "hf", "bin"])
def test_a_file_cut_anywhere_is_refused(whole, tmp_path, kind):
    root, tensors = whole
    for number, (name, offset) in enumerate(places(root / kind, seed=1)):
        damaged = shutil.copytree(root / kind, tmp_path / f"{kind}{number}")
        os.truncate(damaged / name, offset)
        went_through = survives(kind, damaged, tmp_path / "out", tensors)
        # what is for people to change may be cut, with a warning and without an effect on weights
        assert not went_through or name.name in ("generation_config.json", "README.md", "conversion.json"), (name, offset)


@pytest.mark.parametrize("kind", ["torch_dist", "legacy", "hf", "bin"])
def test_a_flipped_byte_is_refused_or_has_no_effect(whole, tmp_path, kind):
    root, tensors = whole
    refused = 0
    for number, (name, offset) in enumerate(places(root / kind, seed=2)):
        damaged = shutil.copytree(root / kind, tmp_path / f"{kind}{number}")
        with (damaged / name).open("r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)[0]
            stream.seek(offset)
            stream.write(bytes([byte ^ (1 << number % 8)]))
        refused += not survives(kind, damaged, tmp_path / "out", tensors)
        if kind == "hf" and name.name != "README.md":
            manifest = _manifest(damaged)
            assert manifest is None or checkpoint_files.damage(damaged, manifest.files), (name, offset)
    assert refused >= {"torch_dist": 40, "legacy": 20, "hf": 40, "bin": 30}[kind]


def _manifest(folder):
    try:
        return hf_manifest.read(folder)
    except MegatronFTError:
        return None


class Hostile:
    """Makes a pickle that runs a command when it is loaded carelessly."""

    def __init__(self, marker, how):
        self.marker, self.how = marker, how

    def __reduce__(self):
        command = f"touch {self.marker}"
        return {"system": (os.system, (command,)), "eval": (eval, (f"__import__('os').system({command!r})",)),
                "getattr": (getattr, (argparse.Namespace, "__init__")),
                "partial": (__import__("functools").partial, (os.system, command))}[self.how]


@pytest.mark.parametrize("how", ["system", "eval", "getattr", "partial"])
def test_no_pickle_runs_anything(whole, tmp_path, how):
    marker = tmp_path / "ran"
    hostile = Hostile(marker, how)
    saved = {"model": {"weight": torch.ones(2)}, "args": hostile}
    torch.save(saved, tmp_path / "new.pt")
    torch.save(saved, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("new.pt", "old.pt"):
        with pytest.raises(MegatronFTError, match=r"names \w+\.\w+, which no checkpoint needs|asks a \w+ for"):
            torch_file.load(tmp_path / name)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(hostile))
    with pytest.raises(MegatronFTError, match=r"names \w+\.\w+, which no checkpoint needs"):
        dcp_metadata.read_metadata(tmp_path)
    assert not marker.exists()


def test_nan_and_infinity_are_named(whole, tmp_path):
    from safetensors.torch import save_file

    root, tensors = whole
    for name, value in (("model.layers.2.self_attn.k_proj.weight", float("nan")), ("model.norm.weight", float("inf"))):
        hf = shutil.copytree(root / "first", tmp_path / name)
        changed = {**tensors, name: tensors[name].clone()}
        changed[name].view(-1)[7] = value
        save_file(changed, hf / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(MegatronFTError, match=f"{name} holds NaN or infinity in rows"):
            hf_to_megatron.convert(hf, tmp_path / "out")
        assert not list(tmp_path.glob("*out*"))


def test_a_number_beyond_the_dtype_asked_for_is_refused(whole, tmp_path):
    from safetensors.torch import save_file

    root, tensors = whole
    hf = shutil.copytree(root / "first", tmp_path / "large")
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] * 1e6}, hf / "model.safetensors")
    with pytest.raises(MegatronFTError, match=r"final_layernorm.weight holds .*, which float16 cannot hold \(largest: 65504\)"):
        hf_to_megatron.convert(hf, tmp_path / "out", dtype="float16")


def classes():
    import pathlib

    from megatron_ft.conversion import dcp_metadata

    return [pathlib.PosixPath, pathlib.PurePath, argparse.Namespace, *dcp_metadata._CLASSES]


def setting(module, name, attribute):
    """A pickle that sets an attribute of a class that it names."""
    word = b"X" + len(attribute).to_bytes(4, "little") + attribute.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"N}" + word + b"ccollections\nOrderedDict\ns\x86b."


@pytest.mark.parametrize("module, name, attribute", [
    ("pathlib", "PosixPath", "exists"), ("torch.distributed.checkpoint.metadata", "MetadataIndex", "__eq__"),
    ("torch.distributed.checkpoint.metadata", "Metadata", "storage_data"), ("argparse", "Namespace", "__eq__")])
def test_no_pickle_changes_a_class_of_ours(tmp_path, module, name, attribute):
    before = [dict(vars(each)) for each in classes()]
    content = setting(module, name, attribute)
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(MegatronFTError):
        dcp_metadata.read_metadata(tmp_path)
    torch.save({"a": 1}, tmp_path / "file.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "file.pt").write_bytes((tmp_path / "file.pt").read_bytes().replace(pickle.dumps({"a": 1}, protocol=2), content))
    with contextlib.suppress(MegatronFTError):
        torch_file.load(tmp_path / "file.pt")
    assert [dict(vars(each)) for each in classes()] == before


def test_chunks_that_overlap_are_not_taken_for_a_whole(whole, tmp_path):
    import json

    root, _ = whole
    damaged = shutil.copytree(root / "torch_dist/release", tmp_path / "release")
    manifest = json.loads((damaged / "megatron_ft.json").read_text())
    (damaged / "megatron_ft.json").write_text(json.dumps({**manifest, "files": {}, "tensor_crc32": {}}))
    metadata = pickle.loads((damaged / ".metadata").read_bytes())
    entry = metadata.state_dict_metadata["decoder.final_layernorm.weight"]
    entry.chunks.append(entry.chunks[0])
    entry.size = torch.Size([96])
    (damaged / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(MegatronFTError, match=r"final_layernorm.weight is stored in chunks that overlap|has shape \[96\]"):
        megatron_to_hf.convert(damaged, tmp_path / "out")
    from megatron_ft.conversion.torch_dist import TorchDistSource

    with pytest.raises(MegatronFTError, match="final_layernorm.weight is stored in chunks that overlap or stick out"):
        TorchDistSource(damaged).reading("decoder.final_layernorm.weight")


def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    tensor = torch.arange(8.0)
    torch.save(tensor, tmp_path / "file.pt")
    content = (tmp_path / "file.pt").read_bytes()
    pid = b"K\x08tq"  # the number of the storage's numbers, at the end of its persistent id
    assert content.count(pid) == 1
    (tmp_path / "file.pt").write_bytes(content.replace(pid, b"K\x02tq"))
    with pytest.raises(MegatronFTError):
        torch_file.load(tmp_path / "file.pt")
    torch.save(tensor, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "old.pt").read_bytes()
    shape = content.index(b"K\x08\x85")
    (tmp_path / "old.pt").write_bytes(content[:shape] + b"K\x09" + content[shape + 2:])
    with pytest.raises(MegatronFTError, match="a tensor of shape .9,. in a storage of 8 numbers"):
        torch_file.load(tmp_path / "old.pt")
