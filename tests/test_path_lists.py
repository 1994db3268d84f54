"""Lists of paths in the formats that other tools write; a file of an entry's very name wins."""

from __future__ import annotations

import codecs
import io
import json
import os
import threading

import pytest
from conftest import read_rows

from swinclf.data.path_lists import read_path_list
from swinclf.errors import ConfigError, DataError
from swinclf.settings import gather_settings, read_settings_file

NAMES = ["a.png", "b b.png", "café.png", "sub/日本.png", "com,ma.png", "it's.png", "x;y.png"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files of NAMES in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        (tmp_path / name).touch()
    return tmp_path


def paths(content, **options):
    data = content if isinstance(content, bytes) else content.encode()
    return list(read_path_list(io.BytesIO(data), **options))


LINES = "\n".join(NAMES) + "\n"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.rstrip("\n"),
        LINES.replace("\n", "\r\n"),
        codecs.BOM_UTF8 + LINES.encode(),
        codecs.BOM_UTF16_LE + LINES.replace("\n", "\r\n").encode("utf-16-le"),
        codecs.BOM_UTF16_BE + LINES.encode("utf-16-be"),
        "\0".join(NAMES) + "\0",
        "\0".join(NAMES),
        "\n\n" + LINES.replace("\n", "\n  \n\n"),
        "# a list\n" + LINES + "#\n",
        "".join(f'"{name}"\n' for name in NAMES),
        "".join(f"'{name}'\r\n" for name in NAMES),
        "".join(f"  {name}\t\n" for name in NAMES),
        "".join(json.dumps({"path": name, "label": "x"}) + "\n" for name in NAMES),
        "".join(json.dumps({"File Name": name}, ensure_ascii=False) + "\n" for name in NAMES),
        "".join(json.dumps(name) + "\n" for name in NAMES),
        json.dumps(NAMES),
        codecs.BOM_UTF8 + json.dumps([{"FullName": name} for name in NAMES], indent=2).encode(),
        "path\n" + "".join(f'"{name}"\n' for name in NAMES),
        ",image_path,label\n" + "".join(f'{n},"{name}",x\n' for n, name in enumerate(NAMES)),
        "label\tfile_name\n" + "".join(f"x\t{name}\n" for name in NAMES),
        "label;path\n" + "".join(f'x;"{name}"\n' for name in NAMES),
        "".join(f'"{name}",rose\n' for name in NAMES),
        "".join(f"rose\t{name}\n" for name in NAMES),
        '"FullName","Length"\r\n' + "".join(f'"{name}","7"\r\n' for name in NAMES),
    ],
)
def test_every_format_gives_its_paths(content, tmp_path):
    found = [os.path.relpath(path, tmp_path) for path in paths(content)]
    assert found == NAMES


@pytest.mark.usefixtures("files")
def test_a_column_of_powershell_is_a_table_with_an_underlined_header():
    text = "\r\nFullName\r\n--------\r\na.png     \r\nb b.png   \r\n\r\n"
    assert paths(codecs.BOM_UTF16_LE + text.encode("utf-16-le")) == ["a.png", "b b.png"]


@pytest.mark.skipif(os.name == "nt", reason="no such names on Windows")
def test_names_quoted_by_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["caf\u00e9.png", "line\nfeed.png", 'quo"te.png', os.fsdecode(b"\xff.png")]
    for name in names:
        (tmp_path / name).touch()
    git = b'"caf\\303\\251.png"\n"line\\nfeed.png"\n"quo\\"te.png"\n"\\377.png"\n'
    assert paths(git) == names
    assert paths(b"\0".join(map(os.fsencode, names)) + b"\0") == names
    assert paths(b"\xff.png\n") == names[3:]


def test_bytes_and_surrogates_in_names_stay():
    assert paths(b"g\x94ne.png\n") == ["g\udc94ne.png"]
    assert paths(codecs.BOM_UTF16_LE + b"\x3d\xd8a\0\x80\xdc\n\0") == ["\ud83da\udc80"]


@pytest.mark.skipif(os.name == "nt", reason="no such names on Windows")
@pytest.mark.parametrize(
    "name", ['"a.png"', " a.png ", "~", "# a", "a.png,rose", "path", "[1]", "a.png\r", '{"path":1}']
)
def test_a_file_of_the_very_name_wins(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").touch()
    (tmp_path / name).touch()
    assert paths(f"{name}\na.png\n") == [name, "a.png"]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("gone.png\n", ["gone.png"]),
        ('"gone one.png"\r\n', ["gone one.png"]),
        ("path,label\ngone.png,x\na.png,y\n", ["gone.png", "a.png"]),
        ("a.png,x\ngone.png,x\n", ["a.png", "gone.png"]),
        ('{"path": "gone.png"}\n{"name": 3}\n', ["gone.png", '{"name": 3}']),
        ("#1.png\n", ["#1.png"]),
        ("[1, 2\n", ["[1, 2"]),
        ("https://example.org/a.png\n", ["https://example.org/a.png"]),
        ("*.png\n", ["*.png"]),
        ("path,label\n,x\n", [""]),
        ("", []),
        ("\n\n", []),
        (codecs.BOM_UTF8, []),
    ],
)
def test_no_entry_is_lost(content, found):
    assert paths(content) == found


@pytest.mark.usefixtures("files")
def test_home_in_an_entry(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert paths('~/a.png\n"~/gone.png"\n') == [f"{tmp_path}/a.png", f"{tmp_path}/gone.png"]


@pytest.mark.usefixtures("files")
def test_a_table_may_refer_to_the_dataset(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z.png").touch()
    said = []
    base = tmp_path / "other"
    found = paths("path,label\nz.png,x\na.png,x\n", base=base, note=said.append)
    assert found == [str(base / "z.png"), "a.png"]
    assert said[1:] == [f"relative paths of the list refer to '{base}'"]


@pytest.mark.usefixtures("files")
def test_a_label_that_names_a_folder_is_no_path(tmp_path):
    (tmp_path / "data" / "rose").mkdir(parents=True)
    said = []
    rows = "rose,a.png\nrose,gone.png\nsub,b b.png\n"
    assert paths(rows, base=tmp_path / "data", note=said.append) == ["a.png", "gone.png", "b b.png"]
    assert not said


@pytest.mark.usefixtures("files")
def test_a_missing_file_in_a_list_of_files_is_not_another_file():
    assert paths("a.png\nx,b b.png\n") == ["a.png", "x,b b.png"]


def test_a_table_that_breaks_off():
    with pytest.raises(DataError, match="column 'path'"):
        paths("path,label\n" + "x" * 200_000 + "\n")


def test_an_entry_is_given_before_the_next_is_there(tmp_path):
    reader, writer = os.pipe()
    got, asked = [], threading.Event()

    def read():
        with os.fdopen(reader, "rb") as stream:
            for path in read_path_list(stream):
                got.append(path)
                asked.set()

    thread = threading.Thread(target=read)
    thread.start()
    os.write(writer, b"x\n")
    assert asked.wait(20)
    assert got == ["x"]
    os.write(writer, b"y")
    os.close(writer)
    thread.join(20)
    assert got == ["x", "y"]
    assert not list(tmp_path.iterdir())


def test_predictions_of_a_run_are_a_list(cli, trained):
    listed = (trained.path / "predictions.csv").read_bytes()
    rows = read_rows(trained.path / "predictions.csv")
    words = ("predict", "-", "--run", trained.path, "--format", "jsonl")
    done = cli(*words, stdin=codecs.BOM_UTF8 + listed)
    assert done.code == 0, done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [one["path"] for one in answers] == [str(trained.data / row["path"]) for row in rows]
    assert [one["label"] for one in answers] == [row["predicted"] for row in rows]
    again = cli(*words[:4], "--format", "csv", stdin=done.out.encode())
    assert again.out.count("\n") == len(rows) + 1
    once_more = cli(*words, stdin=again.out.encode())
    assert [json.loads(line)["path"] for line in once_more.out.splitlines()] == [
        one["path"] for one in answers
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ["json", "toml", "TOML"])
def test_a_settings_file_of_any_encoding(tmp_path, encoding, form, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    text = (
        '{"data": "~/d\u00e9", "epochs": 3}'
        if form == "json"
        else 'data = "~/d\u00e9"\nepochs = 3\n'
    )
    file = tmp_path / f"settings.{form}"
    file.write_bytes(text.encode(encoding))
    assert read_settings_file(file) == {"data": "~/d\u00e9", "epochs": 3}
    assert gather_settings({}, file).config.data == "/home/someone/d\u00e9"


def test_a_settings_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "c.json").write_bytes(b'{"data": "caf\xe9"}')
    with pytest.raises(ConfigError, match="JSON or TOML"):
        read_settings_file(tmp_path / "c.json")


def test_an_empty_list_is_said_to_be_empty(cli, trained):
    done = cli("predict", "-", "--run", trained.path, stdin=b"")
    assert (done.code, done.out) == (0, "")
    assert "no paths on standard input" in done.err
