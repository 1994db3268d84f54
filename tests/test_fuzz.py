"""Damaged inputs of every kind: an answer or the error that is documented, never anything else."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swinclf.config import SETTINGS
from swinclf.files import csv_text, read_csv, to_json, write_csv, write_json
from swinclf.settings import gather_settings

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from tortures import fuzz  # noqa: E402

SMALL = settings(max_examples=100, deadline=None, derandomize=True, database=None)
NAMES = st.text(st.characters(exclude_characters="\x00"), min_size=1, max_size=40)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text())
)


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_inputs(tmp_path):
    rng = np.random.default_rng(0)
    for name, (whole, read) in fuzz.readers(tmp_path).items():
        outcomes = set()
        for number in range(40):
            data = fuzz.damaged(whole[number % len(whole)], rng)
            outcome = fuzz.outcome_of(read, data)
            assert outcome in ("answered", "refused"), (name, outcome, data)
            outcomes.add(outcome)
        assert outcomes, name


@SMALL
@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_picture(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fuzz.outcome_of(fuzz.read_image, data) in ("answered", "refused")


@SMALL
@given(values=st.dictionaries(st.sampled_from(sorted(SETTINGS)), VALUES, max_size=4))
def test_settings_of_any_type(values):
    outcome = fuzz.outcome_of(lambda _: gather_settings(values), b"")
    assert outcome in ("answered", "refused")
    if outcome == "answered":
        made = gather_settings(values)
        assert all(made.is_given(name) is (value is not None) for name, value in values.items())


@SMALL
@given(rows=st.lists(st.tuples(NAMES, NAMES), max_size=5))
def test_names_come_through_tables_unharmed(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "names.csv"
    write_csv(path, ("path", "label"), rows)
    assert [(row["path"], row["label"]) for row in read_csv(path, ("path", "label"))] == rows
    assert csv_text(rows).count("\n") >= len(rows)


@SMALL
@given(names=st.dictionaries(NAMES, NAMES, max_size=5))
def test_names_come_through_json_unharmed(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "names.json"
    write_json(path, names)
    assert json.loads(path.read_text(encoding="utf-8")) == names == json.loads(to_json(names))
