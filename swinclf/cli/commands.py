"""The commands by name, in the order in which --help lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swinclf.cli.help import Command
from swinclf.cli.inspect_commands import (
    check_command,
    doctor_command,
    inspect_command,
    models_command,
)
from swinclf.cli.model_commands import eval_command, export_command
from swinclf.cli.predict_command import predict_command
from swinclf.cli.program import app, handle_errors
from swinclf.cli.run_commands import compare_command, relabel_command, runs_command
from swinclf.cli.serve_command import serve_command
from swinclf.cli.train_commands import demo_command, train_command
from swinclf.errors import ExitCode

COMMANDS: Mapping[str, Callable[..., ExitCode | None]] = {
    "train": train_command,
    "eval": eval_command,
    "predict": predict_command,
    "export": export_command,
    "serve": serve_command,
    "check": check_command,
    "compare": compare_command,
    "runs": runs_command,
    "relabel": relabel_command,
    "inspect": inspect_command,
    "models": models_command,
    "doctor": doctor_command,
    "demo": demo_command,
}

for name, command in COMMANDS.items():
    app.command(name, cls=Command)(handle_errors(command))
