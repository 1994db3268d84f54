"""What can be predicted from Python; what cannot says what was expected, found, and may help."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
from conftest import COLOURS, write_dataset
from onnx_files import write_onnx
from PIL import Image, ImageSequence
from PIL.ExifTags import Base as Tag

import swinclf
from swinclf.data import limits
from swinclf.errors import ConfigError

RED = np.full((40, 40, 3), COLOURS["red"], np.uint8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return swinclf.load(write_onnx(tmp_path_factory.mktemp("model") / "m.onnx"))


def encoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(RED).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "one",
    [
        RED,
        torch.from_numpy(RED),
        Image.fromarray(RED),
        encoded("PNG"),
        bytearray(encoded("JPEG")),
        memoryview(encoded("PNG")),
    ],
    ids=["array", "tensor", "image", "bytes", "bytearray", "memoryview"],
)
def test_one_input_is_enough_and_many_come_in_any_iterable(classifier, one):
    assert [answer.label for answer in classifier.predict(one)] == ["red"]
    assert [answer.label for answer in classifier.predict((one, one))] == ["red", "red"]
    assert [answer.label for answer in classifier.predict(x for x in [one])] == ["red"]
    assert not classifier.predict(one)[0].error


def test_a_batch_of_images_and_an_array_of_paths(classifier, tmp_path):
    assert [one.label for one in classifier.predict(np.stack([RED, RED]))] == ["red"] * 2
    Image.fromarray(RED).save(tmp_path / "a.png")
    assert classifier.predict(np.array([str(tmp_path / "a.png")]))[0].label == "red"
    assert classifier.predict([]) == []


def test_an_image_is_predicted_as_it_was_when_it_was_given(classifier, tmp_path):
    """Of a file that is closed, an animation that goes on, and an array that is used again."""
    wanted = list(COLOURS) * 6
    frames = [Image.new("RGB", (40, 40), COLOURS[name]) for name in wanted]
    paths = [tmp_path / f"{number}.png" for number in range(len(frames))]
    for frame, path in zip(frames, paths, strict=True):
        frame.save(path)
    animated = {"save_all": True, "append_images": frames[1:], "duration": 9, "lossless": True}
    frames[0].save(tmp_path / "all.webp", **animated)

    def files():
        for path in paths:
            with Image.open(path) as image:
                yield image

    def arrays():
        array = np.empty((40, 40, 3), np.uint8)
        for frame in frames:
            array[:] = frame
            yield array

    with Image.open(tmp_path / "all.webp") as animation:
        for images in (files(), ImageSequence.Iterator(animation), arrays()):
            assert [one.label for one in classifier.predict(images)] == wanted


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp"])
def test_an_opened_photograph_is_turned_as_its_file_is(classifier, tmp_path, kind):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20] = COLOURS["red"]
    exif = Image.Exif()
    exif[Tag.Orientation] = 6
    path = tmp_path / f"turned.{kind}"
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        opened, file = classifier.predict([image, path])
    assert not opened.error
    assert opened.top == file.top


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow
def test_broken_exif_of_an_opened_photograph_turns_nothing(classifier, tmp_path):
    path = tmp_path / "broken.jpg"
    Image.fromarray(RED).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with Image.open(path) as image:
        assert [one.label for one in classifier.predict([image, path])] == ["red", "red"]


@pytest.mark.parametrize("inputs", [None, 5, 1.5, {"a.jpg": 1}, object()])
def test_what_is_no_input_at_all(classifier, inputs):
    with pytest.raises(ConfigError) as error:
        classifier.predict(inputs)
    assert error.value.expected.startswith("a path, the bytes of an image file, a PIL image or")
    assert type(inputs).__name__.removesuffix("Type") in error.value.found
    assert error.value.hint == 'classifier.predict(["a.jpg", "b.jpg"])'


ARRAY = "expected an array (height, width, 3) of uint8; "


@pytest.mark.parametrize(
    ("one", "error"),
    [
        (np.zeros((0, 0, 3), np.uint8), ARRAY + "found shape (0, 0, 3) of uint8, which is empty"),
        (np.array([], np.uint8), ARRAY + "found shape (0,) of uint8, which is empty"),
        (None, "expected a path, the bytes of an image file, a PIL image or"),
        (7, "found a value of type int"),
        (["a.png"], "found a value of type list"),
        (b"", "expected the bytes of an image file; found none"),
        (b"no image", "not an image"),
        (np.zeros((3, 8, 9), np.uint8), "channels come last: array.transpose(1, 2, 0)"),
        (torch.zeros((3, 8, 9)), "found shape (3, 8, 9) of float32 from 0 to 0; channels come"),
        (np.zeros((8, 9), np.uint8), "for a greyscale image: numpy.stack([array] * 3, axis=-1)"),
        (np.zeros((8, 9, 4), np.uint8), "without the alpha channel: array[..., :3]"),
        (RED / 255, "for values from 0 to 1: (255 * array).round().astype('uint8')"),
        (RED * 1.0, "for values from 0 to 255: array.round().astype('uint8')"),
        (RED - 300.5, "pass the image before normalisation"),
        (RED * np.float32(np.nan), "pass the image before normalisation"),
        (RED.astype(np.int64), "array.astype('uint8')"),
        (RED.astype(np.uint16) * 257, "found shape (40, 40, 3) of uint16 from 10280 to 51400"),
        (np.zeros((2, 8, 9, 3, 1), np.uint8), ARRAY + "found shape (2, 8, 9, 3, 1) of uint8"),
        (np.array(["a"]), "found shape (1,) of <U1"),
        (Image.new("RGB", (0, 5)), "expected an image with pixels; found one of size (0, 5)"),
    ],
)
def test_what_is_wrong_with_one_input_is_its_error(classifier, one, error):
    answers = classifier.predict([one, RED])
    assert error in answers[0].error
    assert (answers[0].label, answers[0].top) == ("", ())
    assert answers[1].label == "red"


def test_paths_that_are_no_images(classifier, tmp_path, cli):
    data = write_dataset(tmp_path / "data", per_class=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.MP4").write_bytes(b"\0\0\0\x18ftypmp42")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(data / "red" / "000.png")
    reasons = {
        str(data): "this is a folder, not an image: pass its files as inputs",
        str(tmp_path / "empty"): "the folder contains no images",
        str(tmp_path / "photos.zip"): "this is an archive, not an image: unpack it first",
        str(tmp_path / "a.MP4"): "this is a video, not an image: save its frames as images first",
        "https://example.org/a.jpg": "this is a URL, not a file: download it first",
        "gone.jpg": "No such file or directory",
    }
    answers = classifier.predict(list(reasons))
    assert {one.path: one.error for one in answers} == reasons
    assert classifier.predict(str(data))[0].error == reasons[str(data)]
    words = list(reasons)[1:]
    done = cli("predict", *words, "--run", classifier.path, "--format", "csv")
    assert done.code == 3
    for word in words:
        assert f"{reasons[word]}\n" in done.out.replace('"', "")


def test_bytes_may_be_no_larger_than_a_file(classifier, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 10)
    assert classifier.predict(encoded("PNG"))[0].error.endswith("bytes; the limit is 10")


@pytest.mark.parametrize(
    "options", [{"top_k": 0}, {"top_k": "5"}, {"top_k": True}, {"reject": 0}, {"reject": 95}]
)
def test_options_out_of_range(classifier, options):
    with pytest.raises(ConfigError) as error:
        classifier.predict(RED, **options)
    assert repr(next(iter(options.values()))) == error.value.found


@pytest.mark.parametrize("options", [{"impl": "keras"}, {"precision": "int4"}])
def test_load_with_what_there_is_not(classifier, options):
    with pytest.raises(ConfigError, match=next(iter(options.values()))):
        swinclf.load(classifier.path, **options)
