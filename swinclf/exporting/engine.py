"""The engine of prediction on a CPU: torch, or an export that is faster and agrees with it."""

from __future__ import annotations

from pathlib import Path

from swinclf.config import Engine, ExportFormat
from swinclf.errors import ConfigError, ExportError, RunError
from swinclf.export_formats import FORMATS, find_export
from swinclf.exporting.verified_export import RunToExport, disagreement_error, measure_speed
from swinclf.inference.predictor import InferenceOptions, Predictor, open_predictor
from swinclf.inference.samples import images_to_compare
from swinclf.reporter import Reporter

MIN_SPEEDUP = 1.3  # below, a second file and its comparison are not worth it
# Of measuring, in turn, as other programs may use the machine; and of each engine in a round.
ROUNDS, MEASURED_S = 2, 0.3
ENGINES = {Engine.OPENVINO: ExportFormat.OPENVINO, Engine.ONNX: ExportFormat.ONNX}
TORCH_HINT = "--engine torch"  # the errors of exporting hint at options of `export`


def open_engine(
    model: Path, engine: Engine, options: InferenceOptions, report: Reporter
) -> Predictor:
    """Open a model with an engine.

    An engine other than torch reads the export in the run, which is written if it is missing or
    does not agree with the run. `auto` measures all that are installed against torch in the run's
    own precision, and selects the fastest if it is at least `MIN_SPEEDUP` times as fast. Without
    stored images to compare on, it is torch.

    `model` is a model.safetensors; any other file is opened as `open_predictor` does.

    Raises:
        ConfigError: If an engine is named for an exported file or a GPU.
        ExportError: If the extra of a named engine is not installed, its file does not agree, or
            the run has no stored images to compare on.
        RunError, WeightsError, ModelError, DeviceError: As `open_predictor`.
    """
    own = open_predictor(model, options)
    if engine is Engine.TORCH:
        return own
    if find_export(model) or own.device != "cpu":
        if engine is Engine.AUTO:
            return own
        raise ConfigError(
            f"a run on the CPU for --engine {engine}",
            found=f"an exported file, '{model}'" if own.device == "cpu" else f"{own.device}",
            hint="no --engine",
        )
    try:
        run = RunToExport(model, images_to_compare(model, None), (), options, None, report)
    except ExportError as error:  # no images to compare on
        if engine is Engine.AUTO:
            report.note(f"engine: torch, as there are no images to compare on ({error.found})")
            return own
        error.hint = TORCH_HINT
        raise
    if engine is not Engine.AUTO:
        return _exported_predictor(run, model, engine)
    return _fastest(run, model, own, report)


def _fastest(run: RunToExport, model: Path, own: Predictor, report: Reporter) -> Predictor:
    """Return the fastest predictor whose engine agrees with torch; `own` if that is torch."""
    predictors: dict[Engine, Predictor] = {Engine.TORCH: own}
    for engine in ENGINES:
        try:
            predictors[engine] = _exported_predictor(run, model, engine)
        except (ExportError, RunError) as error:
            report.note(f"engine {engine}: {error.found}")
    if len(predictors) == 1:  # nothing to measure
        report.note("engine: torch")
        return own
    speeds = dict.fromkeys(predictors, 0.0)
    for _ in range(ROUNDS):
        for engine, predictor in predictors.items():
            speeds[engine] = max(speeds[engine], measure_speed(predictor, MEASURED_S))
        fastest = max(speeds, key=lambda engine: speeds[engine])
        if fastest is Engine.TORCH:  # the others are far from `MIN_SPEEDUP`
            break
    speedup = speeds[fastest] / speeds[Engine.TORCH]
    is_faster = speedup >= MIN_SPEEDUP
    times = f"{fastest}, {speedup:.1f} times as fast as torch" if is_faster else "torch"
    report.note(f"engine: {times}")
    return predictors[fastest] if is_faster else own


def _exported_predictor(run: RunToExport, model: Path, engine: Engine) -> Predictor:
    """Open the export in the run, or write it again."""
    path = model.with_name(FORMATS[ENGINES[engine]].default_name)
    if path.is_file():
        try:
            predictor, parity = run.compare(path)
            if parity.agrees:
                return predictor
        except RunError:
            pass  # damaged, or of another run
    done = run.export(ENGINES[engine], path)
    if not done.agrees:
        error = disagreement_error(done)
        error.hint = TORCH_HINT
        raise error
    return open_predictor(path)
