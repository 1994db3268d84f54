"""Words that CONTRIBUTING.md asks to avoid are neither in the documents nor in the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("data/*.md")])
CODE = sorted([*ROOT.glob("swinclf/**/*.py"), *ROOT.glob("swinclf/**/*.jinja")])
TERMS = re.compile(r'in-place|"mend"')  # a term of programming, and a key of check's JSON
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
AVOIDED = re.findall(r"^\| `([^`]+)` \|", CONTRIBUTING.partition("### Words to avoid")[2], re.M)


def offenders(text: str) -> list[str]:
    """The lines with a word to avoid, each as often as it has one."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, AVOIDED))})\b", re.IGNORECASE)
    return [
        f"{number}: {found[1]}: {line.strip()[:100]}"
        for number, line in enumerate(text.splitlines(), 1)
        for found in pattern.finditer(line)
    ]


def words_of(path: Path) -> str:
    """A document without the list itself and the generated tree."""
    text = path.read_text(encoding="utf-8")
    if path.name == "architecture.md":
        return re.sub(r"<!-- tree -->.*<!-- /tree -->", "", text, flags=re.DOTALL)
    if path in CODE:
        return TERMS.sub("", text)
    if path.name == "CONTRIBUTING.md":
        before, _, after = text.partition("### Words to avoid")
        return before + after.partition("\n## ")[2]
    return text


def test_the_list_is_read():
    assert {"told", "anew", "second opinion"} <= set(AVOIDED)
    found = offenders("He told us.\nAn untold place.")
    assert found == ["1: told: He told us.", "2: place: An untold place."]


def test_these_words_are_avoided():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in (*DOCUMENTS, *CODE)
        for line in offenders(words_of(path))
    ]
    assert found == [], "\n".join(found)


def test_percentages_are_written_in_one_way():
    """By `format_percent`, as "41.3 %"."""
    written = [path.name for path in CODE if re.search(r":[^{}\s\"]*%\}", path.read_text("utf-8"))]
    assert written == []
