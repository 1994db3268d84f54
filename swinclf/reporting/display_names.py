"""Display forms of file and class names: on one line, shortened, in fonts that have the characters.

Knows Unicode and matplotlib's list of fonts; knows nothing about figures or pages.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby

from matplotlib import font_manager, ft2font
from matplotlib.font_manager import FontProperties

DEFAULT_FAMILY = "DejaVu Sans"  # comes with matplotlib, so it is everywhere
# Plain typefaces that are preferred to the hundreds that may be installed. Simplified Chinese comes
# first, as Han characters do not determine the regional glyphs.
PREFERRED_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Sans Symbols2",
    "Noto Sans Symbols",
    "Noto Sans",
    "Noto Emoji",
    "Segoe UI",
    "Segoe UI Emoji",
    "Symbola",
    "Arial Unicode MS",
)
# Typefaces that claim every character and draw a box, or nothing, for each.
PLACEHOLDER_FAMILIES = ("Last Resort", ".LastResort", "LastResort", "Adobe Blank", "Adobe NotDef")
# Embeddings, overrides and isolates reorder the text that follows them. Directional marks do not
# and are left as they are.
BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
WORD_ENDS = frozenset(" _-/.")
SHAPES_TEXT = hasattr(ft2font, "__libraqm_version__")  # matplotlib 3.11 joins and reorders letters


def to_printable(name: str) -> str:
    r"""Return a name on one line, in logical order, encodable as UTF-8.

    Control characters, line separators, bidirectional overrides and the bytes of a name that is
    not UTF-8 become backslash escapes; everything else is left as it is.

    >>> to_printable("two\nlines")
    'two\\nlines'
    """
    escaped = "".join(map(_escape, name))
    is_blank = escaped.isspace()  # which would be invisible
    return repr(escaped) if is_blank else escaped


def to_composed(name: str) -> str:
    """Return `to_printable` in Unicode form NFC: fonts have composed letters, macOS splits them."""
    return unicodedata.normalize("NFC", to_printable(name))


def _escape(char: str) -> str:
    """Return a character, escaped if it would break the line or the order of the text."""
    if "\udc80" <= char <= "\udcff":  # Python's surrogate escape of a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or char in BIDI_CONTROLS:
        return char.encode("unicode_escape", "surrogatepass").decode("ascii")
    return char


def spell_out(name: str) -> str:
    """Return a name in characters of the default font, for characters that cannot be drawn.

    >>> spell_out("🌹 rose 玫瑰")
    '[rose] rose [U+73AB U+7470]'
    """
    visible = (char for char in to_composed(name) if not _is_invisible(char))
    pieces = []
    for is_known, group in groupby(visible, key=lambda char: _is_drawable(DEFAULT_FAMILY, char)):
        chars = list(group)
        pieces.append("".join(chars) if is_known else f"[{' '.join(map(_describe, chars))}]")
    return "".join(pieces)


def _describe(char: str) -> str:
    """Return the Unicode name of a symbol, the code point of a letter."""
    is_symbol = unicodedata.category(char).startswith("S")
    described = unicodedata.name(char, "") if is_symbol else ""
    return described.lower() or f"U+{ord(char):04X}"


def shorten(name: str, width: int) -> str:
    """Return a name with an ellipsis in its middle if it is wider than `width`, at least 3 columns.

    Chinese, Japanese and Korean letters take two.

    >>> shorten("a_very_long_class_name", 11)
    'a_ver…_name'
    """
    if _columns(name) <= width:
        return name
    clusters = list(_clusters(name))
    head, tail = "", ""
    left, right = 0, len(clusters)
    while left < right:
        grows_head = _columns(head) <= _columns(tail)
        cluster = clusters[left] if grows_head else clusters[right - 1]
        if _columns(head) + _columns(tail) + _columns(cluster) > width - 1:
            break
        if grows_head:
            head, left = head + cluster, left + 1
        else:
            tail, right = cluster + tail, right - 1
    return f"{head}…{tail}"


def distinct_labels(names: Mapping[int, str], width: int) -> dict[int, str]:
    """Return names no wider than `width`, never two alike: these have their index added.

    >>> distinct_labels({0: "one_long_name", 3: "one_lone_name", 4: "two"}, 9)
    {0: 'one_…name #0', 3: 'one_…name #3', 4: 'two'}
    """
    labels = {index: shorten(to_composed(name), width) for index, name in names.items()}
    counts = Counter(labels.values())
    return {i: f"{one} #{i}" if counts[one] > 1 else one for i, one in labels.items()}


def wrap_label(label: str, width: int) -> str:
    r"""Return a label on two lines, broken at the word end nearest to its middle, if it is wider.

    >>> wrap_label("Dodecatheon_pulchellum alpine", 20)
    'Dodecatheon_\npulchellum alpine'
    """
    if _columns(label) <= width:
        return label
    breaks = [i for i in range(1, len(label)) if label[i - 1] in WORD_ENDS]
    if not breaks:
        return label
    at = min(breaks, key=lambda i: abs(i - len(label) / 2))
    return f"{label[:at].rstrip()}\n{label[at:]}"


def _clusters(text: str) -> Iterator[str]:
    """Yield the grapheme clusters of a text: a letter with its marks, an emoji sequence."""
    piece = ""
    for char in text:
        if piece and not (unicodedata.category(char)[0] == "M" or "\u200d" in (char, piece[-1])):
            yield piece
            piece = ""
        piece += char
    if piece:
        yield piece


def _columns(text: str) -> int:
    """Return the width in terminal columns: wide letters 2, marks and invisible characters 0."""
    return sum(
        0
        if _is_invisible(char) or unicodedata.category(char) in {"Mn", "Me"}
        else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _is_invisible(char: str) -> bool:
    """Return whether a character is a joiner, a directional mark or a variation selector."""
    return unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f"


def families_for(names: Sequence[str]) -> list[tuple[str, ...] | None]:
    """Return the installed font families that together have every character of each name.

    All names at once: for a character that no font has, every font has to be opened.

    Returns:
        For each name: families for a text's `fontfamily`, the default one first; None if a
        character is missing, or needs shaping and this matplotlib does not shape text.
    """
    holders = _holders({char for name in names for char in name})
    return [_choose(set(name), holders) for name in names]


def _holders(chars: set[str]) -> dict[str, set[str]]:
    """Return the characters that each family has; stop when each has been found once."""
    holders: dict[str, set[str]] = {}
    missing = set(chars)
    for family in _candidates():
        if not missing:
            break
        wanted = chars if family == DEFAULT_FAMILY else chars - holders[DEFAULT_FAMILY]
        holders[family] = {char for char in wanted if _is_drawable(family, char)}
        missing -= holders[family]
    return holders


def _choose(chars: set[str], holders: Mapping[str, set[str]]) -> tuple[str, ...] | None:
    """Return the families for one name: the default and as few others as possible."""
    if not SHAPES_TEXT and any(map(_needs_shaping, chars)):
        return None
    missing = chars - holders.get(DEFAULT_FAMILY, set())
    whole = [family for family, held in holders.items() if missing and missing <= held]
    families = [DEFAULT_FAMILY]
    for family in whole[:1] or holders:
        if missing & holders[family]:
            families.append(family)
            missing = missing - holders[family]
    return None if missing else tuple(families)


def _needs_shaping(char: str) -> bool:
    """Return whether a letter is written right to left or changes its form with its neighbours."""
    is_brahmic = "\u0900" <= char <= "\u109f" or "\u1780" <= char <= "\u17ff"
    return is_brahmic or unicodedata.bidirectional(char) in {"R", "AL"}


@cache
def _candidates() -> tuple[str, ...]:
    """Return the default family, then the installed upright ones of normal weight."""
    installed = {
        entry.name
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular")
        and not entry.name.startswith(PLACEHOLDER_FAMILIES)
    }
    preferred = [family for family in PREFERRED_FAMILIES if family in installed]
    others = sorted(installed.difference(preferred, {DEFAULT_FAMILY}))
    return (DEFAULT_FAMILY, *preferred, *others)


@cache
def _is_drawable(family: str, char: str) -> bool:
    """Return whether the family has an outline for the character.

    Colour emoji fonts have an entry with an empty outline, for which nothing would be drawn.
    """
    try:
        path = font_manager.findfont(FontProperties(family=[family]), fallback_to_default=False)
        font = font_manager.get_font(path)
        if not font.scalable or not font.get_char_index(ord(char)):
            return False
        if char.isspace() or _is_invisible(char):
            return True
        glyph = font.load_char(ord(char), ft2font.LoadFlags.NO_SCALE)
    except (OSError, RuntimeError, ValueError):  # a damaged font, or one removed since listing
        return False
    return bool(glyph.bbox[3] > glyph.bbox[1])
