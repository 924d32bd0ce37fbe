"""The picture in the README: what a join is. ``python -m tests.docs.picture`` draws it anew."""

from collections.abc import Iterator
from pathlib import Path

PLACE = Path(__file__).with_name("join.svg")
WIDTH, HEIGHT = 860, 330
LEFT, CELL, ROW = 250, 92, 52
FILES = ("a.csv", "b.csv", "notes", "src/", "old.txt")
# What each store has of these: a word, or nothing.
STORES = (
    ("changes.db", "SQLite; takes all writes", ("edited", "", "new", "", "whiteout")),
    ("~/data", "directory; never changed", ("original", "", "", "src/", "old.txt")),
    ("archive.zip", "archive; never changed", ("", "b.csv", "", "src/", "")),
)
# Where what is seen comes from, and how that is filled.
SEEN = (("edited", 0), ("b.csv", 2), ("new", 0), ("both, merged", 1), ("", None))
FILLS = ("#2f6fdb", "#3c9a5f", "#b7791f")


def drawn() -> str:
    """Answer the picture."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13">'
    title = "<title>Three stores joined into one directory: the first that has a name answers, and a whiteout in the first hides what is below</title>"
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff" stroke="#d0d7de"/>'
    return "\n".join([head, title, background, *_mount(), *_stores(), *_columns(), "</svg>"]) + "\n"


def _mount() -> Iterator[str]:
    yield _text(24, 62, "/mnt/data", bold=True)
    yield _text(24, 80, "what ls, git, make see", "#57606a")
    for place, (word, store) in enumerate(SEEN):
        yield from _cell(place, 42, word, "#f6f8fa" if store is None else FILLS[store], dashed=store is None)
    yield f'<line x1="24" y1="112" x2="{WIDTH - 24}" y2="112" stroke="#d0d7de"/>'


def _stores() -> Iterator[str]:
    for number, (name, about, words) in enumerate(STORES):
        top = 136 + number * (ROW + 10)
        yield _text(24, top + 20, f"{number}  {name}", bold=True)
        yield _text(24, top + 38, about, "#57606a")
        for place, word in enumerate(words):
            if word:
                yield from _cell(place, top, word, "#24292f" if word == "whiteout" else FILLS[number])


def _columns() -> Iterator[str]:
    for place, name in enumerate(FILES):
        yield _text(LEFT + place * (CELL + 24) + CELL / 2, 30, name, "#57606a", middle=True)


def _cell(place: int, top: int, word: str, fill: str, dashed: bool = False) -> Iterator[str]:
    left = LEFT + place * (CELL + 24)
    line = 'stroke="#8c959f" stroke-dasharray="4 3"' if dashed else 'stroke="none"'
    yield f'<rect x="{left}" y="{top}" width="{CELL}" height="{ROW}" rx="6" fill="{fill}" {line}/>'
    if word:
        yield _text(left + CELL / 2, top + ROW / 2 + 5, word, "#ffffff", middle=True)


def _text(x: float, y: float, text: str, fill: str = "#24292f", bold: bool = False, middle: bool = False) -> str:
    more = (' font-weight="bold"' if bold else "") + (' text-anchor="middle"' if middle else "")
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}"{more}>{text}</text>'


if __name__ == "__main__":
    PLACE.write_text(drawn())
