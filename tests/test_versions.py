"""The versions in pyproject.toml: a lower bound for each, an upper one for development tools."""

from __future__ import annotations

import tomllib

import pytest
from lowest_versions import PROJECT, lowest_versions

TEXT = PROJECT.read_text(encoding="utf-8")


def test_every_dependency_has_its_lowest_version() -> None:
    found = dict(line.split("==") for line in lowest_versions(TEXT))
    project = tomllib.loads(TEXT)["project"]
    optional = project["optional-dependencies"]
    extras = [one for name, lines in optional.items() if name != "dev" for one in lines]
    others = [one for one in extras if not one.startswith("swinclf[")]
    assert len(found) == len(project["dependencies"]) + len(others)
    assert found["openvino"]
    assert found["torch"] == "2.11.0"
    assert {"pytest", "ruff"}.isdisjoint(found)


def test_a_dependency_without_a_lower_bound_is_refused() -> None:
    text = '[project]\ndependencies = ["torch"]\n[project.optional-dependencies]\n'
    with pytest.raises(ValueError, match="NAME>=VERSION in pyproject.toml, found 'torch'"):
        lowest_versions(text)


def test_linters_and_type_checkers_have_an_upper_bound() -> None:
    tools = tomllib.loads(TEXT)["project"]["optional-dependencies"]["dev"]
    for name in ("ruff", "mypy", "pytest", "scipy-stubs"):
        (line,) = (line for line in tools if line.startswith(f"{name}>="))
        assert ",<" in line
