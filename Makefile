# Everything from an empty clone: `make reproduce` (install, train, draw) and `make test`.
TORCH ?= torch==2.13.0# used when .venv is made; `rm -rf .venv` to choose again
PYTHON ?= python3
BIN := .venv/bin
EXPERIMENTS := experiments/delayed_generalization.py experiments/optimizers.py experiments/muon_vs_adamw.py
# Every experiment at the scale that is published, and what is no study but a script of its own.
ALL := muon_vs_adamw:tuned muon_vs_adamw:stated muon_vs_adamw:thresholds muon_vs_adamw:softmaxes \
	muon_vs_adamw:optimizers muon_vs_adamw:models delayed_generalization:paper optimizers:paper conditions:laptop precision:paper sensitivity:laptop \
	transforms:laptop ablation_muon:laptop betas:laptop recipes:laptop tuning_budget:laptop \
	critical_fraction:laptop width_batch:laptop stability:laptop power2022:laptop mup_transfer:laptop speedrun:laptop \
	lipschitz_frontier:tuning lipschitz_frontier:laptop robustness:laptop activation_growth:laptop \
	lipschitz_text:tuning lipschitz_text:laptop
SCRIPTS := muon_vs_adamw_tuning search_strategies optimizer_atlas throughput coverage step_cost mup_stages mup_pairs constraint_excess speedrun_tuning speedrun_clock published

.DEFAULT_GOAL := help
.PHONY: help install reproduce reproduce-all test check figures faults bench gpu clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: .venv/installed  ## a virtual environment in .venv with the package

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing PyTorch ($(TORCH)): the longest part"
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/complete: .venv/installed  # and what tests, checks and the extras need, Ray among them
	@echo "installing what the tests need"
	$(BIN)/python -m pip install --quiet --editable ".[test,dev]"
	$(BIN)/python -m pip install --quiet --no-deps mup==1.0.0  # what it requires besides is for its examples
	@touch $@

reproduce: install  ## train and draw every figure on this machine: a first small one within minutes, then the real ones
	$(BIN)/grokking sweep $(EXPERIMENTS) --scale smoke
	@[ -e figures/optimizers.png ] || $(BIN)/grokking draw $(EXPERIMENTS) --scale smoke
	$(BIN)/grokking sweep $(EXPERIMENTS) --scale laptop
	$(BIN)/grokking draw $(EXPERIMENTS) --scale laptop

reproduce-all: .venv/complete  ## train and draw every experiment (README: how long); may be stopped and continued
	for one in $(ALL); do \
		$(BIN)/grokking sweep experiments/$${one%:*}.py --scale $${one#*:} && \
		$(BIN)/grokking draw experiments/$${one%:*}.py --scale $${one#*:} || exit 1; \
	done
	for one in $(SCRIPTS); do $(BIN)/python experiments/$$one.py || exit 1; done

figures: install  ## draw again from what is stored, without training
	$(BIN)/grokking draw $(EXPERIMENTS) --scale laptop

test: .venv/complete  ## the test suite
	$(BIN)/python -m pytest

faults: .venv/complete  ## kill, stop, corrupt and starve sweeps on purpose, and count what is lost (about half an hour)
	PYTHONPATH=tests $(BIN)/python -m faults

bench: install  ## run-steps per second against a plain PyTorch loop, part by part (a quarter of an hour, on an idle machine)
	$(BIN)/python experiments/throughput.py

gpu: .venv/complete  ## what needs a CUDA device: its tests, and run-steps per second at cohorts of 1 to 256
	$(BIN)/python -m pytest -m gpu -n 0
	$(BIN)/python experiments/throughput.py --device cuda --rounds 3 --parts width muon

check: .venv/complete  ## format, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:  ## remove trained results, drawn figures and caches; keeps .venv and figures/published
	rm -rf results figures/*.png figures/*.svg figures/*.csv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
