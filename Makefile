# Every target sets up what it needs: a virtual environment with the pinned packages, beside the sources.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test check kernels clean

demo: $(VENV)/ready  ## every method on a real photograph: a picture, and a table
	TRITON_INTERPRET=1 $(BIN)/tritonds compare --out demo/compare.png

test: $(VENV)/ready  ## all tests; on a machine without a GPU, the kernels in Triton's interpreter
	$(BIN)/python -m pytest -n 2

check: $(VENV)/ready  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

kernels: $(VENV)/ready  ## what the compiler makes of the kernels, without a GPU
	$(BIN)/python -m bench.compile

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info
