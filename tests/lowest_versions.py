"""Print the lowest version that pyproject.toml allows of each dependency, as pip constraints.

    python tests/lowest_versions.py > constraints.txt

The tools of the `dev` extra are left out: they are not part of what users install.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?>=(?P<version>[0-9.]+)(,<[0-9.]+)?")


def lowest_versions(text: str) -> list[str]:
    """Return a line NAME==VERSION for each runtime dependency and each optional one.

    Args:
        text: What pyproject.toml holds.

    Raises:
        ValueError: If a dependency has no lower bound.
    """
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    optional = [line for name, lines in extras.items() if name != "dev" for line in lines]
    found = []
    for line in [*project["dependencies"], *optional]:
        if line.startswith("swinclf["):
            continue  # another extra
        match = REQUIREMENT.fullmatch(line)
        if match is None:
            raise ValueError(f"expected NAME>=VERSION in pyproject.toml, found {line!r}")
        found.append(f"{match['name']}=={match['version']}")
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join([*lowest_versions(PROJECT.read_text(encoding="utf-8")), ""]))
