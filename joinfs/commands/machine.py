"""Commands on this machine and this installation."""

import argparse

from joinfs.commands import Command
from joinfs.commands.output import coloured, print_json, say
from joinfs.doctor import LIMITED, MISSING, OK, Finding, examine
from joinfs.joined.schemes import schemes

DOCTOR_EXAMPLE = """\
Exits with 1 if something is missing without which nothing can be mounted.

example:
  joinfs doctor
"""
STORES_EXAMPLE = """\
example:
  joinfs stores
"""
_SIGNS = {OK: ("ok", "green"), LIMITED: ("-", "yellow"), MISSING: ("MISSING", "red")}


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print lines of JSON")


def _doctor(given: argparse.Namespace) -> int:
    lacking = 0
    for finding in examine():
        lacking += finding.needed and finding.state == MISSING
        print_json(finding._asdict()) if given.json else _print_finding(finding)
    if lacking and not given.json:
        say("nothing can be mounted here before that is mended")
    return 1 if lacking else 0


def _print_finding(finding: Finding) -> None:
    sign, colour = _SIGNS[finding.state]
    print(f"{coloured(f'{sign:<8}', colour)}{finding.name:<20} {finding.found}")
    if finding.remedy:
        print(f"{'':<28} {coloured(finding.remedy, 'bold')}")


def _stores(given: argparse.Namespace) -> int:
    for scheme in schemes():
        if given.json:
            print_json(scheme._asdict())
            continue
        writes = "" if scheme.writable else "; read-only"
        print(f"{coloured(f'{scheme.form:<26}', 'bold')} {scheme.about}{writes}")
        if not scheme.is_there:
            needs = f"needs: pip install 'joinfs[{scheme.extra}]'"
            print(f"{'':<26} {coloured(needs, 'yellow')}")
    return 0


COMMANDS = {
    "doctor": Command(_json, _doctor, DOCTOR_EXAMPLE),
    "stores": Command(_json, _stores, STORES_EXAMPLE),
}
