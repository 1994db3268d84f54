"""Fixtures: three networks with a temperature and a rejection rule, and their exports."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_once, write_image

import swinclf
from swinclf.card import ModelCard
from swinclf.confidence.ood import fit_feature_space
from swinclf.confidence.selective import Confidence, Threshold
from swinclf.config import Impl
from swinclf.device import Precision
from swinclf.export_formats import FORMATS
from swinclf.models.build import build_network, build_pretrained
from swinclf.models.embedded import PREPROCESS
from swinclf.models.names import Architecture
from swinclf.models.store import save_model
from swinclf.preprocess import Fit, Interpolation, Preprocess

CLASSES = ("blue", "green", "red")
TEMPERATURE = 1.7


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Images of several sizes and colours."""
    folder = tmp_path_factory.mktemp("photos")
    colours = [(200, 50, 40), (40, 180, 60), (50, 60, 200), (128, 128, 128)]
    for number in range(24):
        size = (40 + 13 * (number % 5), 40 + 9 * (number % 3))
        write_image(folder / f"{number:02d}.png", colours[number % 4], seed=number, size=size)
    return folder


def write_model(name, preprocess, photos, path, *, impl=Impl.TIMM, pretrained=False):
    """A model.safetensors with a head of random weights, a temperature and a rejection rule."""
    torch.manual_seed(0)
    architecture = Architecture(name, impl, len(CLASSES), img_size=preprocess.height)
    network = (build_pretrained if pretrained else build_network)(architecture)
    card = ModelCard(
        model=name, impl=impl, classes=CLASSES, preprocess=preprocess, precision=Precision.FP32
    )
    save_model(path, network, card)
    classifier = swinclf.load(path)
    features = classifier.embed(sorted(photos.iterdir()))
    space = fit_feature_space(features, np.arange(len(features)) % 3)
    scores = space.ood_scores(features)
    probabilities = [one.probability for one in classifier.predict(sorted(photos.iterdir()))]
    confidence = Confidence(
        temperature=TEMPERATURE,
        thresholds=(Threshold(0.9, float(np.quantile(probabilities, 0.2)), 0.5),),
        space=space,
        ood_threshold=float(np.quantile(scores, 0.8)),
    )
    save_model(path, network, ModelCard(**{**vars(card), "confidence": confidence}))


@pytest.fixture(scope="session")
def export_models(shared_folder, tiny_swin, photos):
    """Three networks, each with another preprocessing."""
    colours = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    cubic = {"interpolation": Interpolation.BICUBIC, **colours}
    vit = Preprocess(height=32, width=32, crop_pct=0.9, fit=Fit.CROP, **cubic)
    swin = Preprocess(height=32, width=32, crop_pct=0.9, fit=Fit.SQUASH, **cubic)
    lite = Preprocess(**{**vars(PREPROCESS), "height": 64, "width": 64})
    written = {
        "vit": partial(write_model, "test_vit", vit, photos),
        "swin": partial(write_model, tiny_swin, swin, photos),
        "lite": partial(write_model, "embedded", lite, photos, pretrained=True),
    }
    return {
        name: make_once(shared_folder / f"{name}.safetensors", write)
        for name, write in written.items()
    }


@pytest.fixture(scope="session")
def export_of(export_models, photos, shared_folder):
    """Exports of the models, each written once, by name and format."""

    def find(name, export_format):
        path = shared_folder / name / FORMATS[export_format].default_name
        path.parent.mkdir(exist_ok=True)
        export = swinclf.load(export_models[name]).export
        return make_once(path, partial(export, export_format=export_format, data=photos))

    return find
