"""inspect: what a network costs, and pictures of how it looks at an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from swinclf.card import ModelCard
from swinclf.config import Impl
from swinclf.data.loader import load_for_prediction
from swinclf.errors import ConfigError, DataError, ModelError, RunError
from swinclf.inspection.table import Costs, measure
from swinclf.models.build import OWN_SHAPES, Architecture, default_preprocess
from swinclf.models.formats import adapt, read_state_dict
from swinclf.models.hub import find_pretrained
from swinclf.models.names import build_native, native_data_config, native_names
from swinclf.models.store import load_model, read_card
from swinclf.models.swin import Swin
from swinclf.models.vit import ViT
from swinclf.models.weights import find_weights
from swinclf.preprocess import Preprocess
from swinclf.progress import SILENT, Reporter
from swinclf.runs import MODEL_SUFFIXES, RunFolder, find_model, make_folder, next_free_folder


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is to be drawn, and of which weights. Nothing given: nothing is drawn.

    Attributes:
        image: A picture to look at; None for one of the run's samples, else a drawn one.
        output: Folder for the pictures; None for the next free inspect-NAME-N here.
        weights: A weights file or run whose weights a named network gets.
        pretrained: Whether it gets its published weights.
    """

    image: Path | None = None
    output: Path | None = None
    weights: Path | None = None
    pretrained: bool = False

    @property
    def is_wanted(self) -> bool:
        """Whether pictures are drawn."""
        return self.pretrained or any((self.image, self.output, self.weights))


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        name: The network's name.
        costs: Part by part.
        run: The model file, where a run was inspected.
        folder: Where the pictures are; None where none were asked for.
        pictures: Their paths, in the order in which to look at them.
        image: Which image they show, in words.
        label: The class that a run's network predicts for it; empty for a named network.
        probability: That class's, in [0, 1].
    """

    name: str
    costs: Costs
    run: Path | None = None
    folder: Path | None = None
    pictures: Sequence[Path] = field(default_factory=tuple)
    image: str = ""
    label: str = ""
    probability: float = 0.0


@dataclass(frozen=True)
class _Subject:
    """What is inspected: a name, or a run's file and its card."""

    architecture: Architecture
    file: Path | None = None
    card: ModelCard | None = None


def inspect(
    subject: str | None = None,
    *,
    img_size: int | None = None,
    model_args: Mapping[str, str] | None = None,
    look: Look | None = None,
    report: Reporter = SILENT,
) -> Inspection:
    """Count what a network costs, part by part, and draw how it looks at an image if asked to.

    Args:
        subject: The name of a network that this package builds itself, a run folder or a
            model.safetensors; None for the newest finished run.
        img_size: Side of a named network's image, pixels; None for its own.
        model_args: What differs from a named network's shape, each as text.
        look: What to draw; None for nothing.
        report: Hears what was chosen.

    Raises:
        ModelError: If this package cannot build the network.
        ConfigError: If options do not fit each other or the network.
        RunError: If there is no such run, or the pictures cannot be written.
        WeightsError: If weights cannot be read or do not fit.
        DataError: If the image cannot be read.
    """
    look = look or Look()
    what = _find_subject(subject, img_size, dict(model_args or {}))
    _check_options(what, look, img_size, model_args)
    with torch.device("meta"):  # shapes are enough to count, and take neither time nor memory
        costs = measure(_build(what.architecture).eval())
    done = Inspection(what.architecture.name, costs, what.file)
    return _draw(done, what, look, report) if look.is_wanted else done


def _find_subject(subject: str | None, img_size: int | None, args: Mapping[str, str]) -> _Subject:
    """Tell a run from a name: what is no known name and looks like a path is a run."""
    known = subject is not None and subject.partition(".")[0] in (*OWN_SHAPES, *native_names())
    path = None if subject is None else Path(subject)
    is_path = path is None or path.exists() or len(path.parts) > 1 or _is_model_file(path)
    if subject is not None and (known or not is_path):
        classes = _explained(subject)
        return _Subject(Architecture(subject, Impl.NATIVE, classes, img_size, model_args=args))
    file = find_model(path)
    if file.suffix.lower() != ".safetensors":
        raise RunError(
            f"a run folder or its model.safetensors at '{file}'",
            found="an exported file, which holds no network to look into",
            hint="the run it was exported from",
        )
    card = read_card(file)
    _explained(card.model)
    height = card.preprocess.height
    architecture = Architecture(
        card.model, Impl.NATIVE, len(card.classes), height, model_args=card.model_args
    )
    return _Subject(architecture, file, card)


def _is_model_file(path: Path) -> bool:
    """Tell a file of a model from a name with a tag by its ending."""
    return path.suffix.lower() in MODEL_SUFFIXES


def _explained(name: str) -> int:
    """Return the classes of a name's published head, or say why it cannot be inspected."""
    if name in OWN_SHAPES:
        return 1000
    try:
        return native_data_config(name).num_classes
    except ModelError as error:
        raise ModelError(
            error.expected,
            found=error.found,
            hint=f"{error.hint} (to train and predict: inspect opens this package's own networks)",
        ) from error


def _check_options(
    what: _Subject, look: Look, img_size: int | None, model_args: Mapping[str, str] | None
) -> None:
    """Refuse what makes no sense together."""
    given = {
        "--img-size": img_size is not None,
        "--model-arg": bool(model_args),
        "--weights": look.weights is not None,
        "--pretrained": look.pretrained,
    }
    flags = [flag for flag, is_given in given.items() if is_given]
    if what.file is not None and flags:
        raise ConfigError(
            f"'{what.file}' alone: a run has its own shape and weights",
            found=", ".join(flags),
            hint=f"swinclf inspect '{what.file.parent}', or a name: {what.architecture.name}",
        )
    if look.pretrained and look.weights is not None:
        raise ConfigError(
            "weights from one place",
            found="--weights and --pretrained",
            hint="one of the two",
        )


def _build(architecture: Architecture) -> ViT | Swin:
    """Build a network of this package."""
    return build_native(
        architecture.name,
        num_classes=architecture.num_classes,
        img_size=architecture.img_size,
        model_args=architecture.model_args,
    )


def _open(what: _Subject, look: Look) -> tuple[ViT | Swin, str]:
    """Return the network with its weights, in evaluation mode, and whose weights they are."""
    if what.file is not None:
        network, _ = load_model(what.file, impl=Impl.NATIVE)
        assert isinstance(network, ViT | Swin)
        return network, f"the weights of {_run_name(what.file)}"
    name = what.architecture.name
    if look.pretrained:
        hub_id = None if name in OWN_SHAPES else native_data_config(name).hub_id
        file, whose = find_pretrained(name, hub_id), "the published weights"
    elif look.weights is not None:
        file, whose = find_weights(look.weights).path, f"the weights in {look.weights.name}"
    else:
        return _build(what.architecture).eval(), "random weights: nothing is learned yet"
    network = _build(what.architecture).eval()
    network.load_state_dict(adapt(read_state_dict(file), network, allow_other_head=True).state)
    return network, whose


def _draw(done: Inspection, what: _Subject, look: Look, report: Reporter) -> Inspection:
    """Draw all pictures that the network has."""
    from swinclf.inspection.gallery import Subject, draw_all

    if done.costs.colours != 3:
        raise ConfigError(
            "a network for images of 3 colours, to draw pictures",
            found=f"in_chans={done.costs.colours}",
            hint="the table alone, without --image, --output, --weights and --pretrained",
        )
    network, whose = _open(what, look)
    preprocess = _preprocess(what, network)
    pixels, image = _pixels(what, look, preprocess)
    report.note(f"pictures show {image} and {whose}")
    folder = make_folder(look.output) if look.output else next_free_folder(Path(), _stem(what))
    classes = what.card.classes if what.card else ()
    temperature = what.card.confidence.temperature if what.card else 1.0
    subject = Subject(network, preprocess, pixels, image, whose, classes, temperature)
    gallery = draw_all(subject, folder, report)
    return replace(
        done,
        folder=folder,
        pictures=gallery.pictures,
        image=image,
        label=gallery.label,
        probability=gallery.probability,
    )


def _preprocess(what: _Subject, network: ViT | Swin) -> Preprocess:
    """Return what makes a picture the network's input."""
    if what.card is not None:
        return what.card.preprocess
    like = what.architecture
    if like.name in OWN_SHAPES:  # colours and cropping as published; the size is the network's
        like = replace(like, name="swin_tiny_patch4_window7_224", model_args={})
    height, width = network.patch_embed.img_size
    return replace(default_preprocess(like), height=height, width=width)


def _pixels(what: _Subject, look: Look, preprocess: Preprocess) -> tuple[np.ndarray, str]:
    """Return the image as the network sees it, (H, W, 3) uint8, and which it is in words."""
    from swinclf.inspection.sample import synthetic_picture

    path, words = look.image, f"the image {look.image.name}" if look.image else ""
    if path is None and what.file is not None:
        path = min(RunFolder(what.file.parent).samples.glob("*.jpg"), default=None)
        words = f"a sample of the run, {path.name}" if path else ""
    if path is None:
        drawn = synthetic_picture(preprocess.height, preprocess.width)
        return drawn, "a drawn flower (no --image)"
    loaded = load_for_prediction(path, preprocess)
    if loaded.pixels is None:
        raise DataError(
            f"an image that can be read at '{path}'", found=loaded.error, hint="another --image"
        )
    return loaded.pixels, words


def _run_name(file: Path) -> str:
    """Return what a run is called: its folder."""
    return file.resolve().parent.name


def _stem(what: _Subject) -> str:
    """Return what the folder of pictures begins with."""
    name = what.architecture.name if what.file is None else _run_name(what.file)
    return f"inspect-{name}"
