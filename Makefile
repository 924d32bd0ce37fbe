# make demo    mount three stores as one directory and show it
# make test    run every test
# make check   ruff, mypy --strict, import-linter
# make bench   time mounts beside the peers that are installed
# make bench-buckets   time a mounted bucket beside rclone and s3fs, if they are installed
# make bench-stores   time each store beside encore's same store, and SQLite beside sqlite3 itself

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MOUNTING := fuse3 attr
TESTING := libfuse2 git rsync acl sqlite3 tar libarchive13 p7zip-full cpio genisoimage redis-server

.PHONY: demo test check bench bench-buckets bench-stores clean mounting testing
.DEFAULT_GOAL := demo

demo: $(VENV)/installed mounting
	@$(BIN)/python -m joinfs.demo

test: $(VENV)/tested mounting testing
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/tested
	$(BIN)/ruff check joinfs tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/tested mounting
	$(BIN)/python tests/bench/mounts.py $(BENCH_ARGS)

bench-buckets: $(VENV)/tested mounting
	$(BIN)/python tests/bench/buckets.py $(BENCH_ARGS)

bench-stores: $(VENV)/tested
	$(BIN)/python tests/bench/stores.py $(BENCH_ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "joinfs needs Python 3.11 or newer; say which with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "making a virtual environment failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/tested: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test,check]'
	@touch $@ $(VENV)/installed

# libfuse2 and libarchive13 are called libfuse2t64 and libarchive13t64 on newer Ubuntus.
mounting:
	@sh -c '. ./.ci/packages; need "$(MOUNTING)"'

testing:
	@sh -c '. ./.ci/packages; need "$(TESTING)"'

clean:
	rm -rf $(VENV) build dist *.egg-info
