"""The program of docs/distributed.md on a local Ray with two workers; run by `make test-ray`."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet
import ray
from conftest import write_dataset

import swinclf

PAGE = Path(__file__).parents[1] / "docs" / "distributed.md"


def test_two_workers_label_a_folder_as_one_classifier_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_dataset(tmp_path / "flowers")
    swinclf.train(data, name="flowers-1", model="embedded")
    write_dataset(tmp_path / "photos")
    (tmp_path / "photos" / "broken.png").write_text("no image")
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    ray.init(num_cpus=4, include_dashboard=False)
    try:
        exec(compile(program, PAGE.name, "exec"), {})
    finally:
        ray.shutdown()
    rows = pyarrow.parquet.read_table(tmp_path / "labels").to_pylist()
    paths = [row["path"] for row in rows]
    expected = swinclf.load("runs/flowers-1").predict(paths)
    assert len(rows) == 37
    assert [row["label"] for row in rows] == [one.label for one in expected]
    assert sum(bool(row["error"]) for row in rows) == 1
