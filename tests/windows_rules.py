"""The rules of Windows on a POSIX system, in a process: `python windows_rules.py DIR NETWORK`.

What Windows lacks is taken away, and what it refuses is refused: renaming, replacing or deleting a
file that is open or mapped, or a folder with such a file in it; opening a folder; making a link.
Then the main job runs in DIR/runs on the dataset DIR/colours, and what it ends with is printed.
What it exports is the ONNX file NETWORK: to make one takes seconds.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import filelock  # its POSIX half stands for its Windows half, so that it keeps what it needs
import torch
import torch._dynamo  # its Linux half, too: torch before 2.12 does not import without `pwd`

NAMELESS = getattr(os, "O_TMPFILE", -1)
MODULES = ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
OF_OS = (
    *("chown", "chroot", "fork", "forkpty", "getgid", "getgroups", "getpgid", "getpriority"),
    *("killpg", "mkfifo", "mknod", "nice", "openpty", "posix_fadvise", "pread", "preadv"),
    *("pwrite", "sched_getaffinity", "sendfile", "setsid", "sysconf", "wait"),
)
OF_SIGNAL = (
    *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGTSTP"),
    *("SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer"),
)


def open_files() -> Iterator[str]:
    """Paths of all files that this process has open or mapped."""
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the list itself is closed again
            yield str(handle.readlink())
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        yield "/" + line.partition("/")[2]


def refuse_if_open(path: Any) -> None:
    """Raise what Windows raises for a file in use, or for a folder with one in it."""
    whole = str(Path(os.fsdecode(path)).absolute())
    for used in open_files():
        if used == whole or used.startswith(f"{whole}/"):
            raise PermissionError(errno.EACCES, f"in use by this process: {used}", whole)


def strict(function: Callable[..., Any], paths: int) -> Callable[..., Any]:
    """The function, but for files that are in use; its first `paths` arguments are looked at."""

    def checked(*arguments: Any, **options: Any) -> Any:
        for path in arguments[:paths]:
            # filelock's own removal of its lock file, which on Windows comes after its closing
            if not (paths == 1 and str(path).endswith(".lock")):
                refuse_if_open(path)
        return function(*arguments, **options)

    return checked


def refuse_folders(function: Callable[..., int]) -> Callable[..., int]:
    """os.open, but for folders."""

    def checked(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        is_nameless = flags & NAMELESS == NAMELESS  # a file in it: the POSIX half of filelock's
        if Path(path).is_dir() and not is_nameless:
            raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))
        return function(path, flags, *arguments, **options)

    return checked


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "A required privilege is not held by the client")


def obey() -> None:
    """Take away and refuse what Windows lacks and refuses."""
    os.environ["USERNAME"] = "somebody"  # set there, so that nobody asks `pwd`
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name, paths in (("rename", 2), ("replace", 2), ("unlink", 1), ("remove", 1), ("rmdir", 1)):
        setattr(os, name, strict(getattr(os, name), paths))
    os.open = refuse_folders(os.open)
    os.symlink = no_links  # type: ignore[assignment]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # it opens folders


def check_rules() -> None:
    """Each rule holds."""
    with tempfile.TemporaryDirectory() as name:
        folder, target = Path(name) / "folder", Path(name) / "target"
        folder.mkdir()
        with (folder / "file").open("wb") as file:
            file.write(bytes(8))
            file.flush()
            refused(folder.rename, target)
            refused((folder / "file").replace, target)
            refused((folder / "file").unlink)
        mapped = torch.from_file(str(folder / "file"), size=2, dtype=torch.float32)
        target.write_bytes(b"other")
        refused(target.replace, folder / "file")
        del mapped
        refused(os.open, folder, os.O_RDONLY)
        refused((Path(name) / "link").symlink_to, folder)
        target.replace(folder / "file")
        folder.rename(target)


def refused(function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except OSError:
        return
    raise AssertionError(f"{function} is not refused")


def command(*words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run the program here; return what it prints."""
    from swinclf.cli.app import main

    out, sys.argv = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True),
        ["swinclf", "--debug", *words],
    )
    sys.stdout, terminal = out, sys.stdout
    try:
        main()
    except SystemExit as end:
        text = out.buffer.getvalue().decode()
        if (end.code or 0) not in codes:
            raise AssertionError(f"{words}: {end.code}") from None
    finally:
        sys.stdout = terminal
    return text


def interrupted(*words: str) -> None:
    """Train until the first step, and be stopped there."""
    from swinclf.errors import ExitCode, Interrupted
    from swinclf.training.loop import TrainingLoop

    def stop(loop: TrainingLoop) -> None:
        loop.saver.save(loop.state)
        raise Interrupted(ExitCode.INTERRUPTED)

    with patch.object(TrainingLoop, "run", stop):
        command(*words, codes=(ExitCode.INTERRUPTED,))


def main(folder: Path, network: Path) -> None:
    """Train, be stopped, resume, predict, evaluate, export, check; all by the rules."""
    obey()
    check_rules()
    import onnx

    from swinclf.exporting import writers
    from swinclf.inference import results
    from swinclf.training.checkpoint import CheckpointSaver

    CheckpointSaver.is_due = lambda _: True  # type: ignore[method-assign]
    for name in ("confusion_matrix", "curves"):  # most of the time of a small run
        setattr(results, f"draw_{name}", lambda _, path, **__: path.write_bytes(b""))
    os.chdir(folder)
    model = ("--model", "test_vit", "--no-pretrained", "--img-size", "32", "--epochs", "2")
    interrupted("train", "colours", *model, "--freeze-stages", "2", "--batch-size", "8")
    command("train", "--resume", "runs/colours-1")
    command("train", "colours", *model, "--freeze-layers", "--weights", "runs/latest")
    answers = command("predict", "colours", "--run", "runs/latest", "--format", "json")
    command("eval", "colours", "--output", "scores")
    writers._network_graph = lambda _source: onnx.load(network)
    # 4: that network has not the weights of this run
    command("export", "--run", "runs/latest/model.safetensors", "--format", "onnx", codes=(0, 4))
    command("compare", "runs/colours-1", "runs/latest")
    command("check", "colours", codes=(0, 3))  # 3: something was found
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))
    latest = (folder / "runs" / "latest").read_text(encoding="utf-8")
    found = {"answers": len(json.loads(answers)), "left": left, "latest": latest}
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    assert filelock.FileLock
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
