"""The README's example store is one: it keeps the contract."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
(EXAMPLE,) = re.findall(r"^```python\n(.+?)^```", README.read_text(), re.DOTALL | re.MULTILINE)

exec(compile(EXAMPLE, str(README), "exec"))


def test_it_is_short():
    assert len(EXAMPLE.splitlines()) < 50
