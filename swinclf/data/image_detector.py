"""Detection of image files by name and, if that is inconclusive, by the first bytes.

Images with an unknown extension (`.jpg_large`, none, `.jpg!d`) are detected by content; files whose
extension is certainly not an image's (a text, an archive, a video) are never opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress

from swinclf.data.images import HEAD_BYTES, UnreadableImage, has_image_name, read_bytes
from swinclf.data.scanned_files import format_count
from swinclf.data.tiff_tags import is_tiff

LISTED_EXTENSIONS = 5

# fmt: off
NOT_IMAGES = frozenset((  # a kind per line
    "txt", "md", "rst", "log", "nfo", "srt", "vtt", "tex", "bib", "rtf", "readme", "license",
    "json", "jsonl", "geojson", "xml", "csv", "tsv", "yaml", "yml", "toml", "ini", "cfg", "conf",
    "html", "htm", "mhtml", "css", "js", "url", "webloc", "lnk", "xmp", "aae", "pp3", "thm",
    "pdf", "doc", "docx", "odt", "xls", "xlsx", "ods", "ppt", "pptx", "odp", "pages", "key",
    "zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar", "lz4",
    "mp4", "mov", "avi", "mkv", "webm", "wmv", "flv", "mpg", "mpeg", "m4v", "3gp", "mts",
    "mp3", "wav", "flac", "ogg", "m4a", "aac",
    "npy", "npz", "mat", "h5", "hdf5", "pkl", "pickle", "parquet", "arrow", "feather", "tfrecord",
    "lmdb", "mdb", "db", "sqlite", "sql", "pt", "pth", "ckpt", "onnx", "safetensors", "pb",
    "py", "ipynb", "sh", "bat", "ps1", "c", "cpp", "h", "java", "m", "r", "exe", "dll", "so",
    "md5", "sha1", "sha256", "torrent", "lock", "mtl", "obj", "stl", "ply", "gltf",
))
# fmt: on
# Image formats that are not supported: reported, unless the content is of a supported format.
OTHER_IMAGES = {
    "jxl": "JPEG XL",
    "jxr": "JPEG XR",
    "svg": "SVG",
    "svgz": "SVG",
    "eps": "PostScript",
    "psd": "a Photoshop document",
    "psb": "a Photoshop document",
    "xcf": "a GIMP document",
    "exr": "OpenEXR",
    "hdr": "Radiance HDR",
    "dcm": "DICOM",
    "dicom": "DICOM",
    "fits": "FITS",
    **dict.fromkeys(
        ("cr2", "cr3", "nef", "nrw", "arw", "dng", "orf", "rw2", "raf", "pef", "srw", "raw"),
        "a camera's raw image",
    ),
}
_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
_JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
)
_STARTS = (  # the first bytes of supported formats, besides TIFF
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",
    b"qoif",
)
_OTHER_STARTS = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"8BPS", "a Photoshop document"),
    (b"gimp xcf", "a GIMP document"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
)
_PORTABLE_MAP = re.compile(rb"P[1-6]\s+(#|\d)")
_BITMAP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})  # bytes of a BMP's second header


def is_junk(name: str) -> bool:
    """Return whether a file or folder is hidden or created by an operating system."""
    return name.startswith(".") or name in _JUNK_FOLDERS or name.lower() in _JUNK_FILES


def is_no_image_name(name: str) -> bool:
    """Return whether the extension is certainly not an image's."""
    return _end_of(name) in NOT_IMAGES


def _end_of(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name[1:] else ""


def extension_of(name: str) -> str:
    """Return the extension under which files are counted: lower case, up to an odd character.

    >>> extension_of("a.JPG"), extension_of("a.png?raw=1"), extension_of("a"), extension_of("a.17")
    ('.jpg', '.png?', '', '.0-9')
    """
    stem, _, end = name.rpartition(".")
    if not stem or not end:
        return ""
    if end.isdigit():
        return ".0-9"
    plain = re.match(r"\w*", end)
    word = plain.group() if plain else ""
    return "." + (word + end[len(word) : len(word) + 1]).lower()[:16]


def is_readable_format(head: bytes) -> bool:
    """Return whether the first bytes are those of a supported image format."""
    if head.startswith(_STARTS) or is_tiff(head):
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return True
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS
    if head[:4] == b"\x00\x00\x01\x00" and len(head) >= 18:  # an icon: pictures, planes, bits
        return 0 < head[4] <= 64 and head[5] == 0 and head[9] == 0 and head[10] <= 1
    return bool(_PORTABLE_MAP.match(head))


def unsupported_format(head: bytes) -> str:
    """Return the name of an unsupported image format that is recognized; empty for none."""
    return next((name for start, name in _OTHER_STARTS if head.startswith(start)), "")


def read_signature(path: str) -> bytes:
    """Return the first bytes of a regular file; empty if it cannot be read."""
    with suppress(UnreadableImage):
        return read_bytes(path, HEAD_BYTES)
    return b""


def counts_by_extension(counts: Mapping[str, int]) -> str:
    """Return the number of files by extension, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [
        f"{count:,} {extension or 'without one'}" for extension, count in ranked[:LISTED_EXTENSIONS]
    ]
    more = sum(count for _, count in ranked[LISTED_EXTENSIONS:])
    return ", ".join(shown) + (f" and {more:,} others" if more else "")


class ImageDetector:
    """Classifier of files, which opens only those whose extension is inconclusive."""

    def __init__(self) -> None:
        self.unusual: Counter[str] = Counter()  # images recognized by content, by extension
        self.ignored: Counter[str] = Counter()  # files that are not images, by extension

    def classify(self, path: str, name: str) -> str | None:
        """Return why an image cannot be used, empty if it can; None for no image.

        `name` is that of the file, or of a link to it.
        """
        if has_image_name(name):
            return ""
        extension, other = extension_of(name), OTHER_IMAGES.get(_end_of(name), "")
        if not is_no_image_name(name):
            head = read_signature(path)
            # A raw image of a camera is a TIFF whose first page is a thumbnail.
            if is_readable_format(head) and not (other and is_tiff(head)):
                self.unusual[extension] += 1
                return ""
            other = other or unsupported_format(head)
        if other:
            return f"{other}, which is not supported: convert it, e.g. to PNG"
        self.ignored[extension] += 1
        return None

    def notes(self) -> Iterator[str]:
        """Yield remarks on the files so far, a sentence each."""
        if self.unusual:
            yield (
                f"{format_count(sum(self.unusual.values()), 'image')} recognized by content, under "
                f"other extensions: {counts_by_extension(self.unusual)}"
            )
        if self.ignored:
            yield f"ignored, not images: {counts_by_extension(self.ignored)}"
