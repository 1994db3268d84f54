"""inspect: the textbook's numbers, torch's count, attention written out, pictures worth a look."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
import torch
from conftest import error_lines, write_image
from matplotlib.figure import Figure
from network_cases import difference, images, native_network, randomise
from PIL import Image

from swinclf.card import ModelCard
from swinclf.commands.inspect import FigureOptions, inspect
from swinclf.confidence.selective import Confidence
from swinclf.config import Impl
from swinclf.device import Hardware, Precision, multiplies_natively
from swinclf.errors import ConfigError, SwinclfError
from swinclf.explain import attention as looking
from swinclf.models.build import default_preprocess
from swinclf.models.compute import Computer
from swinclf.models.layers import merge_heads, split_heads
from swinclf.models.names import Architecture
from swinclf.models.store import save_model
from swinclf.models.swin import SwinBlock, from_windows, to_windows

VIT = {"patch_size": "8", "depth": "3", "embed_dim": "24", "num_heads": "3"}
SWIN = {"embed_dim": "12", "depths": "2-2", "num_heads": "2-4", "window_size": "3"}
CASES = {
    "vit": ("vit", VIT, 32),
    "no token": ("vit", VIT | {"pool": "avg", "class_token": "false"}, 32),
    "distilled": ("vit", VIT | {"distilled": "true"}, 32),
    "swin": ("swin", SWIN, 48),
    "padded swin": ("swin", SWIN, 40),
}
SWINS = ("swin", "padded swin")
HOSTILE = ("玫瑰", "$x$ for _y", "two\nlines")


def network_of(case):
    """A small network of a case whose every number matters."""
    name, args, side = CASES[case]
    network = native_network(name, num_classes=5, img_size=side, model_args=args)
    randomise(network)
    return network.eval()


def run_of(case, folder, *, samples=0):
    """A run's model file with a network of a case."""
    name, args, side = CASES[case]
    network = native_network(name, num_classes=3, img_size=side, model_args=args)
    randomise(network)
    shape = Architecture(name, Impl.NATIVE, 3, side, model_args=args)
    card = ModelCard(
        model=name,
        impl=Impl.NATIVE,
        classes=HOSTILE,
        preprocess=default_preprocess(shape, img_size=side),
        precision=Precision.FP32,
        model_args=args,
        confidence=Confidence(temperature=2.0),
    )
    folder.mkdir(parents=True)
    save_model(folder / "model.safetensors", network, card)
    for number in range(samples):
        write_image(folder / "samples" / f"{number:02}.jpg", (200, 90, 40), seed=number)
    return folder, network


@pytest.fixture(params=CASES)
def small(request):
    return network_of(request.param)


# --- the table ----------------------------------------------------------------------------------


def test_numbers_of_the_swin_paper():
    costs = inspect("swin_tiny_patch4_window7_224").costs
    shapes = [stage.shape for stage in costs.stages if stage.name.startswith("layers")]
    assert shapes == [(56, 56, 96), (28, 28, 192), (14, 14, 384), (7, 7, 768)]
    assert round(costs.parameters / 1e6, 1) == 28.3
    assert round(costs.macs / 1e9, 1) == 4.5
    assert costs.formula == "4hwC^2 + 2M^2hwC"
    first = costs.parts[1]
    assert first.attention_macs == 4 * 56 * 56 * 96**2 + 2 * 7**2 * 56 * 56 * 96


def test_numbers_of_the_vit_paper():
    costs = inspect("vit_base_patch16_224").costs
    assert costs.parts[1].shape == (196 + 1, 768)
    assert (costs.patches.count, costs.patches.prefix_tokens) == (196, 1)
    assert round(costs.parameters / 1e6, 1) == 86.6
    assert costs.formula == "4hwC^2 + 2(hw)^2C"
    assert costs.parts[1].attention_macs == 4 * 197 * 768**2 + 2 * 197**2 * 768


def test_numbers_of_a_shape_of_ones_own():
    args = {"patch_size": "6", "embed_dim": "64", "depth": "8", "num_heads": "4"}
    costs = inspect("vit", img_size=72, model_args=args).costs
    assert (costs.patches.count, costs.patch_numbers) == (144, 108)


@pytest.mark.parametrize("case", CASES)
def test_totals_are_torchs(case):
    name, args, side = CASES[case]
    costs = inspect(name, img_size=side, model_args=args).costs
    assert costs.torch_flops == 2 * costs.macs
    assert sum(stage.macs for stage in costs.stages) == costs.macs
    network = native_network(name, num_classes=1000, img_size=side, model_args=args)
    assert costs.parameters == sum(value.numel() for value in network.parameters())


def test_a_headless_name_has_no_head_to_count():
    costs = inspect("vit_small_patch14_dinov2", img_size=28).costs
    assert costs.parts[-1].shape == (384,)


def test_table_and_json_say_the_same(cli):
    table = cli("inspect", "swin_tiny_patch4_window7_224")
    assert (table.code, table.err) == (0, "")
    record = json.loads(cli("inspect", "swin_tiny_patch4_window7_224", "--format", "json").out)
    for part in record["parts"]:
        assert " x ".join(map(str, part["shape"])) in table.out
        assert f"{part['parameters']:,}" in table.out
        assert f"{part['macs']:,}" in table.out
        assert part["formula"] in table.out
    assert "28,288,354" in table.out
    assert "2 x  4 * " in table.out
    assert record["torch_flops"] == 2 * record["macs"]
    assert (record["pictures"], record["run"], record["label"]) == ([], None, None)
    assert "not " not in table.out
    assert max(map(len, table.out.splitlines())) <= 80


def test_the_formula_says_what_it_counts_besides_patches(cli):
    small = ("--model-arg", "embed_dim=24")
    vit = cli("inspect", "vit", "--img-size", 32, *small, "--model-arg", "num_heads=3").out
    assert "hw: the tokens, 4 patches and the class token\n" in vit
    stages = ("--model-arg", "depths=2,2", "--model-arg", "num_heads=2,4", *small)
    swin = cli("inspect", "swin", "--img-size", 32, *stages)
    assert "hw = 196: 8 x 8 tokens, padded to whole windows\n" in swin.out


# --- attention ----------------------------------------------------------------------------------


def test_rows_of_attention_sum_to_one(small):
    for one in looking.compute_attention(small, images(small, 1)):
        assert torch.allclose(one.weights.sum(-1), torch.ones(()), atol=1e-5)
        assert (one.weights >= 0).all()
        assert (one.distance_px >= 0).all()


def test_attention_written_out_gives_the_blocks_own_output(small):
    with torch.no_grad():
        for _, block, x in looking._block_inputs(small, images(small, 1)):
            tokens = block.norm1(x)
            if isinstance(block, SwinBlock):
                tokens = to_windows(block.shifted(tokens), block.window)[0]
            values = split_heads(block.attn.qkv(tokens), block.attn.heads)[2]
            mixed = looking.attention_weights(block, x) @ values
            out = block.attn.proj(merge_heads(mixed))
            if not isinstance(block, SwinBlock):
                expected = block.attn(tokens)
            else:
                down, across = (a + b for a, b in zip(block.grid, block.padding, strict=True))
                out = from_windows(out[None], block.window, (down, across))
                out = out[:, : block.grid[0], : block.grid[1]].roll(block.shift, (1, 2))
                expected = block.attend(block.norm1(x))
            assert torch.allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case not in SWINS])
def test_rollout_is_the_product_of_all_matrices(case):
    network = network_of(case)
    found = looking.compute_attention(network, images(network, 1))
    product = torch.eye(found[0].weights.shape[-1])
    for one in found:  # Abnar & Zuidema 2020, eq. 1, forwards
        product = (0.5 * one.weights.mean(0) + 0.5 * torch.eye(len(product))) @ product
    prefix = network.num_prefix_tokens
    row = {"vit": product[0], "distilled": product[:2].mean(0)}
    expected = row.get(case, product[prefix:].mean(0))[prefix:]
    got = looking.attention_rollout(network, found)
    assert got.shape == network.patch_embed.grid_size
    assert torch.allclose(got.flatten(), expected / expected.sum(), atol=1e-6)


def swin_matrix(block, weights):
    """A block's attention as one matrix between all tokens of its grid, padding left out."""
    tokens = block.grid[0] * block.grid[1]
    places = torch.arange(tokens).view(1, *block.grid, 1) + 1  # 0 is padding
    cut = to_windows(block.shifted(places), block.window)[0, :, :, 0]
    matrix = torch.zeros(tokens + 1, tokens + 1)
    for window, among in zip(cut, weights.mean(1), strict=True):
        matrix[window[:, None], window[None, :]] = among
    return matrix[1:, 1:]


@pytest.mark.parametrize("case", SWINS)
def test_rollout_of_a_swin_is_the_product_of_all_matrices(case):
    network = network_of(case)
    found = looking.compute_attention(network, images(network, 1))
    blocks = [block for stage in network.layers for block in looking.swin_blocks(stage)]
    product = None
    for one, block in zip(found, blocks, strict=True):
        tokens = block.grid[0] * block.grid[1]
        if product is None:
            product = torch.eye(tokens)
        if len(product) != tokens:
            merge = torch.zeros(tokens, len(product))
            wide = blocks[0].grid[1]
            for child in range(len(product)):
                merge[child // wide // 2 * block.grid[1] + child % wide // 2, child] = 0.25
            product = merge @ product
        matrix = swin_matrix(block, one.weights)
        product = (0.5 * matrix + 0.5 * torch.eye(tokens)) @ product
    expected = product.mean(0)
    got = looking.attention_rollout(network, found).flatten()
    assert torch.allclose(got, expected / expected.sum(), atol=1e-6)


def test_what_windows_give_is_an_even_share_on_average():
    network = network_of("swin")
    for one in looking.compute_attention(network, images(network, 1)):
        assert one.received.mean() == pytest.approx(1, abs=1e-5)
        assert one.is_shifted is (one.name.endswith("1"))


def test_padding_reads_nothing():
    network = network_of("padded swin")
    found = looking.compute_attention(network, images(network, 1))[0]
    matrix = swin_matrix(looking.swin_blocks(network.layers[0])[0], found.weights)
    expected = matrix.sum(0) / (matrix > 0).sum(0) * found.weights.shape[-1]
    torch.testing.assert_close(found.received.mean(0).flatten(), expected)


def test_evidence_of_a_swin_adds_up_to_its_score():
    network, image = network_of("swin"), images(network_of("swin"), 1)
    found = looking.compute_evidence(network, image, target=2)
    bias = network.head.fc.bias.detach()
    score = found.logits[2] - found.logits.mean()
    assert found.cells.shape == (6, 6)
    assert found.cells.sum() + bias[2] - bias.mean() == pytest.approx(float(score), abs=1e-4)


def test_evidence_is_for_the_predicted_class_and_leaves_no_trace(small):
    image = images(small, 1)
    found = looking.compute_evidence(small, image)
    assert found.target == int(small(image)[0].argmax())
    assert found.pixels.shape == image.shape[-2:]
    assert found.cells.abs().sum() > 0
    assert ("stage" in found.where) is hasattr(small, "layers")
    assert all(value.grad is None for value in small.parameters())
    assert not any(module._forward_hooks for module in small.modules())
    again = looking.compute_evidence(small, image)
    assert torch.equal(found.pixels, again.pixels)


def test_evidence_of_several_images_is_that_of_each(small):
    batch = images(small, 3)
    targets, logits, cells = looking.token_evidence(small, batch)
    for image, target, one, cell in zip(batch, targets, logits, cells, strict=True):
        alone = looking.compute_evidence(small, image[None], target)
        torch.testing.assert_close(one, alone.logits)
        torch.testing.assert_close(cell, alone.cells)


def test_evidence_of_tokens_in_bfloat16_differs_by_rounding(small):
    batch = images(small, 12)
    trunk = Computer(small, Hardware("cpu", Precision.BF16, "for the test")).trunk
    with torch.no_grad():
        exact = looking._attributed_tokens(small, batch)
        assert difference(looking._attributed_tokens(trunk, batch), exact) < 2**-5
    targets, _, cells = looking.token_evidence(small, batch)
    _, _, rounded = looking.token_evidence(small, batch, targets, trunk=trunk)
    assert rounded.dtype == torch.float32
    # AVX512-BF16 rounds otherwise than AMX: 0.76 was measured there for the distilled network.
    least = 0.8 if "AMX" in multiplies_natively("cpu", Precision.BF16)[1] else 0.7
    assert torch.corrcoef(torch.stack([cells.flatten(), rounded.flatten()]))[0, 1] > least


# --- pictures -----------------------------------------------------------------------------------


def check_pictures(done, names):
    assert [path.name for path in done.pictures] == [f"{name}.png" for name in names]
    for path in done.pictures:
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert 600 < picture.width < 1600
            assert 300 < picture.height < 1700
            assert np.asarray(picture.convert("L")).std() > 10
        assert path.stat().st_size < 1_500_000


def test_pictures_of_a_vit_run(tmp_path):
    run, _ = run_of("vit", tmp_path / "run", samples=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = inspect(str(run), figures=FigureOptions(output=tmp_path / "pictures"))
    check_pictures(done, ["patches", "positions", "attention", "evidence"])
    assert done.image == "a sample of the run, 00.jpg"


def test_pictures_of_a_swin_run(tmp_path):
    run, network = run_of("padded swin", tmp_path / "run")
    picture = tmp_path / "red.png"
    write_image(picture, (200, 50, 40), seed=1)
    done = inspect(
        str(run / "model.safetensors"), figures=FigureOptions(image=picture, output=tmp_path / "p")
    )
    check_pictures(done, ["patches", "positions", "windows", "attention", "evidence"])
    with Image.open(tmp_path / "p" / "attention.png") as shown:
        assert shown.width > 1.4 * shown.height, "both kinds of windows are in one row"
    assert done.image == "the image red.png"
    from swinclf.commands.predict import predict
    from swinclf.inference.predictor import open_predictor

    (answer,) = predict(open_predictor(run / "model.safetensors"), [picture])
    assert done.label == answer.label
    assert done.probability == pytest.approx(answer.probability, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "side", "in_a_row"),
    [
        ("vit", VIT, 32, 3),
        ("swin", SWIN | {"depths": "2-2-1", "num_heads": "2-2-4"}, 48, 3),
        ("swin", SWIN | {"depths": "2", "num_heads": "2"}, 48, 2),
    ],
)
def test_maps_of_attention_fill_their_rows(tmp_path, monkeypatch, name, args, side, in_a_row):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: figures.append(self) or save(self, *a, **k)
    )
    inspect(name, img_size=side, model_args=args, figures=FigureOptions(output=tmp_path / "p"))
    (drawn,) = (one for one in figures if one.texts[0].get_text().startswith("Attention "))
    boxes = [axes.get_position() for axes in drawn.axes]
    texts = [axes.get_title("left") + "".join(map(str, axes.texts)) for axes in drawn.axes]
    maps = [box for box, text in zip(boxes, texts, strict=True) if re.search("^block|stage", text)]
    for row in np.reshape([(box.x0, box.x1) for box in maps], (-1, in_a_row, 2)):
        assert row[0, 0] < 0.1
        assert row[-1, 1] > 0.78


def test_weights_of_a_run_for_a_name(tmp_path):
    run, _ = run_of("swin", tmp_path / "run")
    figures = FigureOptions(weights=run, output=tmp_path / "p")
    done = inspect("swin", img_size=48, model_args=SWIN, figures=figures)
    check_pictures(done, ["patches", "positions", "windows", "attention"])
    assert done.label == ""


def test_an_image_alone_asks_for_pictures_in_a_new_folder(cli, tmp_path):
    write_image(tmp_path / "a.png", (200, 50, 40), seed=1)
    words = [word for key, value in VIT.items() for word in ("--model-arg", f"{key}={value}")]
    (tmp_path / "inspect-vit-1").mkdir()
    done = cli("inspect", "vit", "--img-size", "32", *words, "--image", "a.png")
    assert done.code == 0, done.err
    assert "figures in inspect-vit-2: patches.png" in done.err
    assert "random weights" in done.err
    assert "pictures" not in done.out
    assert len(list((tmp_path / "inspect-vit-2").iterdir())) == 3


def test_a_run_names_its_answer(cli, tmp_path):
    run_of("vit", tmp_path / "runs" / "mine")
    done = cli("inspect", "runs/mine", "--output", "p", "--format", "json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["label"] in HOSTILE
    assert record["image"] == "a flower by vultilion, CC BY 2.0 (no --image)"
    assert "predicted " in done.err


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "line", "part"),
    [
        (("resnet51",), 1, 1, "'resnet51'"),
        (("vit-tiny",), 1, 2, "did you mean vit_tiny_patch16_224 or "),
        (("vit", "--img-size", "8"), 2, 0, "images of at least 16 px, the side of one patch"),
        (("vit_tiny_patch16_224", "--img-size", "8"), 2, 2, "--img-size 224"),
        (("resnet50.nope",), 1, 1, "'nope'"),
        (("swin_tiny_patch4_window7_224.nope",), 1, 0, "ms_in1k"),
        (("runs/nowhere",), 1, 0, "'runs/nowhere'"),
        ((), 1, 0, "a finished run"),
        (("vit", "--model-arg", "dept=3"), 2, 1, "did you mean depth?"),
        (("vit", "--pretrained"), 1, 0, "published weights"),
        (("vit", "--weights", "nowhere.pth"), 1, 0, "nowhere.pth"),
        (("vit", "--weights", "a.pth", "--pretrained"), 2, 1, "--weights and --pretrained"),
        (("vit_tiny_patch16_224", "--image", "absent.png"), 1, 0, "absent.png"),
    ],
)
def test_errors_have_three_lines(cli, words, code, line, part):
    done = cli("inspect", *words)
    assert (done.code, done.out) == (code, "")
    assert part in error_lines(done)[line]


def test_a_run_takes_no_shape(tmp_path):
    run, _ = run_of("vit", tmp_path / "run")
    with pytest.raises(ConfigError, match="--img-size, --model-arg, --weights, --pretrained"):
        inspect(
            str(run),
            img_size=8,
            model_args=VIT,
            figures=FigureOptions(weights=tmp_path, pretrained=True),
        )


def test_an_export_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(SwinclfError, match="an exported file"):
        inspect(str(tmp_path / "model.onnx"))
