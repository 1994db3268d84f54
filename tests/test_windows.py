"""Windows: the main job by its rules about files, and without what only POSIX systems have."""

from __future__ import annotations

import ast
import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import windows_rules
from conftest import error_lines, write_dataset

import swinclf
from swinclf import files, latest_run, shell_quoting
from swinclf.cli.run_tables import unfinished_text
from swinclf.data.folder import VAL, ImageFile, scan_folder
from swinclf.data.images import content_digest, read_bytes
from swinclf.data.relocate import find_by_content
from swinclf.errors import SwinclfError
from swinclf.latest_run import follow_latest, mark_latest
from swinclf.models.weights.find import find_weights
from swinclf.run_folder import RunFolder, find_model
from swinclf.shell_quoting import command_line, quoted

PACKAGE = Path(swinclf.__file__).parent
on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="which files are open is read from /proc"
)


@on_linux
def test_the_main_job_by_the_rules_of_windows(tmp_path, exported_network):
    write_dataset(tmp_path / "colours", per_class=6)
    (tmp_path / "network.onnx").write_bytes(exported_network)
    words = [sys.executable, windows_rules.__file__, tmp_path, tmp_path / "network.onnx"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"answers": 18, "left": [], "latest": "colours-2"}


def test_no_module_uses_what_windows_lacks_unguarded():
    lacking = {"os": windows_rules.OF_OS, "signal": windows_rules.OF_SIGNAL}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & set(windows_rules.MODULES), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module, name = node.value.id, node.attr
                is_lacking = name in lacking.get(module, ()) or name in ("geteuid", "O_NONBLOCK")
                assert not is_lacking or f'hasattr({module}, "{name}")' in text, (path, name)


def test_tests_and_benchmarks_can_be_imported_on_windows():
    for folder in (PACKAGE.parent / "tests", PACKAGE.parent / "benchmarks"):
        for path in folder.rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                    assert not names & set(windows_rules.MODULES), path


def test_a_file_is_read_where_there_is_no_flag_for_pipes(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"content")
    with monkeypatch.context() as patch:
        patch.delattr(os, "O_NONBLOCK", raising=False)
        assert read_bytes(tmp_path / "a.png") == b"content"


@pytest.mark.parametrize("has_links", [True, False])
def test_latest_is_a_link_or_a_file_that_names_the_run(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "symlink", windows_rules.no_links)
    elif sys.platform == "win32":
        pytest.skip("links are a privilege on Windows")
    for name in ("a-1", "b-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
        mark_latest(tmp_path / name)
        latest = tmp_path / "latest"
        assert latest.is_symlink() is has_links
        for path in (latest, latest / "model.safetensors"):
            found = follow_latest(path)
            assert found.exists()
            assert found.resolve().is_relative_to((tmp_path / name).resolve())
    assert follow_latest(tmp_path / "b-1") == tmp_path / "b-1"
    if not has_links:
        latest.write_text("gone", encoding="utf-8")
        assert follow_latest(latest) == latest


def test_latest_is_updated_on_windows_where_it_was_a_link(tmp_path, monkeypatch):
    def replace(self, target):
        if target.is_symlink() and target.is_dir():
            raise PermissionError(errno.EACCES, "Access is denied")
        return real(self, target)

    real = Path.replace
    for name in ("a-1", "b-1", "c-1"):
        (tmp_path / name).mkdir()
    if sys.platform != "win32":
        mark_latest(tmp_path / "a-1")
    monkeypatch.setattr(latest_run, "_IS_WINDOWS", True)
    monkeypatch.setattr(Path, "replace", replace)
    for name in ("b-1", "c-1"):
        mark_latest(tmp_path / name)
        assert follow_latest(tmp_path / "latest").resolve() == (tmp_path / name).resolve()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a-1", "b-1", "c-1", "latest"]


def test_latest_that_cannot_be_replaced_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Access is denied")

    (tmp_path / "a-1").mkdir()
    monkeypatch.setattr(Path, "replace", refuse)
    mark_latest(tmp_path / "a-1")
    assert list(tmp_path.iterdir()) == [tmp_path / "a-1"]


def test_a_file_in_use_for_a_moment_is_tried_again_on_windows_alone(tmp_path, monkeypatch):
    real, tries = Path.replace, []

    def replace(self, target):
        tries.append(self)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, "in use")
        return real(self, target)

    monkeypatch.setattr(files, "_RENAME_WAIT_S", 0)
    monkeypatch.setattr(Path, "replace", replace)
    (tmp_path / "a").touch()
    with pytest.raises(PermissionError):
        files.replace_path(tmp_path / "a", tmp_path / "b")
    assert len(tries) == 1
    monkeypatch.setattr(files, "_IS_WINDOWS", True)
    files.replace_path(tmp_path / "a", tmp_path / "b")
    assert len(tries) == 4
    assert (tmp_path / "b").exists()


def test_commands_are_quoted_for_the_shell_of_the_system(monkeypatch):
    words = ["swinclf", "train", "my data", "C:\\runs\\a-1", "it's"]
    assert command_line(words) == "swinclf train 'my data' 'C:\\runs\\a-1' 'it'\"'\"'s'"
    monkeypatch.setattr(shell_quoting, "_IS_WINDOWS", True)
    assert command_line(words) == 'swinclf train "my data" C:\\runs\\a-1 "it\'s"'
    assert command_line(["a,b", "@c", "--x=1"]) == '"a,b" "@c" --x=1'  # for PowerShell


def test_suggested_commands_can_be_typed_in_cmd(cli, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(shell_quoting, "_IS_WINDOWS", True)
    run = SimpleNamespace(name="a-1", path=Path("my runs/a-1"), state="interrupted")
    assert unfinished_text([run]).endswith('swinclf train --resume "my runs/a-1"')
    table = tmp_path / "my labels.csv"
    files.write_csv(table, ["path", "label"], [("red/000.png", "blue")])
    done = cli("relabel", table, "--data", dataset, "--yes")
    assert f'to undo: swinclf relabel --undo "{tmp_path / "my labels-undo.json"}"' in done.err
    assert error_lines(cli("train", dataset, "--epochs", "a few"))[1] == '"a few"'


@pytest.mark.parametrize("is_windows", [False, True])
def test_commands_in_hints_can_be_typed_for_any_name(tmp_path, monkeypatch, is_windows):
    monkeypatch.setattr(shell_quoting, "_IS_WINDOWS", is_windows)
    run = RunFolder(tmp_path / "Ann's runs" / "a-1")
    run.path.mkdir(parents=True)
    for file in (run.config, run.split, run.checkpoint):
        file.touch()
    for find in (find_model, find_weights):
        with pytest.raises(SwinclfError) as caught:
            find(run.path)
        command, _, path = caught.value.hint.partition(" --resume ")
        assert command == "swinclf train"
        assert path == f'"{run.path}"' if is_windows else shlex.split(path) == [str(run.path)]
    if is_windows:
        assert quoted("D:\\") == '"D:\\\\"'  # \" is no end


def test_validation_images_on_another_drive_are_named_by_their_whole_path(tmp_path, monkeypatch):
    def relpath(path, start):
        if Path(path).is_relative_to(tmp_path / "elsewhere"):
            raise ValueError("path is on mount 'D:', start on mount 'C:'")
        return real(path, start)

    real = os.path.relpath
    write_dataset(tmp_path / "colours", per_class=1)
    write_dataset(tmp_path / "elsewhere", per_class=1)
    monkeypatch.setattr(os.path, "relpath", relpath)
    index = scan_folder(tmp_path / "colours", val=tmp_path / "elsewhere")
    paths = [image.path for image in index.images if image.split == VAL]
    assert paths == [f"{tmp_path}/elsewhere/{name}/000.png" for name in ("blue", "green", "red")]
    assert all((index.root / path).is_file() for path in paths)
    digests = [content_digest((index.root / path).read_bytes()) for path in paths]
    images = [ImageFile(f"old/{number}.png", "old", VAL) for number in range(3)]
    moved, missing = find_by_content(index.root, [tmp_path / "elsewhere"], images, digests)
    assert [image.path for image in moved] == paths
    assert not missing
