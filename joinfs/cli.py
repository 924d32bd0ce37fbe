"""The command: arguments in; messages and exit codes out.

Exit codes: 0 done; 1 it could not be done, with one sentence on standard error; 2 it was not asked for
properly; 130 it was interrupted.
"""

import io
import os
import sys
from collections.abc import Sequence

from joinfs.commands import Misuse
from joinfs.commands.parsing import parser
from joinfs.errors import JoinfsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and answer its exit code."""
    for stream in (sys.stdout, sys.stderr):  # names may have letters that the terminal's encoding has not
        stream.reconfigure(errors="backslashreplace") if isinstance(stream, io.TextIOWrapper) else None
    words, rest = _split(list(sys.argv[1:] if arguments is None else arguments))
    try:
        given = parser().parse_args(words)
        given.rest = rest
        if rest is not None and not given.takes_rest:
            raise Misuse(f"joinfs {given.command} takes nothing after '--'")
        code: int = given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # who was reading has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Misuse as error:
        print(f"joinfs: {_sentence(error)}", file=sys.stderr)
        return 2
    except (JoinfsError, OSError, KeyError) as error:
        print(f"joinfs: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("joinfs: interrupted", file=sys.stderr)
        return 130
    return code


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    """What stands before the first ``--``, and what after it."""
    if "--" not in words:
        return words, None
    place = words.index("--")
    return words[:place], words[place + 1 :]


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if isinstance(error, KeyError) and not isinstance(error, JoinfsError):
        return f"{error.args[0] if error.args else ''!r} is not there"
    return " ".join(str(error).split())
