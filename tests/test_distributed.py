"""Several processes, as torchrun starts them, against one: the same weights, scores and rows."""

from __future__ import annotations

import json
import pickle
import re
import socket
import textwrap
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from conftest import make_once, read_rows, unwrapped, weights_of, write_dataset
from torch import nn
from warm_processes import CONTEXT, WarmProcess

import swinclf
from swinclf.device import Hardware, Precision
from swinclf.errors import ExitCode
from swinclf.models.batch_share import BatchShare, share_drop_path
from swinclf.models.compute import Computer
from swinclf.models.layers import DropPath
from swinclf.pipeline.fit import unused_gpus_hint
from swinclf.processes import ALONE, Processes
from swinclf.settings import gather_settings
from swinclf.training.batches import Batch
from swinclf.training.mixing import ImageBatchAugmentation

SMALL = (  # a network without timm, whose import takes as long as torch's
    *("--model", "swin", "--model-arg", "embed_dim=16", "--model-arg", "depths=1,1"),
    *("--model-arg", "num_heads=1,2", "--no-pretrained", "--img-size", "32"),
    *("--precision", "fp32", "--drop-path", "0.2"),
    *("--optimizer", "adamw"),  # Muon rounds its steps to bfloat16
)
STOPPED_EARLY = (  # after three epochs
    *(*SMALL, "--epochs", "9", "--patience", "1", "--batch-size", "29", "--seed", "3"),
    *("--lr", "2e-4", "--ema", "0.9", "--mixup", "0.4", "--cutmix", "1", "--random-erasing", "0.5"),
)
ROUNDING = 5e-5  # of weights after a few steps; a quarter of what AdamW changes in one


def program_script(folder, patch):
    """A program that changes itself and then does as ever."""
    script = folder / "program.py"
    script.write_text(f"{textwrap.dedent(patch)}\nfrom swinclf.cli.app import main\nmain()\n")
    return script


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun(*words, folder):
    """Starts the real torchrun, which starts the processes."""
    script = folder / "torchrun.py"
    script.write_text("from torch.distributed.run import main\nmain()\n")
    return WarmProcess(*words, folder=folder, script=script)


def run(count, *words, folder, patch="", code=0, nodes=1):
    """Runs the program in several processes; returns what it wrote to standard output and error.

    The processes have the environment that torchrun gives them, without its own process, whose
    start takes seconds. `patch` is what they run first, `code` the exit code of the first process,
    `nodes` the number of machines that they believe to be on.
    """
    port, local = free_port(), count // nodes
    shared = {
        **{"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"},
        **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(local)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    script = program_script(folder, patch) if patch else None
    processes = [
        WarmProcess(
            *words,
            folder=folder,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank % local)},
            script=script,
        )
        for rank in range(count)
    ]
    codes = [one.wait(timeout=200) for one in processes]
    err = "".join(one.stderr for one in processes)
    assert codes[0] == code, err
    assert not any(one.stdout for one in processes[1:]), "only the first process writes results"
    return processes[0].stdout, unwrapped(err)


def killing(signal, step):
    """What sends a signal to the second process, by itself, after some steps."""
    return f"""
        import os, signal
        from swinclf.training import loop

        train_step, taken = loop._train_step, []

        def step(*arguments):
            train_step(*arguments)
            taken.append(1)
            if os.environ["RANK"] == "1" and len(taken) == {step}:
                os.kill(os.getpid(), signal.{signal})

        loop._train_step = step
    """


@pytest.fixture(scope="session")
def undisturbed(shared_folder):
    """A folder with a dataset, from which nothing can be learnt, and a run of one process."""

    def train(folder):
        data = write_dataset(folder / "grey", colours=dict.fromkeys("abc", (99, 99, 99)))
        run(1, "train", data, *STOPPED_EARLY, folder=folder)

    return make_once(shared_folder / "undisturbed", train)


def difference(one, other):
    """The largest difference between the weights of two runs."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def assert_same_run(one, other):
    """Two runs are the same within rounding."""
    assert difference(one, other) < ROUNDING
    for name in ("history.csv", "predictions.csv"):
        for row, same in zip(*(read_rows(run / name) for run in (one, other)), strict=True):
            for key in row.keys() - {"seconds", "images_per_second"}:
                is_rounded = key.endswith(("loss", "probability"))
                value = pytest.approx(float(row[key]), abs=1e-5) if is_rounded else row[key]
                assert (float(same[key]) if is_rounded else same[key]) == value, (name, key)
    scores, found = (json.loads((run / "metrics.json").read_text()) for run in (one, other))
    for key, value in scores.items():
        assert found.pop(key) == (
            pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
        )
    assert not found


def test_two_machines_train_the_model_of_one_process(undisturbed, tmp_path):
    """Of 30 images in batches of 29, and one machine is short of memory."""
    patch = """
        import os
        import torch
        from swinclf.training import gradient

        real = gradient.BatchLoss.forward

        def forward(self, batch):
            if os.environ["RANK"] == "1" and len(batch.targets) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return real(self, batch)

        gradient.BatchLoss.forward = forward
    """
    words = ("train", undisturbed / "grey", *STOPPED_EARLY)
    out, err = run(2, *words, folder=tmp_path, patch=patch, nodes=2)
    assert "fp32, 2 processes" in err
    assert "micro-batches of 4 images; the batch size is still 29" in err
    assert "stopped after epoch 3: neither" in err
    assert_same_run(undisturbed / "runs" / "grey-1", tmp_path / out.strip())


def test_torchrun_connects_machines_and_decides_which_is_the_first(undisturbed, tmp_path):
    words = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=test")
    words += (f"--rdzv-endpoint=127.0.0.1:{free_port()}", "-m", "swinclf")
    machines = [tmp_path / "one", tmp_path / "other"]
    for folder in machines:
        folder.mkdir()
    command = (*words, "train", undisturbed / "grey", *STOPPED_EARLY)
    processes = [torchrun(*command, folder=folder) for folder in machines]
    codes = [one.wait() for one in processes]
    assert codes == [0, 0], "".join(one.stderr for one in processes)
    found = [
        folder / one.stdout.strip()
        for folder, one in zip(machines, processes, strict=True)
        if one.stdout
    ]
    assert len(found) == 1
    assert_same_run(undisturbed / "runs" / "grey-1", found[0])


def test_a_head_on_shared_features_is_the_same(dataset, cli, tmp_path, monkeypatch):
    """And they are cached for later trainings of one process."""
    (dataset / "red" / "broken.png").write_text("no image")
    words = ("train", dataset, *SMALL[:-4], "--epochs", "2", "--freeze-layers")
    alone = tmp_path / cli(*words, "--no-cache").out.strip()
    patch = "import torch; torch.set_num_threads = id"  # features are cached for their number
    out, err = run(2, *words, folder=tmp_path, patch=patch, code=ExitCode.SOME_FAILED)
    assert "1 files skipped" in err
    monkeypatch.setattr(Computer, "features", None)
    for other in (out, cli(*words).out):
        assert_same_run(alone, tmp_path / other.strip())
        for name in ("predictions.csv", "split.csv", "skipped.csv", "class_indices.json"):
            assert (alone / name).read_text() == (tmp_path / other.strip() / name).read_text()


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
    one_image = (*words[:1], next(trained.data.rglob("*.png")), *words[3:])
    assert run(3, *one_image, folder=tmp_path)[0] == cli(*one_image).out


def test_neither_a_signal_nor_a_death_changes_what_is_trained(undisturbed, cli, tmp_path):
    """A run of two processes is stopped by a signal, goes on, loses one, and ends in one."""
    words = ("train", undisturbed / "grey", *STOPPED_EARLY)
    patch = killing("SIGTERM", step=1)
    _, err = run(2, *words, folder=tmp_path, patch=patch, code=ExitCode.INTERRUPTED)
    command = re.search(r"interrupted; progress is saved, resume with: swinclf (.*)", err).group(1)
    folder = tmp_path / command.split()[-1]
    assert not read_rows(folder / "history.csv"), "in the middle of the first epoch"

    killed = program_script(tmp_path, killing("SIGKILL", step=2))
    words = ("--standalone", "--nproc-per-node=2", "--", killed, *command.split())
    process = torchrun(*words, folder=tmp_path)
    assert process.wait() == 1, process.stderr
    err = unwrapped(process.stderr)
    assert "error: expected all 2 processes to continue" in err, err
    assert "found: another one has ended (" in err
    assert f"swinclf {command}" in err

    ended = cli(*command.split())
    assert "resuming after epoch 1 of 9" in ended.err, "every epoch is saved"
    assert_same_run(undisturbed / "runs" / "grey-1", folder)


def test_an_error_of_the_first_process_ends_all(dataset, tmp_path):
    _, err = run(2, "train", dataset / "nowhere", folder=tmp_path, code=ExitCode.FAILED)
    assert err.count("error: expected") == 1


def test_a_failure_of_another_process_is_told_with_its_number(dataset, tmp_path):
    patch = """
        import os
        from swinclf.training import gradient
        from swinclf.errors import DataError

        def forward(self, batch):
            raise DataError("a good day", found="a bad one", hint="tomorrow")

        if os.environ["RANK"] == "1":
            gradient.BatchLoss.forward = forward
    """
    words = ("train", dataset, *SMALL)
    _, err = run(2, *words, folder=tmp_path, patch=patch, code=ExitCode.FAILED)
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
