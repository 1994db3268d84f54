"""The table of settings, and the two types of configuration that are derived from it."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import get_args

import pytest
from conftest import SMALL_SETTINGS, write_dataset

import swinclf
from swinclf.config import ALWAYS_CHOSEN, SETTING_TYPES, SETTINGS, ResolvedConfig, TrainConfig
from swinclf.errors import ConfigError
from swinclf.settings import gather_settings, setting_text

# A value for every setting that is chosen where it is not given.
CHOSEN = {name: object() for name in ALWAYS_CHOSEN}


def test_what_is_asked_for_and_what_is_resolved_have_the_same_settings():
    names = [[one.name for one in fields(kind)] for kind in (TrainConfig, ResolvedConfig)]
    assert names[0] == names[1] == list(SETTINGS)


def test_a_setting_without_a_default_says_what_is_chosen_or_may_be_none():
    for name, setting in SETTINGS.items():
        optional = type(None) in get_args(SETTING_TYPES[name])
        assert optional == (setting.default is None), name
        assert bool(setting.metadata.get("auto")) == optional, name


def test_a_setting_that_is_always_chosen_is_open_in_what_is_asked_for():
    asked = TrainConfig()
    assert all(getattr(asked, name) is None for name in ALWAYS_CHOSEN)
    assert all(type(None) in get_args(SETTING_TYPES[name]) for name in ALWAYS_CHOSEN)


def test_settings_are_finite():
    for name in ("mixup", "cutmix", "weight_decay", "clip_norm", "teacher_features", "cache_gib"):
        with pytest.raises(ConfigError, match="a finite number"):
            gather_settings({"data": "x", "teacher": "y", name: math.inf})


@pytest.mark.parametrize("name", ALWAYS_CHOSEN)
def test_a_resolved_configuration_has_no_open_setting(name):
    with pytest.raises(TypeError, match=f": {name}$"):
        ResolvedConfig(**{**CHOSEN, name: None})


def test_the_error_for_open_settings_names_all_of_them():
    with pytest.raises(TypeError) as caught:
        gather_settings({"data": "x", "epochs": 3}).resolved()
    open_now = [name for name in ALWAYS_CHOSEN if name != "epochs"]
    assert str(caught.value).endswith(": " + ", ".join(open_now))


def test_after_a_training_only_what_there_is_none_of_is_none(tmp_path):
    data = write_dataset(tmp_path / "colours", per_class=4)
    config = swinclf.train(data, out=tmp_path / "runs", **SMALL_SETTINGS).config
    missing = {name for name in SETTINGS if getattr(config, name) is None}
    optional = {"weights", "freeze_stages", "val", "teacher", "unlabelled", "name"}
    of_a_teacher = {name for name in SETTINGS if name.startswith("teacher_")}
    assert missing == optional | of_a_teacher
    assert missing.isdisjoint(ALWAYS_CHOSEN)
    assert missing | set(ALWAYS_CHOSEN) == {
        name for name, setting in SETTINGS.items() if setting.default is None
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.48512345,0.456,0.40612345", "0.4851,0.456,0.4061"),
        ("0.48512345, 0.456", "0.4851, 0.456"),
        ("runs/1.20241128", "runs/1.20241128"),
        ("1.20241128/model.safetensors", "1.20241128/model.safetensors"),
    ],
)
def test_numbers_are_short_but_not_those_in_names(value, text):
    assert setting_text(value) == text
