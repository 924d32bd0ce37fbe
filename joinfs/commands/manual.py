"""The manual page, made of what ``--help`` says.

See Also:
    man-pages(7), groff_man(7).
"""

import argparse
from collections.abc import Iterable, Iterator

from joinfs.commands.parsing import GROUPS, CommandParser, filled, parser
from joinfs.version import VERSION

# What stands before the commands, and after them.
DESCRIPTION = """\
joinfs joins key-value stores (SQLite databases, directories, archives, container images, web servers, Python mappings) into one, and mounts the result as a
directory. Where several have a key, the first wins; all writes go to the first; the others are never changed. What is deleted is hidden by a whiteout in the first.

What the mount does, verb by verb, is in SEMANTICS.md, which comes with the package.\
"""
ENVIRONMENT = {
    "NO_COLOR": "No colours.",
    "XDG_STATE_HOME": "Where staged data and the files of --upper auto are, in joinfs/; ~/.local/state unless set. Root has /var/lib/joinfs.",
    "XDG_RUNTIME_DIR": "Where mounts keep what commands find them by, in joinfs/.",
}
EXIT_STATUS = {
    "0": "It was done.",
    "1": "It could not be done; one sentence on standard error says why.",
    "2": "It was not asked for properly.",
    "130": "It was interrupted.",
}
_ESCAPES = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "~": r"\(ti", "^": r"\(ha"})
SEE_ALSO = "mount(8), umount(8), fstab(5), fuse(4), fusermount3(1), systemd.automount(5)"


def page() -> str:
    """Answer the manual page in the language of man(7)."""
    parsers = filled(parser())
    lines = [
        f'.TH JOINFS 1 "" "joinfs {VERSION}" "User Commands"',
        ".SH NAME", "joinfs \\- join stores, and mount the result as a directory",
        ".SH SYNOPSIS", ".B joinfs", ".IR COMMAND \\ ...",
        ".SH DESCRIPTION", *_paragraphs(DESCRIPTION),
    ]  # fmt: skip
    for group, members in GROUPS.items():
        lines.append(f'.SH "{_escaped(group.upper())}"')
        for name in members:
            lines += _command(name, parsers[name])
    lines += [".SH EXIT STATUS", *_terms(EXIT_STATUS.items()), ".SH ENVIRONMENT", *_terms(ENVIRONMENT.items()), ".SH SEE ALSO", _escaped(SEE_ALSO)]
    return "\n".join(lines) + "\n"


def _command(name: str, own: CommandParser) -> Iterator[str]:
    actions = [action for action in own._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    options = [action for action in actions if action.option_strings]
    words = ["[OPTION ...]"] if options else []
    words += [_positional(action) for action in actions if not action.option_strings]
    yield f'.SS "joinfs {_escaped(" ".join([name, *words, *(["[-- ...]"] if own.get_default("takes_rest") else [])]))}"'
    yield from _paragraphs(own.description or "")
    yield from _terms((_called(action), action.help or "") for action in actions if action.option_strings or action.help)
    about, _, example = str(own.epilog).rpartition("example:\n")
    yield from _literal(about)
    yield from [".PP", "Example:", ".PP", *_literal(example)]


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    return {"*": f"[{name} ...]", "+": f"{name} ...", "?": f"[{name}]"}.get(str(action.nargs), name)


def _called(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest.upper())
    takes = "" if action.nargs == 0 else " " + str(action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper()))
    return ", ".join(action.option_strings) + takes


def _terms(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, about in pairs:
        yield from [".TP", f".B {_escaped(term)}", _escaped(about)]


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from [".PP", _escaped(" ".join(paragraph.split()))]


def _literal(text: str) -> Iterator[str]:
    """Lines as they are."""
    if text.strip():
        yield from [".PP", ".nf", *(_escaped(line) for line in text.strip("\n").splitlines()), ".fi"]


def _escaped(text: str) -> str:
    """Text in which nothing is taken for a request or for typography."""
    text = text.translate(_ESCAPES)
    return f"\\&{text}" if text.startswith(".") else text
