"""Write docs/SKILL.md and docs/llms.txt: the program in short, for language models.

python tests/agent_docs.py
"""

from __future__ import annotations

import re
from pathlib import Path

from command_lines import GROUP

from swinclf.cli.examples import EXAMPLES
from swinclf.errors import ExitCode

DOCS = Path(__file__).parent.parent / "docs"
JSON_KEYS = {  # the most useful ones; a test compares them with what the commands print
    "train": ("run", "model", "report", "split", "accuracy", "accuracy_ci95", "warnings"),
    "eval": ("accuracy", "accuracy_ci95", "macro_f1", "per_class", "confusion_matrix"),
    "predict": ("path", "label", "probability", "top"),
    "export": ("path", "bytes", "parity"),
    "serve": ("url", "token", "model"),
    "check": ("clean", "images", "classes", "findings"),
    "compare": ("difference", "difference_ci95", "mcnemar_p", "differing"),
    "runs": ("path", "state", "model", "accuracy", "accuracy_ci95"),
    "relabel": ("moves", "undo"),
    "inspect": ("model", "parameters", "macs", "parts"),
    "models": ("name", "parameters", "image_px"),
    "doctor": ("device", "precision", "verdict"),
    "demo": ("run", "model", "report", "accuracy"),
}
LISTS = ("predict", "runs", "models")
EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed; the message has the reason",
    ExitCode.USAGE: "invalid options or arguments",
    ExitCode.SOME_FAILED: "done, but some inputs failed, or `check` found problems",
    ExitCode.MISMATCH: "an export that does not agree with its run",
    ExitCode.INTERRUPTED: "interrupted; what is needed to resume is saved",
    ExitCode.TERMINATED: "terminated; what is needed to resume is saved",
}
SKILL = """\
---
name: swinclf
description: Train, evaluate, apply and export image classifiers from the command line.
---

# swinclf

Transfer learning on images. The data is a folder with one folder of images for each class; nothing
is written into it. A training writes a run, a folder under `runs/`; other commands use the newest
finished run, or `--run RUN`.

## Commands

| command | does |
|---|---|
{commands}

`swinclf COMMAND --help` lists the options. No command asks a question except `runs --remove` and
`relabel`, which `--yes` answers.

## A session

```sh
swinclf check flowers --json
swinclf train flowers --dry-run --json
swinclf train flowers --quiet --json
swinclf eval other --json
swinclf predict photos --json
swinclf export --json
```

## Output

`--json` prints the result as JSON on standard output; everything else goes to standard error.

| command | keys |
|---|---|
{keys}

`events.jsonl` in the folder of a run has an object a line while it trains: plan, estimate (of the
seconds left), notes, warnings, epochs, result.

An error has three lines on standard error: `error: expected ...`, `found: ...`, `try: ...`. The
last one is what to type next.

## Exit codes

| code | meaning |
|---|---|
{exit_codes}
"""
LLMS = """\
# swinclf

> Transfer learning on a folder of images: a command-line program and a Python library that train,
> evaluate, predict and export Swin, ViT and other timm classifiers.

- [Summary for agents](SKILL.md): commands, JSON output, exit codes

## Documentation

{pages}
"""


def skill() -> str:
    """Return docs/SKILL.md."""
    commands = [
        f"| `{EXAMPLES[name][0][0]}` | {(command.help or '').rstrip('.')} |"
        for name, command in GROUP.commands.items()
    ]
    keys = [
        f"| `{name}` | {'a list of ' * (name in LISTS)}{', '.join(f'`{key}`' for key in own)} |"
        for name, own in JSON_KEYS.items()
    ]
    codes = [f"| {int(code)} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return SKILL.format(
        commands="\n".join(commands), keys="\n".join(keys), exit_codes="\n".join(codes)
    )


def llms() -> str:
    """Return docs/llms.txt: the pages as docs/index.md lists them."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\[.*?\]\(.*?\)) \| (.*?) \|$", index, re.MULTILINE)
    pages = [f"- {link}: {about}" for link, about in rows if "SKILL.md" not in link]
    return LLMS.format(pages="\n".join(pages))


if __name__ == "__main__":
    (DOCS / "SKILL.md").write_text(skill(), encoding="utf-8")
    (DOCS / "llms.txt").write_text(llms(), encoding="utf-8")
