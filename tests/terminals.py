"""Commands on a terminal, as somebody sits at it."""

import os
import pty
import subprocess

TIMEOUT = 60


def on_terminal(command, react=None, **options):
    """Run a command on a terminal; answer what it showed, and its exit code.

    Args:
        command: Its words.
        react: Called with what was shown by now, the terminal, to which it may write, and the process, each time that more is.
        **options: As for ``subprocess.Popen``.
    """
    ours, its = pty.openpty()
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True, **options)
    os.close(its)
    shown = b""
    try:
        while piece := _more(ours):
            shown += piece
            if react is not None:
                react(shown, ours, process)
        os.close(ours)
        return shown.decode(errors="replace"), process.wait(TIMEOUT)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _more(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody has the other end any more
        return b""


def answering(prompt, answers):
    """What reacts to each prompt with the next of some answers."""
    left = list(answers)

    def react(shown, terminal, _):
        if left and shown.rstrip().endswith(prompt):
            os.write(terminal, left.pop(0) + b"\n")

    return react
