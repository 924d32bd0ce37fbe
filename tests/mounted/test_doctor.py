"""What the machine can do, as it is told, against what it does. SEMANTICS.md, This machine."""

import json
import os
import subprocess
import sys

import pytest

from joinfs.joined.schemes import schemes
from joinfs.stores import REGISTRY
from tests.mounted.conftest import TIMEOUT


def findings(done):
    assert "Traceback" not in done.stderr
    return {finding["name"]: finding for finding in map(json.loads, done.stdout.splitlines())}


def test_where_all_is_well_it_says_so(user):
    done = user.joinfs("doctor", "--json")
    found = findings(done)
    assert done.returncode == 0, done.stdout
    assert all(finding["state"] == "ok" for finding in found.values() if finding["needed"])
    assert all(finding["state"] == "ok" or finding["remedy"] for finding in found.values())
    assert (found["passthrough"]["state"] == "ok") == (user.uid is None)
    assert {"joinfs[archives]", "joinfs[http]", "joinfs[fsspec]"} <= found.keys() or "extras" in found
    plain = user.joinfs("doctor")
    assert all(name in plain.stdout for name in found)


def test_without_an_environment(user):
    interpreter, environment = user.python()
    kept = {name: value for name, value in environment.items() if name == "PYTHONPATH"}
    done = user.run([interpreter, "-m", "joinfs", "doctor", "--json"], env=kept, cwd="/")
    assert findings(done)["mounting"]["state"] == "ok"


def test_what_is_missing_is_told_with_how_to_get_it():
    if os.geteuid() != 0:
        pytest.skip("hides /dev/fuse in a mount namespace, which needs root")
    script = 'mount -t tmpfs none /dev && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "joinfs", "doctor"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 1
    assert findings(done)["/dev/fuse"]["state"] == "missing"
    assert "modprobe fuse" in findings(done)["/dev/fuse"]["remedy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert "nothing can be mounted here" in done.stderr


def test_without_capabilities_root_is_told_so(need):
    need("setpriv")
    if os.geteuid() != 0:
        pytest.skip("drops capabilities of root's")
    command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", sys.executable, "-m", "joinfs", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    found = findings(done)
    assert done.returncode == 1
    assert "SYS_ADMIN" in found["mounting"]["remedy"]
    assert found["passthrough"]["state"] == found["joinfs run"]["state"] == "limited"


def test_every_kind_of_store_is_told(user):
    assert {scheme.name for scheme in schemes()} >= set(REGISTRY)
    told = [json.loads(line) for line in user.joinfs("stores", "--json").stdout.splitlines()]
    assert [scheme["name"] for scheme in told] == sorted(REGISTRY)
    assert "sqlite:PATH" in user.joinfs("stores").stdout
