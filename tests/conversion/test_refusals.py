"""Bad input and bad files: refused with the reason, and nothing half-written is left."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ft.conversion import dcp_metadata, hf_to_megatron, megatron_to_hf
from megatron_ft.conversion.megatron_to_hf import Options
from megatron_ft.conversion.torch_dist import TorchDistSink
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.runtime import hf_files
from tests.small_models import make_hf_model


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_hf_model("llama", "gqa", tmp_path_factory.mktemp("source") / "hf")


@pytest.fixture
def hf(source, tmp_path):
    """A copy that a test may damage."""
    import shutil

    return shutil.copytree(source, tmp_path / "hf")


@pytest.fixture
def release(source, tmp_path):
    """A converted checkpoint that a test may damage."""
    return hf_to_megatron.convert(source, tmp_path / "megatron") / "release"


def refuse(hf, tmp_path, error, message, **options):
    with pytest.raises(error, match=message):
        hf_to_megatron.convert(hf, tmp_path / "out", **options)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name], "something half-written is left"


def refuse_export(checkpoint, tmp_path, message, error=CheckpointError):
    with pytest.raises(error, match=message):
        megatron_to_hf.convert(checkpoint, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name], "something half-written is left"


def change(hf, **tensors):
    """Replace (or with None remove) tensors of a folder; a dot in a name is written as __ here."""
    held = load_file(hf / "model.safetensors")
    for name, tensor in tensors.items():
        held.pop(name.replace("__", "."), None)
        if tensor is not None:
            held[name.replace("__", ".")] = tensor
    save_file(held, hf / "model.safetensors", metadata={"format": "pt"})


def test_missing_extra_and_misshapen_tensors_are_refused_by_name(hf, tmp_path):
    change(hf, model__norm__weight=None)
    refuse(hf, tmp_path, CheckpointError, "tensor model.norm.weight is missing")
    change(hf, model__norm__weight=torch.ones(47))
    refuse(hf, tmp_path, CheckpointError, r"model.norm.weight has shape \[47\], expected \[48\]")
    change(hf, model__norm__weight=torch.ones(48), adapter__weight=torch.ones(2))
    refuse(hf, tmp_path, CheckpointError, "tensor adapter.weight is unknown")


def test_an_unknown_config_key_is_refused_before_weights_are_read(hf, tmp_path):
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, "sliding_window": 1024}))
    (hf / "model.safetensors").unlink()
    refuse(hf, tmp_path, ConfigError, "unknown key sliding_window = 1024")


def test_an_output_that_exists_is_never_touched(hf, release, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="--output: .*out exists already"):
        hf_to_megatron.convert(hf, tmp_path / "out")
    with pytest.raises(ConfigError, match="--output: .*out exists already"):
        megatron_to_hf.convert(release, tmp_path / "out")


def test_a_tied_config_with_a_head_of_its_own_is_refused(hf, tmp_path):
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    refuse(hf, tmp_path, CheckpointError, "lm_head.weight differs from model.embed_tokens.weight, but config.json ties")


def test_mixed_and_unusual_dtypes_are_refused_unless_one_is_asked_for(hf, tmp_path):
    change(hf, model__norm__weight=torch.ones(48, dtype=torch.bfloat16))
    refuse(hf, tmp_path, CheckpointError, "tensors differ in dtype .*bfloat16.*pass --dtype")
    refuse(hf, tmp_path, ConfigError, "--dtype: 'int4' is unknown; use one of keep, float32", dtype="int4")
    hf_to_megatron.convert(hf, tmp_path / "converted", dtype="float32")
    change(hf, model__norm__weight=torch.ones(48, dtype=torch.int8))
    refuse(hf, tmp_path, CheckpointError, "model.norm.weight is int8, expected one of float32")


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 5000, -1])
def test_a_truncated_safetensors_file_is_refused(hf, tmp_path, keep):
    path = hf / "model.safetensors"
    os.truncate(path, keep if keep >= 0 else path.stat().st_size - 1)
    refuse(hf, tmp_path, CheckpointError, "model.safetensors: has .*; the file is cut short or no safetensors file")


def test_a_folder_without_weights_or_with_a_missing_shard_is_refused(hf, tmp_path):
    (hf / "model.safetensors").rename(hf / "model-00001-of-00002.safetensors")
    refuse(hf, tmp_path, CheckpointError, "holds no weights; expected model.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(hf, tmp_path, CheckpointError, "names model-00002-of-00002.safetensors, not found beside it")
    (hf / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../hf/model.safetensors"}}))
    refuse(hf, tmp_path, CheckpointError, "names ../hf/model.safetensors, expected files beside it")
    (hf / "model.safetensors.index.json").write_text("{}")
    refuse(hf, tmp_path, CheckpointError, "is no weight index")
    with pytest.raises(CheckpointError, match="no such folder"):
        hf_files.open_weights(tmp_path / "absent")


class _Hostile:
    """Makes a pickle that runs a command when it is loaded carelessly."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_hostile_weights_pickle_is_refused_and_not_run(hf, tmp_path):
    (hf / "model.safetensors").unlink()
    torch.save({"model.norm.weight": _Hostile(tmp_path / "ran")}, hf / "pytorch_model.bin")
    refuse(hf, tmp_path, CheckpointError, r"pytorch_model.bin: it cannot be read .*names \w+.system, which no checkpoint needs")
    assert not (tmp_path / "ran").exists()


def forget_sums(release):
    """Make it a checkpoint of a version that noted none."""
    manifest = json.loads((release / "megatron_ft.json").read_text())
    (release / "megatron_ft.json").write_text(json.dumps({**manifest, "files": {}, "tensor_crc32": {}}))


def test_a_hostile_metadata_pickle_is_refused_and_not_run(release, tmp_path):
    forget_sums(release)
    (release / ".metadata").write_bytes(pickle.dumps(_Hostile(tmp_path / "ran")))
    refuse_export(release, tmp_path, r".metadata: refused .*names (posix|nt).system, which no checkpoint needs")
    assert not (tmp_path / "ran").exists()


def test_tensors_outside_the_folder_are_not_looked_at(release, tmp_path):
    forget_sums(release)
    (release / "__0_0.distcp").rename(tmp_path / "elsewhere")
    metadata = pickle.loads((release / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = "../../elsewhere"
    (release / ".metadata").write_bytes(pickle.dumps(metadata))
    refuse_export(release, tmp_path, r"is in ../../elsewhere, outside the folder")


def test_a_metadata_pickle_of_something_else_is_refused(release):
    (release / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="it holds a dict"):
        dcp_metadata.read_metadata(release)


def test_an_unfinished_checkpoint_is_refused(release, tmp_path):
    (release / "metadata.json").unlink()
    refuse_export(tmp_path / "megatron", tmp_path, "unfinished checkpoint, metadata.json missing")


@pytest.mark.parametrize("keep", [0, 1000, 50_000, -1000])
def test_truncated_tensor_files_are_refused(release, tmp_path, keep):
    path = release / "__0_0.distcp"
    # the objects and not the tensors are written last, so that the last kilobyte alone would not be missed
    size = path.stat().st_size
    os.truncate(path, keep if keep >= 0 else size * 2 // 3)
    refuse_export(release, tmp_path, "__0_0.distcp has .* bytes, expected 453123; it is damaged")
    forget_sums(release)
    refuse_export(release, tmp_path, "__0_0.distcp: .* cannot be read .*the file is damaged")


def test_a_checkpoint_of_other_sizes_than_its_manifest_is_refused(release, tmp_path):
    manifest = json.loads((release / "megatron_ft.json").read_text())
    (release / "hf/config.json").unlink()
    for field, value, message in (("ffn", 90, r"linear_fc1.weight has shape \[184, 48\], expected \[180, 48\]"),
                                  ("layers", 3, "is stored for 4 layers, but the manifest says 3"),
                                  ("tied_head", True, "holds output_layer.weight, unknown to family llama"),
                                  ("linear_bias", True, "decoder.layers.0.self_attention.linear_proj.bias is missing")):
        changed = {**manifest, "architecture": {**manifest["architecture"], field: value}}
        (release / "megatron_ft.json").write_text(json.dumps(changed))
        refuse_export(release, tmp_path, message)


def test_a_kept_config_of_another_model_is_refused(release, tmp_path):
    path = release / "hf/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 1e-6}))
    refuse_export(release, tmp_path, "norm_epsilon is 1e-06, but 1e-05 in .*megatron_ft.json")


def test_a_size_that_is_none_is_refused(release, tmp_path):
    with pytest.raises(ConfigError, match="--max-shard-size: 'big' is no size"):
        megatron_to_hf.convert(release, tmp_path / "out", Options(max_shard_size="big"))


def test_a_writer_that_stops_early_leaves_nothing_that_looks_complete(tmp_path):
    sink = TorchDistSink(tmp_path, {"decoder.final_layernorm.weight": (3,)}, torch.float32, layers=2)
    writing = sink.chunk("decoder.final_layernorm.weight")
    writing.write(0, torch.ones(3))
    writing.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["__0_0.distcp"]
