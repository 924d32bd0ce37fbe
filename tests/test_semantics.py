"""Each section of SEMANTICS.md is cited by a test that proves it, and nothing else is cited."""

import re
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "joinfs" / "SEMANTICS.md"
CITATION = re.compile(r'SEMANTICS\.md, ([^."]+)\.')


def headings():
    return set(re.findall(r"^### (.+)$", DOCUMENT.read_text(), re.MULTILINE))


def cited():
    found = {}
    for path in HERE.rglob("test_*.py"):
        for names in CITATION.findall(" ".join(path.read_text().split())):
            for name in names.split(";"):
                found.setdefault(name.strip(), []).append(path.name)
    return found


def test_every_section_is_cited():
    assert headings() - set(cited()) == set()


def test_what_is_cited_is_there():
    assert {name: places for name, places in cited().items() if name not in headings()} == {}
