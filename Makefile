# setup   the environment .venv with the light core (no torch)      demo   the lab study: a curve and its picture
# test    everything, slow and integration tests included           check  lint, types and fast tests, under a minute
# bench   make bench NAME=endpoint                                  evidence   make evidence NAME=spine
# verifiers  the lab's reward models again, from samples (an hour)
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test check bench evidence dev verifiers

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"ponder needs Python 3.11 or later, this is {sys.version.split()[0]}: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv .venv

.venv/core: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

.venv/dev: .venv/core
	$(PIP) -e '.[dev]'
	touch $@

.venv/all: .venv/dev
	$(PIP) -e '.[dev,hf,gguf,train,serve]'
	$(PIP) -e '.[gym]' || echo "reasoning-gym could not be installed (one of its parts needs a C compiler): its tests will be skipped"
	touch $@

setup: .venv/core

dev: .venv/dev

demo: setup
	$(BIN)/ponder run recipes/lab.toml --out studies/lab
	$(BIN)/ponder curve studies/lab

check: .venv/dev
	$(BIN)/ruff format --check src tests benchmarks evidence
	$(BIN)/ruff check src tests benchmarks evidence
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow and not integration'

test: .venv/all
	$(BIN)/ruff format --check src tests benchmarks evidence
	$(BIN)/ruff check src tests benchmarks evidence
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --durations 15 --ignore tests/integration/test_hostile.py
	$(BIN)/pytest tests/integration/test_hostile.py  # alone: some of its programs run as they are, and it looks at the whole machine

bench: .venv/all
	$(BIN)/python -m benchmarks.$(NAME)

evidence: .venv/all
	$(BIN)/python -m evidence.$(NAME)

LEARNED := studies/lab_verifier_countdown studies/lab_verifier_chain
HOW := --surprise --solve 1 --optimizer muon --rate 0.01 --batch 64 --bfloat16 --share 0.02 --epochs 1.3
TRAIN := OMP_NUM_THREADS=1 $(BIN)/ponder train

verifiers: .venv/all
	$(BIN)/ponder run recipes/lab_verifier_countdown.toml
	$(BIN)/ponder run recipes/lab_verifier_chain.toml
	$(BIN)/ponder run recipes/lab_verifier_trial.toml
	$(TRAIN) process $(LEARNED) --out studies/lab_prm $(HOW)
	$(TRAIN) outcome $(LEARNED) --every-token --out studies/lab_orm $(HOW)
	$(TRAIN) outcome studies/lab_verifier_trial --model lab:small --out studies/lab_orm_trial --epochs 2
	$(BIN)/python -m ponder.learners.lab install prm studies/lab_prm
	$(BIN)/python -m ponder.learners.lab install orm studies/lab_orm
	$(BIN)/python -m ponder.learners.lab install orm_trial studies/lab_orm_trial
