"""Target of an inspection: a network by its name or of a run, with its weights and an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch import nn

from swinclf.card import ModelCard
from swinclf.config import Impl
from swinclf.data.loader import load_for_prediction
from swinclf.errors import DataError, RunError
from swinclf.export_formats import MODEL_SUFFIXES
from swinclf.models.build import create_network, default_preprocess, load_network
from swinclf.models.embedded import EMBEDDED
from swinclf.models.hub import find_pretrained
from swinclf.models.names import (
    OWN_SHAPES,
    Architecture,
    default_impl,
    is_native,
    native_data_config,
)
from swinclf.models.store import architecture_of, load_model, read_card
from swinclf.models.swin import Swin
from swinclf.models.timm_networks import timm_head_classes
from swinclf.models.vit import ViT
from swinclf.models.weights.find import find_weights
from swinclf.preprocess import Preprocess
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import RunFolder, find_model


@dataclass(frozen=True)
class InspectionTarget:
    """A network to inspect."""

    architecture: Architecture
    file: Path | None = None  # the weights of its run; None for a name
    card: ModelCard | None = None

    @property
    def title(self) -> str:
        """Name of the network, or of its run's folder."""
        return self.file.resolve().parent.name if self.file else self.architecture.name

    @property
    def is_native(self) -> bool:
        """Whether this package builds the network."""
        return self.architecture.impl is Impl.NATIVE

    @property
    def image_px(self) -> tuple[int, int] | None:
        """Height and width of its images, pixels; None if the network itself defines them."""
        if self.is_native:
            return None
        like = self.architecture
        own = (
            self.card.preprocess if self.card else default_preprocess(like, img_size=like.img_size)
        )
        return own.height, own.width

    def build(self) -> nn.Module:
        """Build the network with random weights, in evaluation mode."""
        return create_network(self.architecture).eval()

    def open(
        self, weights: Path | None, *, pretrained: bool, report: Reporter = SILENT
    ) -> tuple[nn.Module, str]:
        """Build the network with its weights, in evaluation mode, and describe the weights.

        A network given by name gets a weights file or run, or its published weights if
        `pretrained`.

        Raises:
            WeightsError: If weights are not available, or do not fit.
        """
        if self.file is not None:
            return load_model(self.file, impl=self.architecture.impl)[
                0
            ], f"the weights of {self.title}"
        name = self.architecture.name
        if pretrained:
            hub_id = None if name in OWN_SHAPES else native_data_config(name).hub_id
            file, whose = find_pretrained(name, hub_id, report=report), "the published weights"
        elif weights is not None:
            file, whose = find_weights(weights).path, f"the weights in {weights.name}"
        else:
            return self.build(), "random weights, untrained"
        network, loaded = load_network(self.architecture, file, keep_head=True)
        if weights is not None:
            report.note(loaded.line(str(weights)))
        return network.eval(), whose

    def preprocess(self, network: nn.Module) -> Preprocess:
        """Return the preprocessing of the network's images."""
        if self.card is not None:
            return self.card.preprocess
        like = self.architecture
        if like.name in OWN_SHAPES:  # colours and crop as published; the size is the network's
            like = replace(like, name="swin_tiny_patch4_window7_224", model_args={})
        assert isinstance(network, ViT | Swin)
        height, width = network.patch_embed.img_size
        return replace(default_preprocess(like), height=height, width=width)

    def picture(self, path: Path | None, preprocess: Preprocess) -> tuple[np.ndarray, str]:
        """Return an image at the network's input size, (H, W, 3) uint8, and a description.

        Without a path it is one of the run's samples, or else a photograph of a flower.

        Raises:
            DataError: If it cannot be read.
        """
        words = f"the image {path.name}" if path else ""
        if path is None and self.file is not None:
            path = min(RunFolder(self.file.parent).samples.glob("*.jpg"), default=None)
            words = f"a sample of the run, {path.name}" if path else ""
        if path is None:
            path, words = _photograph(), "a flower by vultilion, CC BY 2.0 (no --image)"
        loaded = load_for_prediction(path, preprocess)
        if loaded.pixels is None:
            raise DataError(
                f"an image that can be read at '{path}'", found=loaded.error, hint="another --image"
            )
        return loaded.pixels, words


def find_target(
    name: str | None, img_size: int | None, args: Mapping[str, str]
) -> InspectionTarget:
    """Resolve the name of a network or the path of a run; an unknown name may be a path.

    `name` is a network's, a run folder or a weights file of one; None for the newest run. For a
    named network, `img_size` is the side of its image, pixels; None for its own; `args` are changes
    to its shape, as text.

    Raises:
        ModelError: If neither this package nor timm knows the name.
        RunError: If there is no such run, or it is an exported file.
    """
    known = name is not None and (default_impl(name) is Impl.NATIVE or name == EMBEDDED)
    path = None if name is None else Path(name)
    is_path = (
        path is None
        or path.exists()
        or len(path.parts) > 1
        or path.suffix.lower() in MODEL_SUFFIXES  # rather than the tag of a name
    )
    if name is not None and (known or not is_path):
        classes, impl = _published_classes(name), default_impl(name)
        return InspectionTarget(Architecture(name, impl, classes, img_size, model_args=args))
    file = find_model(path)
    if file.suffix.lower() != ".safetensors":
        raise RunError(
            f"a run folder or its model.safetensors at '{file}'",
            found="an exported file, which cannot be inspected",
            hint="the run it was exported from",
        )
    card = read_card(file)
    # Arguments are in the words of the backend that built the run.
    impl = card.impl if card.model_args else default_impl(card.model)
    architecture = architecture_of(card, impl=impl)
    return InspectionTarget(architecture, file, card)


def _photograph() -> Path:
    """Return the photograph that comes with scikit-learn, which takes long to import."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "images" / "flower.jpg"


def _published_classes(name: str) -> int:
    """Return the number of classes of a name's published head; ModelError for an unknown name."""
    if name in (*OWN_SHAPES, EMBEDDED):
        return 1000
    if is_native(name):
        return native_data_config(name).num_classes
    return timm_head_classes(name)
