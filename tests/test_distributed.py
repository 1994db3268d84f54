"""Several processes, as torchrun starts them, against one: the same weights, scores and rows."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from conftest import read_rows, unwrapped, weights_of
from torch import nn
from warm_processes import CONTEXT, WarmProcess

import swinclf
from swinclf.device import Hardware, Precision
from swinclf.errors import ExitCode
from swinclf.models.batch_share import BatchShare, share_drop_path
from swinclf.models.layers import DropPath
from swinclf.pipeline.fit import unused_gpus_hint
from swinclf.processes import ALONE, Processes
from swinclf.settings import gather_settings
from swinclf.training.batches import Batch
from swinclf.training.mixing import ImageBatchAugmentation

SMALL = (  # a network without timm, whose import takes as long as torch's
    *("--model", "swin", "--model-arg", "embed_dim=16", "--model-arg", "depths=1,1"),
    *("--model-arg", "num_heads=1,2", "--no-pretrained", "--img-size", "32"),
    *("--precision", "fp32", "--epochs", "2", "--drop-path", "0.2"),
    *("--optimizer", "adamw"),  # Muon rounds its steps to bfloat16
)
ROUNDING = 5e-5  # of weights after a few steps; a quarter of what AdamW changes in one


def start_by_torchrun(count, words, folder):
    """Starts the program in several processes of this machine, as a user does."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
    program = ("-m", "--", "swinclf")  # or torchrun takes --run for an option of its own
    return subprocess.Popen(
        [sys.executable, *torchrun, *program, *map(str, words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(count, *words, folder, script=None, code=0):
    """Runs the program in several processes; returns what it wrote to standard output and error.

    The processes have the environment that torchrun gives them, without its own process, whose
    start takes seconds. `code` is the exit code of the first process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **{"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"},
        **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    processes = [
        WarmProcess(
            *words,
            folder=folder,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            script=script,
        )
        for rank in range(count)
    ]
    codes = [one.wait(timeout=200) for one in processes]
    err = "".join(one.stderr for one in processes)
    assert codes[0] == code, err
    assert not any(one.stdout for one in processes[1:]), "only the first process writes results"
    return processes[0].stdout, unwrapped(err)


def difference(one, other):
    """The largest difference between the weights of two runs."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def test_several_processes_train_the_weights_of_one(dataset, cli, tmp_path):
    """Of 30 images in batches of 8, the last six."""
    augmented = ("--mixup", "0.4", "--cutmix", "1", "--random-erasing", "0.5")
    options = ("--batch-size", "8", *augmented)
    alone = tmp_path / cli("train", dataset, *SMALL, *options).out.strip()
    with start_by_torchrun(3, ("train", dataset, *SMALL, *options), tmp_path) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Warning" not in err, err
    shared = tmp_path / out.strip()
    assert "fp32, 3 processes" in err
    assert difference(alone, shared) < ROUNDING
    for one, other in zip(*(read_rows(x / "history.csv") for x in (alone, shared)), strict=True):
        assert one["train_accuracy"] == other["train_accuracy"]
        assert one["val_accuracy"] == other["val_accuracy"]
        for loss in ("train_loss", "val_loss"):
            assert float(one[loss]) == pytest.approx(float(other[loss]), rel=1e-6)


def test_a_head_on_shared_features_is_the_same(dataset, cli, tmp_path):
    (dataset / "red" / "broken.png").write_text("no image")
    words = ("train", dataset, *SMALL[:-4], "--freeze-layers", "--no-cache")
    alone = tmp_path / cli(*words).out.strip()
    out, err = run(2, *words, folder=tmp_path, code=ExitCode.SOME_FAILED)
    shared = tmp_path / out.strip()
    assert "1 files skipped" in err
    assert difference(alone, shared) < ROUNDING
    for name in ("predictions.csv", "split.csv", "skipped.csv", "class_indices.json"):
        assert (alone / name).read_text() == (shared / name).read_text()


def test_predict_and_eval_share_the_images(trained, cli, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    words = ("predict", "broken.png", trained.data, "--run", trained.path, "--format", "csv")
    out, _ = run(2, *words, folder=tmp_path, code=ExitCode.SOME_FAILED)
    assert out == cli(*words).out
    eval_words = ("eval", trained.data, "--run", trained.path, "--split", "all")
    assert cli(*eval_words, "--output", "alone").code == 0
    run(2, *eval_words, "--output", "shared", folder=tmp_path)
    for name in ("predictions.csv", "confusion_matrix.csv"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes()


def start_long(dataset, tmp_path):
    """Starts a long training in two processes, and waits for its second epoch."""
    words = ("train", dataset, *SMALL, "--epochs", "500", "--patience", "0", "--batch-size", "8")
    process = start_by_torchrun(2, words, tmp_path)
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("epoch   2"):
            return process, said
    raise AssertionError("".join(said))


def children_of(process):
    """The process ids of a process's children, in the order of their start."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    return sorted(map(int, found.stdout.split()))


def test_a_lost_process_ends_the_training(dataset, tmp_path):
    process, said = start_long(dataset, tmp_path)
    os.kill(children_of(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: expected all 2 processes to continue" in err, "".join(said) + err
    assert "found: another one has ended (" in err
    hint = re.search(r"try: .*(swinclf train --resume (\S+))", unwrapped(err))
    folder = tmp_path / hint.group(2)
    assert (folder / "last.ckpt").is_file()
    assert len(read_rows(folder / "history.csv")) >= 2


def test_a_signal_stops_all_processes_at_one_step_and_any_number_resumes(dataset, cli, tmp_path):
    """The last of two batches has one image, fewer than processes."""
    options = (*SMALL, "--batch-size", "29", "--epochs", "3", "--ema", "0.9")
    alone = tmp_path / cli("train", dataset, *options).out.strip()
    script = tmp_path / "signalled.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal
            from swinclf.training import loop
            from swinclf.cli.app import main

            train_step, taken = loop._train_step, []

            def step(*arguments):
                train_step(*arguments)
                taken.append(1)
                if os.environ["RANK"] == "1" and len(taken) == 3:
                    os.kill(os.getpid(), signal.SIGTERM)

            loop._train_step = step
            main()
            """
        )
    )
    words = ("train", dataset, *options)
    _, err = run(2, *words, folder=tmp_path, script=script, code=ExitCode.INTERRUPTED)
    resume = re.search(r"interrupted; progress is saved, resume with: swinclf (.*)", err)
    shared = tmp_path / resume.group(1).split()[-1]
    assert len(read_rows(shared / "history.csv")) == 1, "in the middle of the second epoch"
    run(2, *resume.group(1).split(), folder=tmp_path)
    for one, other in zip(*(read_rows(x / "history.csv") for x in (alone, shared)), strict=True):
        assert one["train_accuracy"] == other["train_accuracy"], "every image counts once"
    assert difference(alone, shared) < ROUNDING


def test_one_process_short_of_memory_splits_its_share(dataset, cli, tmp_path):
    options = (*SMALL, "--batch-size", "8")
    alone = tmp_path / cli("train", dataset, *options).out.strip()
    script = tmp_path / "short.py"
    script.write_text(
        textwrap.dedent(
            """
            import os
            import torch
            from swinclf.training import gradient
            from swinclf.cli.app import main

            real = gradient.BatchLoss.forward

            def forward(self, batch):
                if os.environ["RANK"] == "1" and len(batch.targets) > 1:
                    raise torch.OutOfMemoryError("out of memory")
                return real(self, batch)

            gradient.BatchLoss.forward = forward
            main()
            """
        )
    )
    out, err = run(2, "train", dataset, *options, folder=tmp_path, script=script)
    assert "micro-batches of 1 images; the batch size is still 8" in err
    assert difference(alone, tmp_path / out.strip()) < ROUNDING


def test_an_error_of_the_first_process_ends_all(dataset, tmp_path):
    _, err = run(2, "train", dataset / "nowhere", folder=tmp_path, code=ExitCode.FAILED)
    assert err.count("error: expected") == 1


def test_a_failure_of_another_process_is_told_with_its_number(dataset, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(
        textwrap.dedent(
            """
            import os
            from swinclf.training import gradient
            from swinclf.errors import DataError
            from swinclf.cli.app import main

            def forward(self, batch):
                raise DataError("a good day", found="a bad one", hint="tomorrow")

            if os.environ["RANK"] == "1":
                gradient.BatchLoss.forward = forward
            main()
            """
        )
    )
    words = ("train", dataset, *SMALL)
    _, err = run(2, *words, folder=tmp_path, script=script, code=ExitCode.FAILED)
    assert "process 1:\nerror: expected a good day\nfound: a bad one" in err
    assert "expected all 2 processes to continue" in err


# --- a classifier in other processes -------------------------------------------------------------


def test_a_classifier_is_pickled_as_its_path_and_called(trained):
    classifier = swinclf.load(trained.path)
    pickled = pickle.dumps(classifier)
    assert len(pickled) < 1000
    files = sorted(trained.data.rglob("*.png"))[:4]
    with ProcessPoolExecutor(1, CONTEXT) as pool:
        found = list(pool.map(pickle.loads(pickled), [[one.read_bytes()] for one in files]))
    assert [one.label for rows in found for one in rows] == [
        one.label for one in classifier.predict(files)
    ]


# --- the parts -----------------------------------------------------------------------------------


def test_drop_path_does_not_depend_on_how_a_batch_is_divided():
    """Here into processes of two and five images, the second one in micro-batches."""
    whole, x = nn.Sequential(DropPath(0.5), DropPath(0.3)).train(), torch.ones(7, 3)
    torch.manual_seed(3)
    expected = whole(x)
    after, found = torch.get_rng_state(), []
    for first, sizes in ((0, [2]), (2, [3, 2])):
        share, network = BatchShare(), nn.Sequential(DropPath(0.5), DropPath(0.3)).train()
        share_drop_path(network, share)
        torch.manual_seed(3)
        share.begin_batch(7, first)
        for size in sizes:
            share.begin_part(size)
            found.append(network(torch.ones(size, 3)))
        assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(torch.cat(found), expected)
    frozen = nn.Sequential(DropPath(0.5)).eval()
    share_drop_path(frozen, share)
    assert torch.equal(frozen(x), x), "what does not train drops nothing"
    share.begin_batch(7)
    share.begin_part(2)
    assert network(torch.ones(8, 3)).shape == (8, 3), "four patches of each image"


def test_a_machine_with_several_gpus_is_told_how_to_use_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    settings = gather_settings({"data": "my photos", "epochs": 3})
    hint = unused_gpus_hint(Hardware("cuda", Precision.BF16, ""), settings, ALONE)
    assert hint.endswith(
        "torchrun --standalone --nproc-per-node=8 -m swinclf train 'my photos' --epochs 3"
    )
    for device, processes in (("cuda:1", ALONE), ("cpu", ALONE), ("cuda", Processes(0, 8))):
        hardware = Hardware(device, Precision.BF16, "")
        assert unused_gpus_hint(hardware, settings, processes) == ""


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_needs_only_the_image_before(kind):
    values = {"mixup": 0.0, "cutmix": 0.0, kind: 1.0}
    augmentation = ImageBatchAugmentation(**values, erasing=0.5, seed=1)
    inputs, targets, views = torch.randn(6, 3, 8, 8), torch.arange(6), torch.arange(6)

    def augmented(rows):
        batch = Batch(inputs[rows].clone(), targets[rows], views[rows])
        return augmentation.apply(batch, epoch=2, step=5)

    whole, part = augmented([0, 1, 2, 3, 4, 5]), augmented([2, 3, 4])
    assert torch.equal(part.inputs[1:], whole.inputs[3:5])
    assert torch.equal(part.targets[1:], whole.targets[3:5])
