# make only wraps: without it, `python tools/install.py`, then `python -m prunekit run` and `pytest`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run lab test lint types style docs benchmarks clean

run: .venv/complete  ## prune a trained LeNet step by step, execute the notebooks; results in out/
	$(BIN)/python -m prunekit run

lab: .venv/complete  ## open the notebooks in JupyterLab
	$(BIN)/python -m prunekit lab

test: lint  ## all tests, the notebooks' outputs among them
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

lint: .venv/complete-test
	$(MAKE) --no-print-directory -j 2 types style

types: .venv/complete-test
	$(BIN)/mypy

style: .venv/complete-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/lint_js.py

docs: .venv/complete-test  ## the reference of every public name, in out/docs
	$(BIN)/python tools/docs.py

benchmarks: .venv/complete-test  ## speed beside a peer's, as ratios
	$(BIN)/python benchmarks/ratios.py
	$(BIN)/python benchmarks/roulette.py
	$(BIN)/python benchmarks/population.py
	$(BIN)/python benchmarks/workers.py
	$(BIN)/python benchmarks/memory.py

clean:
	rm -rf .venv out

.venv/complete: pyproject.toml constraints.txt tools/install.py
	$(PYTHON) tools/install.py

.venv/complete-test: pyproject.toml constraints.txt tools/install.py
	$(PYTHON) tools/install.py test
