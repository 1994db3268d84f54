"""inspect: what a network costs, and pictures of how it looks at an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from swinclf.device import command_line
from swinclf.errors import ConfigError
from swinclf.explain.network_costs import Costs, measure_costs
from swinclf.explain.target import InspectionTarget, find_target
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import make_folder, next_free_folder


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
        subject: The name of a network, a run folder or a model.safetensors; None for the newest
            finished run.
        img_size: Side of a named network's image, pixels; None for its own.
        model_args: What differs from a named network's shape, each as text.
        look: What to draw; None for nothing.
        report: Hears what was chosen.

    Raises:
        ModelError: If there is no network of that name.
        ConfigError: If options do not fit each other or the network.
        RunError: If there is no such run, or the pictures cannot be written.
        WeightsError: If weights cannot be read or do not fit.
        DataError: If the image cannot be read.
    """
    look = look or Look()
    what = find_target(subject, img_size, dict(model_args or {}))
    _check_options(what, look, img_size, model_args)
    with torch.device("meta"):  # shapes are enough to count, and take neither time nor memory
        costs = measure_costs(what.build(), what.image_px)
    done = Inspection(what.architecture.name, costs, what.file)
    return _draw(done, what, look, report) if look.is_wanted else done


def _check_options(
    what: InspectionTarget, look: Look, img_size: int | None, model_args: Mapping[str, str] | None
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
    if what.file is None and not what.is_native and look.is_wanted:
        raise ConfigError(
            "a run, or a name of this package's own networks, to draw pictures",
            found=f"'{what.architecture.name}', which timm builds",
            hint=f"the table alone: swinclf inspect {what.architecture.name}; "
            "or of a run: swinclf inspect RUN --image FILE",
        )
    if look.pretrained and look.weights is not None:
        raise ConfigError(
            "weights from one place",
            found="--weights and --pretrained",
            hint="one of the two",
        )


def _draw(done: Inspection, what: InspectionTarget, look: Look, report: Reporter) -> Inspection:
    """Draw all pictures that the network has."""
    from swinclf.explain.figures import InspectionInput, draw_all
    from swinclf.explain.saliency_overlay import has_evidence

    if done.costs.colours != 3:
        raise ConfigError(
            "a network for images of 3 colours, to draw pictures",
            found=f"in_chans={done.costs.colours}",
            hint="the table alone, without --image, --output, --weights and --pretrained",
        )
    network, whose = what.open(look.weights, pretrained=look.pretrained, report=report)
    if not has_evidence(network):
        raise ConfigError(
            "a network to draw pictures of: one of this package, or a convolutional one",
            found=f"'{what.architecture.name}'",
            hint=f"the table alone: swinclf inspect {command_line([str(what.file)])}",
        )
    preprocess = what.preprocess(network)
    pixels, image = what.picture(look.image, preprocess)
    report.note(f"pictures show {image} and {whose}")
    stem = f"inspect-{what.title}"
    folder = make_folder(look.output) if look.output else next_free_folder(Path(), stem)
    classes = what.card.classes if what.card else ()
    temperature = what.card.confidence.temperature if what.card else 1.0
    scene = InspectionInput(network, preprocess, pixels, image, whose, classes, temperature)
    gallery = draw_all(scene, folder, report)
    return replace(
        done,
        folder=folder,
        pictures=gallery.pictures,
        image=image,
        label=gallery.label,
        probability=gallery.probability,
    )
