"""Results as text for people, and as JSON values for programs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING

from swinclf.cli.columns import align_columns, elide
from swinclf.data.scanned_files import format_count
from swinclf.reporter import format_percent, terminal_safe
from swinclf.terminal import one_line, wrapped

if TYPE_CHECKING:
    from swinclf.commands.check import Audit
    from swinclf.commands.evaluate import Evaluation
    from swinclf.commands.export import AllExports
    from swinclf.commands.inspect import Inspection
    from swinclf.confidence.selective import RejectionScores
    from swinclf.data_quality.findings import Finding
    from swinclf.explain.network_costs import Costs
    from swinclf.exporting.verified_export import Export
    from swinclf.metrics import Metrics
    from swinclf.models.complexity import Part
    from swinclf.models.names import Backbone


EXAMPLES, EXAMPLE_PATHS = 3, 4  # of a finding of `check`; of an example
CLASS_WIDTH = 40  # columns of a class name


class Split(StrEnum):
    """Images to score."""

    VAL = "val"
    TEST = "test"
    TRAIN = "train"
    ALL = "all"


def metrics_text(metrics: Metrics) -> str:
    """Return overall scores, per-class scores and the most confused pairs."""
    class_count = len(metrics.classes)
    with_images = sum(one.support > 0 for one in metrics.per_class.values())
    means = ""
    if with_images < class_count:
        means = f" (mean of the {with_images:,} of {class_count:,} classes with images)"
    lines = [
        f"accuracy           {accuracy_with_interval(metrics)}",
        f"largest class      {format_percent(metrics.majority_accuracy)} (always answering it)",
        *(
            [f"top-5 accuracy     {format_percent(metrics.top5_accuracy)}"]
            if class_count > 5
            else []
        ),
        f"balanced accuracy  {format_percent(metrics.balanced_accuracy)}{means}",
        f"macro F1           {format_percent(metrics.macro_f1)}{means}",
        f"loss               {metrics.loss:.4f}",
        f"calibration (ECE)  {format_percent(metrics.ece)} "
        f"({format_percent(metrics.ece_ideal)} if perfectly calibrated)",
        f"images             {metrics.images:,} ({metrics.split})",
        "",
    ]
    rows = [("class", "precision", " recall", "     F1", "images")]
    for name, one in metrics.per_class.items():
        recall, f1 = (
            format_percent(share) if one.support else "-" for share in (one.recall, one.f1)
        )
        label = elide(one_line(name), CLASS_WIDTH)
        rows.append((label, format_percent(one.precision), recall, f1, f"{one.support:,}"))
    lines += align_columns(rows, right=range(1, 5))
    confused = metrics.most_confused(5)
    if confused:
        lines += ["", "most often confused (true -> predicted)"]
        lines += [
            f"  {one_line(true)} -> {one_line(predicted)}: {count}"
            for true, predicted, count in confused
        ]
    return "\n".join(lines) + "\n"


def rejection_text(done: RejectionScores) -> str:
    """Return the effect of rejecting predictions."""
    right = "" if math.isnan(done.right) else f", {format_percent(done.right)} of these correct"
    lines = [
        f"with --reject {done.precision:g}",
        f"  known classes    {format_percent(done.known_accepted)} of {done.known:,} images "
        f"accepted{right}",
    ]
    if done.unknown:
        lines.append(
            f"  unknown classes  {format_percent(done.unknown_accepted)} of {done.unknown:,} "
            "images accepted"
        )
    scores = {"probability": done.auroc_probability, "OOD score": done.auroc_ood}
    areas = [f"{area:.3f} by {name}" for name, area in scores.items() if not math.isnan(area)]
    if areas:
        lines.append(f"  out-of-distribution detection: AUROC {', '.join(areas)}")
    if done.unknown and done.known:
        low, high = (100 * end for end in done.difference)
        lines += [
            f"  unknown images are accepted less often: by {low:.1f} to {high:.1f} points "
            "(95 % interval)"
            if done.detects_unknown
            else "  unknown images are not significantly less accepted (known minus unknown, 95 % "
            f"interval: {low:+.1f} to {high:+.1f} points): do not rely on --reject for them"
        ]
    return "\n".join(lines)


def evaluation_record(done: Evaluation) -> dict[str, object]:
    """Return an evaluation as JSON values: its metrics, and the effect of rejection if measured."""
    record = done.metrics.to_dict()
    if done.rejection is not None:
        record["rejection"] = asdict(done.rejection)
    return record


def export_record(done: Export) -> dict[str, object]:
    """Return an export as JSON values."""
    parity = asdict(done.parity) if done.parity else {}
    accuracies = {name: parity.pop(name, None) for name in ("accuracy", "fp32_accuracy")}
    return {
        "format": str(done.export_format),
        "path": str(done.path),
        "bytes": done.bytes,
        "precision": str(done.precision),
        "parity": parity or None,
        **accuracies,
        "images_per_second": done.images_per_second,
        "reduction": asdict(done.reduction) if done.reduction else None,
    }


def all_exports_record(done: AllExports) -> dict[str, object]:
    """Return the exports to all formats as JSON values."""
    return {
        "exports": [export_record(one) for one in done.exports],
        "unavailable": [asdict(one) for one in done.unavailable],
        "run_images_per_second": done.run_images_per_second,
    }


def all_exports_text(done: AllExports) -> str:
    """Return a table of the exports to all formats, and why the others could not be written."""
    header = ("format", "largest difference", "labels differ", "MB", "images/s", "file")
    rows = [header, ("the run", "", "", "", f"{done.run_images_per_second:,.1f}", "")]
    for one in done.exports:
        agrees = "" if one.agrees else " (does not agree with the run)"
        rows.append(
            (
                str(one.export_format),
                f"{one.parity.largest:.1e}" if one.parity else "not compared",
                str(one.parity.flips) if one.parity else "-",
                f"{one.bytes / 1e6:,.1f}",
                f"{one.images_per_second:,.1f}" if one.images_per_second else "-",
                f"{one.path}{agrees}",
            )
        )
    lines = align_columns(rows, right={1, 2, 3, 4})
    for other in done.unavailable:
        state = "failed" if other.is_broken else "not written"
        lines += [f"{other.export_format}: {state}: {other.reason}", f"  try: {other.hint}"]
    return "\n".join(lines) + "\n"


def export_text(done: Export) -> str:
    """Return the parity of an export with its run."""
    parity, written = done.parity, f"{done.path} ({done.bytes / 1e6:,.1f} MB)"
    if parity is None:
        return (
            f"{written}\nNOT compared with the run: {done.export_format} files run on macOS only.\n"
            "Compare it there before you rely on it: swinclf eval DATA --run FILE"
        )
    lines = [written, f"compared with the run in float32 on {parity.images} images:"]
    if effect := done.reduction:
        lines[1:1] = [
            f"the network in {done.precision}, on this CPU: {effect.size_bytes / 1e6:,.1f} MB "
            f"instead of {effect.fp32_size_bytes / 1e6:,.1f} MB, "
            f"{effect.images_per_second:,.0f} images/s instead of "
            f"{effect.fp32_images_per_second:,.0f}"
        ]
    of = " on average, and as share of labels" if parity.is_of_mean else ""
    return "\n".join([*lines, *parity.describe(), f"tolerance {parity.tolerance:g}{of}"])


def audit_text(audit: Audit) -> str:
    """Return the findings of `check`, with a few examples of each."""
    lines = [f"{len(audit.images):,} images in {format_count(len(audit.classes), 'class')}"]
    for finding in audit.findings:
        lines += ["", *_finding_lines(finding)]
    if audit.is_clean:
        lines += ["", "nothing to fix"]
    return "\n".join(lines) + "\n"


def _finding_lines(finding: Finding) -> list[str]:
    lines = [
        f"{'FIX ' if finding.needs_fix else 'note'}  {terminal_safe(finding.message)}",
        f"      -> {finding.advice}",
    ]
    for one in finding.examples[:EXAMPLES]:
        text = "  =  ".join(one.paths[:EXAMPLE_PATHS])
        if len(one.paths) > EXAMPLE_PATHS:
            text += f"  and {len(one.paths) - EXAMPLE_PATHS:,} more"
        if one.note:
            text = f"{text}  ({one.note})" if text else one.note
        if text:
            lines.append(f"      {one_line(text)}")
    if finding.count > EXAMPLES:
        lines.append(f"      ... and {finding.count - EXAMPLES:,} more")
    return lines


def recommended_text(backbones: Mapping[Backbone, tuple[float, str]]) -> str:
    """Return the recommended backbones with cost and reason, and the heading of the rest."""
    rows = [
        f"{_backbone_row(one):<46}  {macs:4.1f}  {reason}"
        for one, (macs, reason) in backbones.items()
    ]
    heading = "recommended, with the billions of multiply-adds of an image:"
    return "\n".join([heading, *rows, "", "all Swin and ViT:"]) + "\n"


def _backbone_row(one: Backbone) -> str:
    return f"{one.parameters / 1e6:8.1f} M  {one.image_px:4d}  {one.name}"


def backbones_text(backbones: Sequence[Backbone]) -> str:
    """Return names and sizes of backbones, one a line."""
    heading = f"{'parameters':>10}  {'px':>4}  name"
    return "\n".join([heading, *map(_backbone_row, backbones)]) + "\n"


def inspection_text(done: Inspection) -> str:
    """Return the costs of a network by stage and block, and of its attention by formula."""
    costs = done.costs
    height, width = costs.image_px
    attention = f" {'attention':>11}" if costs.formula else ""
    lines = [
        f"{terminal_safe(done.name)}, images of {height} x {width} px",
        _structure_line(costs),
        "",
        f"{'part':<21} {'output':<13} {'parameters':>12} {'multiply-adds':>15}{attention}",
    ]
    for stage in costs.stages:
        own = [part for part in costs.parts if part.stage == stage.name]
        lines.append(_part_line(stage, stage.name))
        if own[0].name != stage.name:
            lines += [_part_line(one, f"  {_within(one)}") for one in own]
    lines.append(f"{'total':<35} {costs.parameters:12,} {costs.macs:15,}")
    if not costs.formula:
        lines.append(
            "multiply-adds: half the operations that torch counts (convolutions, products)"
        )
        return "\n".join(lines) + "\n"
    same = costs.torch_flops == 2 * costs.macs
    lines += [
        f"torch counts {costs.torch_flops:,} operations, "
        + ("two a multiply-add: the same" if same else f"not {2 * costs.macs:,}"),
        "",
        f"multiply-adds of a block's attention, by the paper's formula {costs.formula}:",
    ]
    lines += [f"  {name}  {formula}" for name, formula in _formulas(costs.parts)]
    return "\n".join([*lines, *_token_notes(costs)]) + "\n"


def _token_notes(costs: Costs) -> Iterator[str]:
    """Yield what hw counts besides the patches: other tokens, or the padding of windows."""
    patches = costs.patches
    if patches and (prefix := patches.prefix_tokens):
        others = "the class token" if prefix == 1 else f"{prefix} more tokens"
        yield f"hw: the tokens, {patches.count:,} patches and {others}"
    grids = {
        (part.shape[:-1], int(part.formula.split()[2])) for part in costs.parts if part.formula
    }
    for shape, tokens in sorted(grids):
        if len(shape) == 2 and math.prod(shape) != tokens:
            side = " x ".join(map(str, shape))
            yield f"hw = {tokens:,}: {side} tokens, padded to whole windows"


def _structure_line(costs: Costs) -> str:
    """Return the second line: the patches, or that there are none."""
    patches = costs.patches
    if patches is None:
        if costs.is_convolutional:
            return "a convolutional network: it has no patches and no attention"
        return "built by timm: its parts, without patches and attention"
    (rows, columns), prefix = patches.grid, patches.prefix_tokens
    sides = " x ".join(map(str, patches.patch_px))
    return (
        f"patches of {sides} px: {rows} x {columns} = {patches.count:,}, of "
        f"{costs.patch_numbers:,} numbers each"
        + (f", and {prefix} more tokens" if prefix > 1 else "")
        + (", and the class token" if prefix == 1 else "")
    )


def pictures_text(done: Inspection) -> str:
    """Return the paths of an inspection's figures, and the prediction."""
    names = ", ".join(path.name for path in done.pictures)
    answer = f"\npredicted {done.label} ({format_percent(done.probability)})" if done.label else ""
    return f"figures in {done.folder}: {names}{answer}"


def _within(part: Part) -> str:
    """Return a part's name without the prefix of its stage, unless only a number is left."""
    short = part.name.removeprefix(f"{part.stage}.")
    return part.name if short.isdecimal() else short


def _part_line(part: Part, name: str) -> str:
    """Return a row of the table, with the attention's fraction of its multiply-adds."""
    shape = " x ".join(map(str, part.shape))
    share = f"{format_percent(part.attention_macs / part.macs):>11}" if part.attention_macs else ""
    return f"{name:<21} {shape:<13} {part.parameters:12,} {part.macs:15,} {share}".rstrip()


def _formulas(parts: Sequence[Part]) -> list[tuple[str, str]]:
    """Return the formulas with their numbers, once for equal blocks of a stage."""
    shown = Counter((part.stage, part.formula) for part in parts if part.formula)
    return [(f"{stage}, {count} x", formula) for (stage, formula), count in shown.items()]


def inspection_record(done: Inspection) -> dict[str, object]:
    """Return an inspection as JSON values."""
    costs, patches = done.costs, done.costs.patches
    return {
        "model": done.name,
        "run": str(done.run) if done.run else None,
        "image_px": list(costs.image_px),
        "patch_px": list(patches.patch_px) if patches else None,
        "patches": list(patches.grid) if patches else None,
        "numbers_per_patch": costs.patch_numbers if patches else None,
        "prefix_tokens": patches.prefix_tokens if patches else None,
        "parameters": costs.parameters,
        "macs": costs.macs,
        "torch_flops": costs.torch_flops,
        "attention_formula": costs.formula or None,
        "stages": [asdict(part) for part in costs.stages],
        "parts": [asdict(part) for part in costs.parts],
        "image": done.image or None,
        "pictures": [str(path) for path in done.pictures],
        "label": done.label or None,
        "probability": done.probability if done.label else None,
    }


def findings_text(findings: Mapping[str, object], columns: int | None) -> str:
    """Return the report of `doctor`, wrapped to the columns of a terminal (None for any width)."""
    width = max(map(len, findings))
    lines = [f"{name:<{width}}  {value}" for name, value in findings.items()]
    return "".join(f"{wrapped(line, columns or len(line))}\n" for line in lines)


def accuracy_with_interval(metrics: Metrics) -> str:
    """Return an accuracy with its interval."""
    low, high = map(format_percent, metrics.accuracy_ci95)
    return f"{format_percent(metrics.accuracy)} (95 % interval {low} to {high})"
