"""A model file whose card is damaged, or is another network's, is refused when it is opened."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import error_lines, stored_confidence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_files import card, write_onnx
from safetensors.torch import load_file

from swinclf.card import ModelCard
from swinclf.errors import RunError, WeightsError
from swinclf.inference.predictor import open_predictor
from swinclf.models.store import load_model, read_card
from swinclf.models.tensorfile import write_tensors

KEYS = tuple(card())


def preprocessing(**changes):
    return json.dumps({**json.loads(card()["preprocessing"]), **changes})


def refused(cli, data, model):
    done = cli("predict", data / "red", "--run", model)
    assert done.code == 1
    assert done.out == ""
    assert "internal error" not in done.err
    return error_lines(done)


def test_a_whole_card_is_taken(cli, trained, tmp_path):
    done = cli("predict", trained.data, "--run", write_onnx(tmp_path / "m.onnx"), "--format", "csv")
    assert done.code == 0, done.err
    assert all(f"/{line.split(',')[1]}/" in line for line in done.out.splitlines()[1:])


@pytest.mark.parametrize(
    ("metadata", "graph", "found"),
    [
        (card(["a", "b"]), {}, "names of 2 classes and a network with 3 logits"),
        (card(["a", "b", "c"]), {"outputs": 5}, "names of 3 classes and a network with 5 logits"),
        (card(["a", "b"]), {"shown": "k"}, "names of 2 classes and a network with 3 logits"),
    ],
)
def test_a_card_that_disagrees_with_the_graph(cli, trained, tmp_path, metadata, graph, found):
    model = write_onnx(tmp_path / "m.onnx", metadata, **graph)
    expected, said, hint = refused(cli, trained.data, model)
    assert "a model card that agrees with the network" in expected
    assert said.startswith(found)
    assert "export the run again" in hint


@pytest.mark.parametrize(
    ("metadata", "graph", "found"),
    [
        (card(side=64), {}, "invalid dimensions for input: pixels"),
        (card(), {"names": ("x", "logits")}, "pixels"),
    ],
)
def test_a_card_of_images_that_the_graph_does_not_take(
    cli, trained, tmp_path, metadata, graph, found
):
    model = write_onnx(tmp_path / "m.onnx", metadata, **graph)
    expected, said, hint = refused(cli, trained.data, model)
    assert f"a network that computes 1 images (onnx) at '{model}'" in expected
    assert found in said
    assert hint == "swinclf export --format onnx"


def test_what_an_earlier_version_stored_is_ignored(cli, trained, tmp_path):
    """A second opinion, which earlier versions had, and the thresholds of its verdict."""
    ours = trained.path / "model.safetensors"
    second = {"by_edges": {"count": 3, "temperature": 1.0}, "bias": 0.5, "weight": 2.0}
    values = {**stored_confidence(trained.path), "thresholds": [[0.9, 0.4, 0.8]], "second": second}
    metadata = {**read_card(ours).to_metadata(), "calibration": json.dumps(values)}
    theirs = tmp_path / "model.safetensors"
    write_tensors(theirs, load_file(ours), metadata)
    words = ("predict", trained.data, "--format", "csv", "--run")
    assert cli(*words, theirs).out == cli(*words, ours).out
    done = cli(*words, theirs, "--reject", "0.9")
    assert done.code == 1
    assert "earlier version" in error_lines(done)[1]


def test_a_graph_of_open_sizes_is_taken(tmp_path):
    path = write_onnx(tmp_path / "m.onnx", side="side", shown="k", channels="c")
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    assert open_predictor(path).outputs(pixels).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("classes", '"abc"', "a list of class names"),
        ("classes", "[1, 2, 3]", "a list of class names"),
        ("classes", "[]", "a list of class names"),
        ("classes", '["a", "b", "a"]', "unique class names. Received twice: 'a'"),
        ("classes", "red, green, blue", "'classes': Expecting value"),
        ("classes", '{"0": "a", "1": "b", "2": "c"}', "a list of class names"),
        ("preprocessing", preprocessing(mean=[0.5, 0.5]), "mean must be three numbers"),
        ("preprocessing", preprocessing(mean=0.5), "mean must be three numbers"),
        ("preprocessing", preprocessing(std=[0.5, 0.0, 0.5]), "std must be three numbers above 0"),
        ("preprocessing", preprocessing(std=[0.5, float("nan"), 1]), "three finite numbers"),
        ("preprocessing", preprocessing(height=-32), "height must be an integer from 1"),
        ("preprocessing", preprocessing(width="32"), "width must be an integer from 1"),
        ("preprocessing", preprocessing(width=10**9), "width must be an integer from 1"),
        ("preprocessing", preprocessing(crop_pct=0), "crop_pct must be above 0"),
        ("preprocessing", preprocessing(interpolation="cubic"), "'cubic' is not a valid"),
        ("preprocessing", "[1]", "'preprocessing': "),
        ("preprocessing", "{}", "no 'mean' in 'preprocessing'"),
        ("calibration", "[]", "calibration must be an object"),
        ("calibration", '{"temperature": 0}', "temperature must be a number > 0"),
        ("calibration", '{"temperature": null}', "'calibration': "),
        ("calibration", '{"temperature": 1, "thresholds": [[1, 2]]}', "'calibration': "),
        ("calibration", '{"temperature": 1, "space": {"mean": 1}}', "'calibration': "),
        ("split", "[1, 2]", "an object"),
        ("split", '{"dataset": "x"}', "a seed and a val_split"),
        ("split", '{"seed": "x", "val_split": 0.2}', "a seed and a val_split"),
        ("split", '{"content": [1]}', "a list of digests as content"),
        ("versions", '{"torch": 2}', "an object of strings"),
        ("model_args", '["depth=3"]', "an object of strings"),
        ("impl", "keras", "'keras' is not a valid Impl"),
        ("precision", "int4", "'int4' is not a valid Precision"),
        ("model", "", "the name of a network"),
        ("classes", "[" * 100_000, "'classes': "),
        ("format", "swinclf-9", "metadata of another program"),
        *((key, None, f"no '{key}'") for key in KEYS if key != "format"),
    ],
)
def test_an_edited_entry(cli, trained, tmp_path, key, value, found):
    metadata = {**card(), key: value}
    if value is None:
        del metadata[key]
    said = refused(cli, trained.data, write_onnx(tmp_path / "m.onnx", metadata))[1]
    assert found in said


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    key=st.sampled_from(KEYS),
    value=st.one_of(
        st.text(max_size=20),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda one: (
                st.lists(one, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["height", "mean", "temperature", "space", "seed"]),
                    one,
                    max_size=4,
                )
            ),
        ).map(json.dumps),
    ),
)
def test_whatever_an_entry_holds_it_is_read_or_refused(key, value):
    said = "'m.onnx'"
    try:
        ModelCard.from_metadata({**card(), key: value}, where="m.onnx")
    except RunError as error:
        said = error.expected
    assert "'m.onnx'" in said


def test_a_weights_file_whose_card_is_of_another_head(trained, tmp_path):
    tensors = load_file(trained.path / "model.safetensors")
    known = read_card(trained.path / "model.safetensors")
    metadata = known.to_metadata()

    def written(**changes):
        path = tmp_path / "model.safetensors"
        write_tensors(path, tensors, {**metadata, **changes})
        return path

    load_model(written())
    with pytest.raises(WeightsError, match=r"head\.bias \(2,\)"):
        load_model(written(classes='["a", "b"]'))
    sizes = {**known.preprocess.to_dict(), "height": 64, "width": 64}
    with pytest.raises(WeightsError, match="pos_embed"):
        load_model(written(preprocessing=json.dumps(sizes)))
    with pytest.raises(RunError, match="mean must be three numbers"):
        load_model(written(preprocessing=json.dumps({**sizes, "mean": [1]})))
