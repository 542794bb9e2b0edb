# Every target sets up what it needs: a virtual environment with the pinned packages, beside the sources.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

COMPILED = $(shell grep -rl --include='test_*.py' mark.compiled tests)

.PHONY: demo test compiled torchvision check docs kernels speed gpu accuracy clean

demo: $(VENV)/ready  ## every method on a real photograph, and photographs of several sizes to one batch: pictures and tables
	TRITON_INTERPRET=1 $(BIN)/tritonds compare --out demo/compare.png
	$(BIN)/tritonds batch --out demo/batch.png

test: $(VENV)/ready  ## all tests; on a machine without a GPU, the kernels in Triton's interpreter, then compiled and emulated
	$(BIN)/python -m pytest -n 2 --draws 1 $(STRICT)
	if ! $(BIN)/python -c "import torch; assert torch.cuda.is_available()" 2> /dev/null; then \
		$(BIN)/python -m pytest -n 2 --kernels emulated --draws 1 tests/kernels/test_compiled.py $(STRICT); fi

# Any other Triton than that of constraints.txt has an environment of its own, with little else in it.
TRITON ?= 3.7.1
COMPILATION ?= tests/bench/test_compile.py
OTHER = $(VENV)-triton-$(TRITON)
compiled: $(OTHER)/ready  ## the kernels as another Triton compiles them, emulated: make compiled TRITON=3.6.0
	$(OTHER)/bin/python -m pytest -n 2 --kernels emulated $(DRAWS) $(COMPILED) $(STRICT)
	$(OTHER)/bin/python -m pytest -n 2 $(COMPILATION) tests/bench/test_operands.py $(STRICT)

$(OTHER)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OTHER)
	sed '$(if $(filter 3.6.%,$(TRITON)),s/^numpy==.*/numpy<2.4/)' constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/pip install --quiet --no-compile --constraint $(OTHER)/constraints.txt --editable '.[compiled]'
	$(OTHER)/bin/pip install --quiet --no-deps triton==$(TRITON)  # last: PyTorch may require its own
	touch $@

# torchvision imports beside PyTorch 2.14.1, which brings Triton 3.8.0: one environment is for both.
VISION = $(VENV)-torchvision
torchvision: $(VISION)/ready  ## what works beside torchvision; and the kernels as Triton 3.8.0 compiles them, emulated
	$(VISION)/bin/python -m pytest -n 2 tests/vision tritonds/transforms.py tests/bench/test_operands.py $(STRICT)
	$(VISION)/bin/python -m pytest -n 2 --kernels emulated $(DRAWS) $(COMPILED) $(STRICT)

$(VISION)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VISION)
	sed 's/^torch==.*/torch==2.14.1/; s/^triton==.*/triton==3.8.0/' constraints.txt > $(VISION)/constraints.txt
	$(VISION)/bin/pip install --quiet --no-compile --constraint $(VISION)/constraints.txt --editable '.[vision]'
	touch $@

check: $(VENV)/ready  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)-docs/ready  ## README and docs as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

$(VENV)-docs/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/pip install --quiet --no-compile --constraint constraints.txt --editable '.[docs]'
	touch $@

kernels: $(VENV)/ready  ## what the compiler makes of the kernels, and what that should cost on a GPU; needs none
	$(BIN)/python -m bench.compile

speed: $(VENV)/ready  ## measure what runs here, next to its peers; results in bench/results
	$(BIN)/python -m bench --budget 3600
	$(BIN)/python -m bench tables

# With the machine's own Python, whose PyTorch is a GPU build and which may have no network.
RESULTS ?= bench/results
gpu:  ## on a machine with a GPU, in under eight minutes: parity, benchmark and plots, more parity, compute-sanitizer
	$(PYTHON) -c "import tritonds.kernels" 2>/dev/null || $(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(PYTHON) -m bench.gpu --out $(RESULTS) $(REHEARSE)

ACCURACY_SECONDS ?= 540
DATA ?= natural
accuracy: $(VENV)/ready  ## train networks, each behind many downsizers, on the GPU if there is one; call it until it exits with 0
	[ $(DATA) != natural ] || $(BIN)/python -m bench accuracy fetch
	$(BIN)/python -m bench accuracy --data $(DATA) --budget $(ACCURACY_SECONDS); status=$$?; \
	$(BIN)/python -m bench accuracy tables && exit $$status

# Not compiled while it is installed, which takes as long as all else: Python compiles what is imported.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs $(VISION) $(VENV)-triton-* build dist demo site *.egg-info
