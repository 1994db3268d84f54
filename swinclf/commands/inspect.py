"""inspect: the costs of a network, and figures of its attention and features for an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from swinclf.errors import ConfigError
from swinclf.explain.network_costs import Costs, measure_costs
from swinclf.explain.target import InspectionTarget, find_target
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import find_data_folder, make_folder, next_free_folder, refuse_inside
from swinclf.shell_quoting import command_line, quoted


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Options of the figures. By default none are drawn."""

    # an image file; None for one of the run's samples, else a photograph of a flower
    image: Path | None = None
    output: Path | None = None  # folder of the figures; None for the next free inspect-NAME-N here
    weights: Path | None = None  # a weights file or run with weights for a named network
    pretrained: bool = False  # whether a named network gets its published weights

    @property
    def is_wanted(self) -> bool:
        """Whether figures are drawn."""
        return self.pretrained or any((self.image, self.output, self.weights))


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection."""

    name: str  # the network's name
    costs: Costs  # parameters and operations of each part
    run: Path | None = None  # the model file; None for a named network
    folder: Path | None = None  # the folder of the figures; None if none were drawn
    # paths of the figures, in reading order
    pictures: Sequence[Path] = field(default_factory=tuple)
    image: str = ""  # a description of the image that they show
    label: str = ""  # the class that a run's network predicts for it; empty for a named network
    probability: float = 0.0  # that class's, in [0, 1]


def inspect(
    subject: str | None = None,
    *,
    img_size: int | None = None,
    model_args: Mapping[str, str] | None = None,
    figures: FigureOptions | None = None,
    report: Reporter = SILENT,
) -> Inspection:
    """Count the parameters and operations of a network, and optionally draw figures for an image.

    `subject` is the name of a network, a run folder or a model.safetensors; None for the newest
    finished run. `img_size` (px; None for the default) and `model_args`, as text, are for a named
    network. Without `figures` none are drawn.

    Raises:
        ModelError: If there is no network of that name.
        ConfigError: If options contradict each other or do not apply to the network.
        RunError: If there is no such run, or the figures cannot be written.
        WeightsError: If weights cannot be read or do not match.
        DataError: If the image cannot be read.
    """
    figures = figures or FigureOptions()
    what = find_target(subject, img_size, dict(model_args or {}))
    _check_options(what, figures, img_size, model_args)
    with torch.device("meta"):  # counting needs only shapes
        costs = measure_costs(what.build(), what.image_px)
    done = Inspection(what.architecture.name, costs, what.file)
    return _draw(done, what, figures, report) if figures.is_wanted else done


def _check_options(
    what: InspectionTarget,
    figures: FigureOptions,
    img_size: int | None,
    model_args: Mapping[str, str] | None,
) -> None:
    """Raise on options that contradict each other, or figures inside the dataset of a run."""
    if what.file is not None:
        output = figures.output or (Path() if figures.is_wanted else None)
        refuse_inside(find_data_folder(what.file), output, "--output")
    given = {
        "--img-size": img_size is not None,
        "--model-arg": bool(model_args),
        "--weights": figures.weights is not None,
        "--pretrained": figures.pretrained,
    }
    flags = [flag for flag, is_given in given.items() if is_given]
    if what.file is not None and flags:
        raise ConfigError(
            f"'{what.file}' without these options: a run has its own architecture and weights",
            found=", ".join(flags),
            hint=f"swinclf inspect {quoted(what.file.parent)}, or a name: {what.architecture.name}",
        )
    if what.file is None and not what.is_native and figures.is_wanted:
        raise ConfigError(
            "a run, or a network built by swinclf, for figures",
            found=f"'{what.architecture.name}', which timm builds",
            hint=f"only the table: swinclf inspect {what.architecture.name}; "
            "or a run: swinclf inspect RUN --image FILE",
        )
    if figures.pretrained and figures.weights is not None:
        raise ConfigError(
            "weights from one source",
            found="--weights and --pretrained",
            hint="one of the two",
        )


def _draw(
    done: Inspection, what: InspectionTarget, figures: FigureOptions, report: Reporter
) -> Inspection:
    """Draw all figures that are available for the network."""
    from swinclf.explain.figures import draw_all
    from swinclf.explain.saliency_overlay import has_evidence

    network, whose = what.open(figures.weights, pretrained=figures.pretrained, report=report)
    if not has_evidence(network):
        raise ConfigError(
            "a network built by swinclf, or a convolutional one, for figures",
            found=f"'{what.architecture.name}'",
            hint=f"only the table: swinclf inspect {command_line([str(what.file)])}",
        )
    preprocess = what.preprocess(network)
    pixels, image = what.picture(figures.image, preprocess)
    report.note(f"the figures show {image} and {whose}")
    stem = f"inspect-{what.title}"
    folder = make_folder(figures.output) if figures.output else next_free_folder(Path(), stem)
    pictures, label, probability = draw_all(
        *(network, what.card, preprocess, pixels, folder), image=image, weights=whose, report=report
    )
    return replace(
        done,
        folder=folder,
        pictures=pictures,
        image=image,
        label=label,
        probability=probability,
    )
