"""The writers of exported files but for timm's folder and the web page.

Each overwrites an existing export at its path. Unless said otherwise, a file has the input and the
outputs of `DeployedNetwork`, computes in float32, and has the metadata of `ExportSource`.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from swinclf.config import Embed, ExportFormat, ExportPrecision
from swinclf.data.transforms import to_numpy_input
from swinclf.device import import_extra, import_openvino
from swinclf.export_formats import FEATURES, FORMATS, LOGITS, OOD_SCORE, OUTPUTS, PIXELS
from swinclf.exporting.deployed_network import DeployedNetwork, quiet_export
from swinclf.exporting.preprocess_graph import check_embeddable, embed_preprocess
from swinclf.exporting.quantize import Reduction, reduce_precision
from swinclf.exporting.source import ExportSource, check_export_folder
from swinclf.files import cannot_write, replace_path, to_utf8, write_bytes
from swinclf.inference.exported_predictor import LABELS, METADATA, quiet_stderr
from swinclf.models.program_file import METADATA as PROGRAM_METADATA

OPSET = 20
COREML_MANIFEST = FORMATS[ExportFormat.COREML].entry_file
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def export_onnx(source: ExportSource, path: Path) -> Reduction | None:
    """Write a network as ONNX; return the effect of a precision below float32, None for float32.

    With `source.embed`, input and outputs are those of `embed_preprocess`.

    Raises:
        ExportError: If the extra is not installed, or the network or its preprocessing cannot be
            exported.
        RunError: If the file cannot be written.
    """
    model, reduction = build_onnx(source)
    write_bytes(path, model.SerializeToString())
    return reduction


def build_onnx(source: ExportSource) -> tuple[Any, Reduction | None]:
    """Return what `export_onnx` writes, as an onnx.ModelProto, and what it returns."""
    onnx, _ = import_extra("onnx", "onnx", "onnxscript")  # onnxscript is needed by torch's exporter
    if source.embed is Embed.PREPROCESS:
        check_embeddable(source.card.preprocess)  # exporting the network takes long
    model, reduction = _network_graph(source), None
    if source.precision is not ExportPrecision.FP32:
        assert source.calibration is not None
        extract = onnx.utils.Extractor(model).extract_model
        # Squared distances stay in float32. A constant that both parts use gets a name for each.
        distances = onnx.compose.add_prefix_graph(
            extract([FEATURES], [OOD_SCORE]).graph,
            "distances/",
            rename_edges=False,
            rename_inputs=False,
            rename_outputs=False,
            rename_value_infos=False,
        )
        pixels = to_numpy_input(source.calibration, source.card.preprocess)
        model, reduction = reduce_precision(
            extract([PIXELS], [LOGITS, FEATURES]), source.precision, pixels
        )
        model.graph.node.extend(distances.node)
        model.graph.initializer.extend(distances.initializer)
        model.graph.output.extend(distances.output)
    if source.embed is Embed.PREPROCESS:
        embed_preprocess(model, source.card)
    onnx.helper.set_model_props(model, source.metadata())
    return model, reduction


def _network_graph(source: ExportSource) -> Any:
    """Return the network as an onnx.ModelProto."""
    network = DeployedNetwork(source)
    with quiet_export(source.card.model, "ONNX"):
        program = torch.onnx.export(
            network,
            (network.example(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[PIXELS],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def export_openvino(source: ExportSource, path: Path) -> None:
    """Write OpenVINO's IR, FILE.xml at `path` and FILE.bin, converted from the ONNX file.

    The metadata is in rt_info.

    Raises:
        ExportError: If an extra is not installed or the network cannot be exported.
        RunError: If a file cannot be written.
    """
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        onnx, written = Path(folder) / "model.onnx", Path(folder) / path.name
        export_onnx(source, onnx)
        with quiet_export(source.card.model, "openvino"):
            # Not convert_model, which sends statistics.
            model = openvino.Core().read_model(str(onnx))
            for key, text in source.metadata().items():
                model.set_rt_info(text, ["swinclf", key])
            openvino.save_model(model, str(written), compress_to_fp16=False)
        write_bytes(path.with_suffix(".bin"), written.with_suffix(".bin").read_bytes())
        write_bytes(path, written.read_bytes())


def export_program(source: ExportSource, path: Path) -> None:
    """Write a program of torch.export (.pt2), with a free batch size.

    Torch alone loads it, without the network's code. The metadata is the extra file
    `metadata.json`.

    Raises:
        ExportError: If the network cannot be exported.
        RunError: If the file cannot be written.
    """
    network, buffer = DeployedNetwork(source), io.BytesIO()
    with quiet_export(source.card.model, "torch-export"), torch.no_grad():
        program = torch.export.export(
            network, (network.example(),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        program.example_inputs = None  # megabytes of zeros, in a pickle
        program._guards_code = []  # batch sizes above 0
        for node in program.graph.nodes:
            for name in _ORIGINS:  # paths of this machine among them
                node.meta.pop(name, None)
        torch.export.save(
            program, buffer, extra_files={PROGRAM_METADATA: json.dumps(source.metadata())}
        )
    write_bytes(path, buffer.getvalue())


class _NamedOutputs(torch.nn.Module):
    """A `DeployedNetwork` whose outputs have names in the file."""

    def __init__(self, network: DeployedNetwork) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute (N, 3, H, W) -> the outputs by name."""
        return dict(zip(OUTPUTS, self.network(pixels), strict=True))


def export_litert(source: ExportSource, path: Path) -> None:
    """Write a LiteRT model (.tflite) of one image, for Android and small boards.

    An archive at the end of the file, where TensorFlow Lite keeps labels, holds the metadata and
    the class names, one a line.

    Raises:
        ExportError: If the extra is not installed or the network cannot be exported.
        RunError: If the file cannot be written.
    """
    network = DeployedNetwork(source)
    with quiet_stderr():
        (litert_torch,) = import_extra("litert", "litert_torch")
        with quiet_export(source.card.model, "litert"), tempfile.TemporaryDirectory() as folder:
            example = network.example()[:1]
            # Its operators on sizes that are not fixed are incomplete: a batch has one image.
            model = litert_torch.convert(_NamedOutputs(network), sample_kwargs={PIXELS: example})
            written = Path(folder) / path.name
            model.export(str(written))
            content = written.read_bytes()
    with_archive = io.BytesIO(content)
    with zipfile.ZipFile(with_archive, "a") as archive:
        names = [" ".join(name.splitlines()) for name in source.card.classes]
        archive.writestr(METADATA, to_utf8(json.dumps(source.metadata())))
        archive.writestr(LABELS, to_utf8("\n".join(names) + "\n"))
    write_bytes(path, with_archive.getvalue())


def export_coreml(source: ExportSource, path: Path) -> None:
    """Write an ML program of Core ML (.mlpackage) of one image, for iOS 16, macOS 13 and later.

    The metadata is the user-defined one.

    Raises:
        ExportError: If the extra is not installed, the network cannot be exported, or the folder
            has other files.
        RunError: If the folder cannot be written.
    """
    network = DeployedNetwork(source)
    check_export_folder(path, COREML_MANIFEST)
    with quiet_stderr():
        (coremltools,) = import_extra("coreml", "coremltools")
        with quiet_export(source.card.model, "coreml"):
            model = coremltools.convert(
                _program(network),
                outputs=[coremltools.TensorType(name=name) for name in OUTPUTS],
                minimum_deployment_target=coremltools.target.iOS16,
                compute_precision=coremltools.precision.FLOAT32,
                skip_model_load=True,
            )
    model.user_defined_metadata.update(source.metadata())
    model.license = source.license
    model.short_description = "Image classifier"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written, before = Path(folder) / path.name, Path(folder) / "before"
            with quiet_stderr():
                model.save(str(written))
            if path.is_dir():
                replace_path(path, before)
            try:
                replace_path(written, path)
            except OSError:
                if before.is_dir():
                    replace_path(before, path)
                raise
    except OSError as error:
        raise cannot_write(path, error) from error


@torch.no_grad()
def _program(network: DeployedNetwork) -> Any:
    """Return a network of one image as a program of basic operators, without `alias`.

    coremltools does not know that operator, which returns what it gets.
    """
    program = torch.export.export(network, (network.example()[:1],)).run_decompositions({})
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    return program
