"""What is looked into: a network by its name, or a run's; built, filled, and given a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swinclf.card import ModelCard
from swinclf.config import Impl
from swinclf.data.loader import load_for_prediction
from swinclf.errors import DataError, ModelError, RunError
from swinclf.inspection.sample import synthetic_picture
from swinclf.models.build import (
    OWN_SHAPES,
    Architecture,
    create_network,
    default_preprocess,
    load_with_head,
)
from swinclf.models.hub import find_pretrained
from swinclf.models.names import native_data_config, native_names, suggest_names
from swinclf.models.store import load_model, read_card
from swinclf.models.swin import Swin
from swinclf.models.vit import ViT
from swinclf.models.weights.find import find_weights
from swinclf.preprocess import Preprocess
from swinclf.progress import SILENT, Reporter
from swinclf.runs import MODEL_SUFFIXES, RunFolder, find_model


@dataclass(frozen=True)
class Subject:
    """A network of this package to look into.

    Attributes:
        architecture: What it is.
        file: The weights of the run that it is of; None for a name.
        card: Their card.
    """

    architecture: Architecture
    file: Path | None = None
    card: ModelCard | None = None

    @property
    def title(self) -> str:
        """What it is called: its name, or its run's folder."""
        return self.file.resolve().parent.name if self.file else self.architecture.name

    def build(self) -> ViT | Swin:
        """The network with random weights, in evaluation mode."""
        return _own(create_network(self.architecture).eval())

    def open(
        self, weights: Path | None, *, pretrained: bool, report: Reporter = SILENT
    ) -> tuple[ViT | Swin, str]:
        """The network with its weights, in evaluation mode, and whose weights they are.

        Args:
            weights: Of a name: a weights file or run to take them from.
            pretrained: Of a name: whether it gets its published ones.
            report: Hears what of a weights file was loaded.

        Raises:
            WeightsError: If weights cannot be had, or do not fit.
        """
        if self.file is not None:
            return _own(load_model(self.file, impl=Impl.NATIVE)[0]), f"the weights of {self.title}"
        name = self.architecture.name
        if pretrained:
            hub_id = None if name in OWN_SHAPES else native_data_config(name).hub_id
            file, whose = find_pretrained(name, hub_id), "the published weights"
        elif weights is not None:
            file, whose = find_weights(weights).path, f"the weights in {weights.name}"
        else:
            return self.build(), "random weights: nothing is learned yet"
        network = self.build()
        loaded = load_with_head(network, file, name, self.architecture.num_classes)
        if weights is not None:
            report.note(loaded.line(str(weights)))
        return network, whose

    def preprocess(self, network: ViT | Swin) -> Preprocess:
        """What makes a picture the network's input."""
        if self.card is not None:
            return self.card.preprocess
        like = self.architecture
        if like.name in OWN_SHAPES:  # colours and cropping as published; the size is the network's
            like = replace(like, name="swin_tiny_patch4_window7_224", model_args={})
        height, width = network.patch_embed.img_size
        return replace(default_preprocess(like), height=height, width=width)

    def picture(self, path: Path | None, preprocess: Preprocess) -> tuple[np.ndarray, str]:
        """A picture as the network sees it, (H, W, 3) uint8, and which it is in words.

        Args:
            path: Its file; None for one of the run's samples, else a drawn one.
            preprocess: How it becomes the network's input.

        Raises:
            DataError: If it cannot be read.
        """
        words = f"the image {path.name}" if path else ""
        if path is None and self.file is not None:
            path = min(RunFolder(self.file.parent).samples.glob("*.jpg"), default=None)
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


def find_subject(name: str | None, img_size: int | None, args: Mapping[str, str]) -> Subject:
    """Tells a run from a name: what is no known name and looks like a path is a run.

    Args:
        name: A network's name, a run folder or a weights file of one; None for the newest run.
        img_size: Side of a named network's image, pixels; None for its own.
        args: What differs from a named network's shape, each as text.

    Raises:
        ModelError: If this package cannot build the network.
        RunError: If there is no such run, or it is an exported file.
    """
    known = name is not None and name.partition(".")[0] in (*OWN_SHAPES, *native_names())
    path = None if name is None else Path(name)
    is_path = path is None or path.exists() or len(path.parts) > 1 or _is_model_file(path)
    if name is not None and (known or not is_path):
        classes = _published_classes(name)
        return Subject(Architecture(name, Impl.NATIVE, classes, img_size, model_args=args))
    file = find_model(path)
    if file.suffix.lower() != ".safetensors":
        raise RunError(
            f"a run folder or its model.safetensors at '{file}'",
            found="an exported file, which holds no network to look into",
            hint="the run it was exported from",
        )
    card = read_card(file)
    _published_classes(card.model)
    height = card.preprocess.height
    architecture = Architecture(
        card.model, Impl.NATIVE, len(card.classes), height, model_args=card.model_args
    )
    return Subject(architecture, file, card)


def _is_model_file(path: Path) -> bool:
    """Tell a file of a model from a name with a tag by its ending."""
    return path.suffix.lower() in MODEL_SUFFIXES


def _published_classes(name: str) -> int:
    """Return the classes of a name's published head, or say why it cannot be inspected."""
    if name in OWN_SHAPES:
        return 1000
    try:
        return native_data_config(name).num_classes
    except ModelError as error:
        raise ModelError(
            error.expected,
            found=error.found,
            hint=f"{_near(name) or error.hint.replace('--impl timm', '').strip(', ')} "
            "(inspect opens this package's own networks: swinclf models --impl native)".strip(),
        ) from error


def _near(name: str) -> str:
    near = suggest_names(name.partition(".")[0], native_names(), limit=1)
    return f"did you mean {near[0]}?" if near and near[0] != name.partition(".")[0] else ""


def _own(network: object) -> ViT | Swin:
    assert isinstance(network, ViT | Swin)
    return network
