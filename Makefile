# `make demo` and `make test` need only Python 3.11 or newer: both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/demo

.PHONY: demo test test-slow test-faults test-slurm docs lint format clean

demo: $(VENV)/installed
	$(VENV)/bin/miue demo --workdir $(WORKDIR)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m slow

# Kills, damaged files, full disks, bad input: about half an hour on two cores.
test-faults: $(VENV)/installed
	$(VENV)/bin/python -m tests.faults

# A sweep on Slurm, from Debian's packages; needs root, and leaves them installed.
test-slurm: $(VENV)/installed
	command -v slurmctld slurmd sbatch || \
		apt-get install --yes --no-install-recommends slurmctld slurmd slurm-client
	$(VENV)/bin/python -m pip install --quiet --editable '.[slurm]'
	MIUE_TEST_SLURM=1 $(VENV)/bin/python -m pytest tests/workflows/test_sweep_slurm.py

docs: $(VENV)/installed
	$(VENV)/bin/python -m sphinx -W --keep-going -q docs docs/_build/html

lint: $(VENV)/installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyrefly check --python-interpreter-path $(VENV)/bin/python

format: $(VENV)/installed
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[test,docs,lint]'
	touch $@

clean:
	rm -rf $(VENV) build docs/_build *.egg-info
