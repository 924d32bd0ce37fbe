"""The screens in the README, made by running the commands on a terminal. ``python -m tests.docs.recording`` makes them anew."""

import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.terminals import answering, on_terminal

HERE = Path(__file__).parent
COLUMNS = 92
PROMPT = b"[p]atch?"
SECONDS = 60
# The name of each screen; what is typed, and what is answered when something is asked.
SCREENS = {
    "run": [
        ("cd ~/project", ""),
        ("joinfs run -- sh -c 'make && rm notes && chmod +x hello.c'", "p\nc\n"),
        ("ls", ""),
    ],
    "diff": [
        ("joinfs mount sqlite:changes.db ~/data /mnt/data", ""),
        ("cd /mnt/data && mv src source && echo 'b;2' >> table.csv && rm old.txt && echo hello > new", ""),
        ("joinfs diff /mnt/data", ""),
        ("joinfs diff --patch /mnt/data/table.csv", ""),
        ("joinfs which /mnt/data/old.txt", ""),
        ("joinfs discard /mnt/data/old.txt && joinfs commit /mnt/data && ls ~/data", ""),
        ("cd ~ && joinfs umount /mnt/data", ""),
    ],
}


def recorded(name: str) -> str:
    """Answer what the terminal shows when a screen's commands are run: real ones, on a real mount."""
    place = Path(tempfile.mkdtemp(prefix="joinfs-screen-"))
    try:
        _prepare(place)
        shown = "".join(f"$ {line}\n{_typed(place, line, answers)}" for line, answers in SCREENS[name])
        return shown.replace(str(place / "mnt"), "/mnt/data").replace(f"{place}/home", "~")
    finally:
        subprocess.run(["umount", "-l", place / "mnt"], capture_output=True, check=False, timeout=SECONDS)
        shutil.rmtree(place)


def _prepare(place: Path) -> None:
    for directory in ("home/data/src", "home/project", "home/work", "mnt", "state"):
        (place / directory).mkdir(parents=True)
    (place / "home/data/table.csv").write_text("a;1\n")
    (place / "home/data/old.txt").write_text("old\n")
    (place / "home/data/src/main.c").write_text("int main(void) { return 0; }\n")
    (place / "home/project/Makefile").write_text("hello: hello.c\n\t@cp hello.c hello\n\t@echo made hello\n")
    (place / "home/project/hello.c").write_text("hello\n")
    (place / "home/project/notes").write_text("remember\n")
    (place / "cwd").write_text(str(place / "home/work"))


def _typed(place: Path, line: str, answers: str) -> str:
    """What a line shows that is typed at a shell, which then remembers where it is."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": f"{place}/home", "XDG_STATE_HOME": f"{place}/state",
        "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    if "XDG_RUNTIME_DIR" in os.environ:
        environment["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"]
    script = f"cd \"$(cat {place}/cwd)\"; {line.replace('/mnt/data', str(place / 'mnt'))}; code=$?; pwd > {place}/cwd; [ $code = 0 ]"
    shown, code = on_terminal(["sh", "-c", script], answering(PROMPT, answers.encode().split()), env=environment)
    if code:
        raise RuntimeError(f"{line} failed: {shown}")
    return shown.replace("\r\n", "\n")


def drawn(shown: str, title: str) -> str:
    """Answer it as an SVG."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi(shown))
        return console.export_svg(title=title, theme=MONOKAI, unique_id=title.replace(" ", "-"))


def text_of(svg: str) -> str:
    """The text of a screen that was drawn."""
    lines: dict[float, str] = {}
    for y, text in re.findall(r'<text class="[^"]*-r\d+" [^>]*?y="([\d.]+)"[^>]*>(.*?)</text>', svg):
        lines[float(y)] = lines.get(float(y), "") + html.unescape(text)
    return "\n".join(lines[y].replace("\xa0", " ").rstrip() for y in sorted(lines)).strip()


if __name__ == "__main__":
    for name in SCREENS:
        (HERE / f"{name}.svg").write_text(drawn(recorded(name), f"joinfs {name}"))
