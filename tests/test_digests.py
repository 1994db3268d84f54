"""Digests of files: equal for equal contents, and no file is read twice for having two names."""

from __future__ import annotations

import os

from swinclf.data import images
from swinclf.data.images import digest_files, read_bytes


def test_names_of_one_file_share_a_reading(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"one")
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "copy.jpg").write_bytes(b"one")
    (tmp_path / "other.jpg").write_bytes(b"two")
    (tmp_path / "empty.jpg").write_bytes(b"")
    read = []
    monkeypatch.setattr(images, "read_bytes", lambda path: [read.append(path), read_bytes(path)][1])
    names = ["a.jpg", "b.jpg", "copy.jpg", "other.jpg", "empty.jpg", "absent.jpg", "nul\0.jpg"]
    found, errors = digest_files(tmp_path, names)
    assert [path.name for path in read] == [name for name in names if name != "b.jpg"]
    assert found["a.jpg"] == found["b.jpg"] == found["copy.jpg"] != found["other.jpg"]
    assert list(errors) == ["empty.jpg", "absent.jpg", "nul\0.jpg"]
    assert errors["empty.jpg"] == "the file is empty"
    assert all(errors.values())
