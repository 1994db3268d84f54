"""README and docs cannot lie: trees, tables and the command reference are those of the code."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
import tomllib
from pathlib import Path

import typer
import yaml
from agent_docs import EXIT_CODES, JSON_KEYS, llms, skill
from cli_reference import cli_reference
from command_lines import GROUP
from test_architecture import LEVELS

import swinclf
from swinclf.errors import ExitCode

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"


def tree() -> str:
    """The package's files, one a line, each with the first sentence of its docstring."""
    lines = []
    for path in sorted((ROOT / "swinclf").rglob("*"), key=_sort_key):
        if path.suffix == ".py" and (path.name != "__init__.py" or path.parent.name != "swinclf"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            depth = len(path.relative_to(ROOT).parts) - 2
            is_folder = path.name == "__init__.py"
            name = f"{path.parent.name}/" if is_folder else path.name
            indent = "  " * (depth - 1 if is_folder else depth)
            lines.append(f"{indent + name:<22} {docstring.splitlines()[0]}")
    return "\n".join(lines)


def _sort_key(path: Path) -> tuple[object, ...]:
    """Files before folders, and a folder's own line before its files."""
    *folders, name = path.relative_to(ROOT).parts
    return (*((True, folder) for folder in folders), (False, "" if name == "__init__.py" else name))


def levels() -> str:
    """The levels of the package, the top one first: each imports only from those below it."""
    rows = (", ".join(sorted(names)) for names in reversed(LEVELS))
    lines = [textwrap.fill(row, 74, subsequent_indent="  ") for row in rows]
    return "  " + "\n↓ ".join(lines)


def architecture() -> str:
    """The page about the architecture with its generated parts: the levels and the tree."""
    page = ARCHITECTURE.read_text(encoding="utf-8")
    for part, text in (("levels", levels()), ("tree", tree())):
        before, start, rest = page.partition(f"<!-- {part} -->\n")
        _, end, after = rest.partition(f"<!-- /{part} -->")
        assert start, f"<!-- {part} -->"
        assert end, f"<!-- /{part} -->"
        page = f"{before}{start}```text\n{text}\n```\n{end}{after}"
    return page


def test_the_architecture_is_that_of_the_code():
    assert ARCHITECTURE.read_text(encoding="utf-8") == architecture(), (
        "write it again: python tests/test_readme.py"
    )


def test_the_command_reference_is_what_help_prints():
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == cli_reference(), (
        "write it again: python tests/cli_reference.py > docs/cli.md"
    )


def test_the_pages_for_programs_are_those_of_the_commands():
    assert (DOCS / "SKILL.md").read_text(encoding="utf-8") == skill(), "python tests/agent_docs.py"
    assert (DOCS / "llms.txt").read_text(encoding="utf-8") == llms(), "python tests/agent_docs.py"
    assert len(skill().splitlines()) <= 120
    assert set(JSON_KEYS) == set(GROUP.commands)
    assert set(EXIT_CODES) == set(ExitCode)
    linked = re.findall(r"\]\((.*?)\)", llms())
    assert len(linked) > 15
    assert [page for page in linked if not (DOCS / page).is_file()] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) < 220


def test_every_page_is_in_the_navigation_and_in_the_index():
    config = yaml.safe_load((ROOT / ".mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(_leaves(config["nav"]))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert listed == pages
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)#]+)\)", index))
    top = {path.name for path in DOCS.glob("*.md")} - {"index.md"}
    assert linked == top | {"decisions/README.md"}


def test_the_website_loads_nothing_from_elsewhere():
    config = yaml.safe_load((ROOT / ".mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    assert not config.keys() & {"extra_javascript", "extra_css", "extra"}
    assert config["plugins"] == ["search"]


def _leaves(nav: object) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    nested = nav.values() if isinstance(nav, dict) else nav
    return [page for one in nested for page in _leaves(one)]


def test_what_inspect_prints(cli):
    page = (DOCS / "inspect.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- inspect -->\n```console\n\$ swinclf (.*?)\n(.*?)```", page, re.DOTALL)
    assert block
    printed = cli(*shlex.split(block[1])).out.splitlines()
    shown = [line for line in block[2].splitlines() if line.strip() != "..."]
    assert shown
    assert [line for line in shown if line not in printed] == []


def test_every_command_is_documented():
    from swinclf.cli import commands  # noqa: F401
    from swinclf.cli.program import app

    names = list(typer.main.get_group(app).commands)
    assert names
    for name in names:
        assert f"| `swinclf {name}" in README


def test_every_file_of_a_run_is_documented(trained):
    for path in trained.path.iterdir():
        assert f"`{path.name}" in README or f"`{path.suffix}`" in README, path.name


def test_limits_and_promises_are_those_of_the_code():
    from swinclf.data import limits

    about = (DOCS / "data.md").read_text(encoding="utf-8")
    assert f"files over {limits.MAX_FILE_BYTES // 1024**2} MiB" in about
    assert "no pickle is ever loaded" not in README  # `.pth` files are pickles, read restricted
    assert "No code in a weights file is ever executed" in README
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert f"above {limits.MAX_FILE_BYTES // 1024**2} MiB" in security
    assert f"{limits.MAX_PIXELS // 10**6} million pixels for most" in security
    assert "No code in a weights file is executed" in security


def test_types_come_with_the_package():
    assert (ROOT / "swinclf" / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["swinclf"]
    assert "Typing :: Typed" in project["project"]["classifiers"]


def test_the_source_archive_has_what_the_tests_read():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    tests = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*.py"))
    read = set(re.findall(r"ROOT(?:\.glob\(|/| / )\"([^\"/*]+)", tests)) - {
        "build",
        "pyproject.toml",
    }
    assert {".github", "data", "docs"} <= read
    assert read <= set(included)


DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("data/*.md")])
LINKS = [
    (path, link)
    for path in DOCUMENTS
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
]


def test_links_lead_somewhere():
    assert [(path, link) for path, link in LINKS if not (path.parent / link).exists()] == []


def test_files_that_are_named_exist():
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"\b(?:swinclf|tests|benchmarks)/[\w/]+\.py\b", text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_every_decision_is_listed_and_has_its_four_parts():
    folder = DOCS / "decisions"
    pages = sorted(folder.glob("*.md"))
    listed = {link for path, link in LINKS if path == folder / "README.md"}
    assert listed == {path.name for path in pages} - {"README.md"}
    for page in pages:
        if page.name != "README.md":
            parts = re.findall(r"^\*\*(\w+)\.\*\*", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert parts == ["Question", "Measured", "Result", "Decision"], page


def test_the_citation_is_valid_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "version"}
    assert citation["version"] == swinclf.__version__
    assert all(author.keys() == {"name"} for author in citation["authors"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]


def test_hooks_download_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {one["repo"] for one in hooks["repos"]} == {"local"}
    commands = [hook["entry"] for one in hooks["repos"] for hook in one["hooks"]]
    assert [command.split()[0] for command in commands] == [
        *(".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy")
    ]
    assert {hook["language"] for one in hooks["repos"] for hook in one["hooks"]} == {"system"}


def test_a_bug_report_asks_for_the_machine():
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug_report.md").read_text(encoding="utf-8")
    _, front, body = form.split("---\n", 2)
    assert yaml.safe_load(front).keys() >= {"name", "about"}
    assert "swinclf doctor" in body


if __name__ == "__main__":
    ARCHITECTURE.write_text(architecture(), encoding="utf-8")
