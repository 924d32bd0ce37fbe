"""The README's example store is one: it keeps the contract."""

import re
import textwrap
import zipfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
(EXAMPLE,) = re.findall(r"^```python\n(.+?)^```", README.read_text(), re.DOTALL | re.MULTILINE)

exec(compile(EXAMPLE, str(README), "exec"))


def test_it_is_short():
    assert len(EXAMPLE.splitlines()) < 50


def test_its_lines_for_fsspec_can_be_run(tmp_path, monkeypatch):
    (lines,) = re.findall(r"^    import fsspec.+?(?=^\S)", README.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/table.csv").write_text("a,b\n1,2\n")
    zipfile.ZipFile(tmp_path / "archive.zip", "w").close()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(textwrap.dedent(lines), names)
    fs = names["fs"]
    assert fs.find("", maxdepth=2) == ["arrays.zarr/zarr.json", "results/table.csv", "runs/8", "table.csv"]
    assert fs.metadata("runs/8") == {"author": "mel"}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["table.csv"]
