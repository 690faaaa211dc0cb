"""Where checkpoints lie: what counts as finished, which one is meant, and what is said when none is."""

import dataclasses
import json

import pytest

from megatron_ft import families
from megatron_ft.errors import CheckpointError
from megatron_ft.runtime import checkpoint_layout as layout


def checkpoint(root, name, **manifest):
    folder = root / layout.folder_name(name)
    folder.mkdir(parents=True)
    for file in ("metadata.json", ".metadata", "common.pt"):
        (folder / file).write_bytes(b"x")
    layout.Manifest(architecture=families.preset("llama2-7b"), stored_vocabulary=32000, dtype="bfloat16",
                    **manifest).write(folder)
    return folder


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    folder = checkpoint(tmp_path, 7, iteration=7, source={"base": "somewhere"})
    manifest = layout.Manifest.read(folder)
    assert manifest == layout.Manifest(architecture=families.preset("llama2-7b"), stored_vocabulary=32000,
                                       dtype="bfloat16", iteration=7, source={"base": "somewhere"})
    assert manifest.family == "llama" and "torch" in manifest.versions


def test_a_root_means_its_latest_checkpoint_and_a_folder_itself(tmp_path):
    first, second = checkpoint(tmp_path, 250), checkpoint(tmp_path, 500)
    assert layout.latest(tmp_path) is None
    layout.set_latest(tmp_path, 500)
    assert layout.find(tmp_path) == layout.latest(tmp_path) == second
    assert layout.find(first) == first
    release = checkpoint(tmp_path, layout.RELEASE)
    layout.set_latest(tmp_path, layout.RELEASE)
    assert layout.find(tmp_path) == release


@pytest.mark.parametrize("file", ["metadata.json", ".metadata", "common.pt", "megatron_ft.json"])
def test_an_unfinished_checkpoint_is_refused_and_finished_ones_are_named(tmp_path, file):
    checkpoint(tmp_path, 250)
    folder = checkpoint(tmp_path, 500)
    (folder / file).unlink()
    layout.set_latest(tmp_path, 500)
    assert not layout.is_complete(folder)
    with pytest.raises(CheckpointError, match=f"unfinished checkpoint, {file} missing.*beside it: iter_0000250"):
        layout.find(tmp_path)


def test_another_megatron_s_checkpoint_is_said_to_be_one(tmp_path):
    folder = checkpoint(tmp_path, 500)
    (folder / "megatron_ft.json").unlink()
    with pytest.raises(CheckpointError, match="or was another Megatron: then python convert/megatron_to_megatron.py"):
        layout.find(folder)
    (tmp_path / "legacy/iter_0000007/mp_rank_00").mkdir(parents=True)
    layout.set_latest(tmp_path / "legacy", 7)
    with pytest.raises(CheckpointError, match="a folder for each rank; make one of ours of it: python convert/megatron"):
        layout.find(tmp_path / "legacy")


def test_nothing_there_is_said_as_such(tmp_path):
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        layout.find(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds neither latest_checkpointed_iteration.txt nor a"):
        layout.find(tmp_path)


def test_a_pointer_to_nowhere_is_refused(tmp_path):
    layout.set_latest(tmp_path, 300)
    with pytest.raises(CheckpointError, match="says '300' but .*iter_0000300 does not exist"):
        layout.find(tmp_path)
    layout.set_latest(tmp_path, "soon")
    with pytest.raises(CheckpointError, match="says 'soon', expected a number or 'release'"):
        layout.find(tmp_path)


def test_a_damaged_or_newer_manifest_is_refused(tmp_path):
    folder = checkpoint(tmp_path, 1)
    manifest = layout.Manifest.read(folder)
    dataclasses.replace(manifest, format_version=99).write(folder)
    with pytest.raises(CheckpointError, match="format_version is 99, this program reads 3"):
        layout.Manifest.read(folder)
    (folder / layout.MANIFEST_FILE).write_text('{"format_version": 1}')
    with pytest.raises(CheckpointError, match="is not a manifest of this project"):
        layout.Manifest.read(folder)
    (folder / layout.MANIFEST_FILE).unlink()
    with pytest.raises(CheckpointError, match="has no megatron_ft.json"):
        layout.Manifest.read(folder)


def test_a_manifest_of_the_first_format_is_read(tmp_path):
    folder = checkpoint(tmp_path, 3)
    content = json.loads((folder / layout.MANIFEST_FILE).read_text())
    for name in ("files", "progress", "layout", "optimizer_state"):
        del content[name]
    (folder / layout.MANIFEST_FILE).write_text(json.dumps({**content, "format_version": 1}))
    manifest = layout.Manifest.read(folder)
    assert (manifest.files, manifest.progress, manifest.optimizer_state) == ({}, {}, ())


def test_a_run_resumes_what_latest_names_or_what_is_older(tmp_path):
    assert layout.to_resume(tmp_path / "nothing") == ([], [])
    folders = {step: checkpoint(tmp_path, step) for step in (250, 500, 750, 12345678)}
    (tmp_path / "iter_0000900").write_text("a file")
    (tmp_path / "iter_0000800_copy").mkdir()
    assert layout.saved_steps(tmp_path) == [12345678, 750, 500, 250]
    layout.set_latest(tmp_path, 500)
    assert layout.to_resume(tmp_path) == ([folders[500], folders[250]], [])
    layout.set_latest(tmp_path, 600)
    found, [odd] = layout.to_resume(tmp_path)
    assert found == [folders[500], folders[250]] and "says '600' but there is no iter_0000600" in odd
    (tmp_path / layout.LATEST_FILE).unlink()
    found, [odd] = layout.to_resume(tmp_path)
    assert found[0] == folders[12345678] and "is missing" in odd
    layout.set_latest(tmp_path, layout.RELEASE)
    assert layout.to_resume(tmp_path) == ([tmp_path / "release"], [])
