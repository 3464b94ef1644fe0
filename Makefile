# One environment, .venv, for everything; `make demo` and `make test` set it up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto
STAMP := $(VENV)/.installed
TRITON_VENV := .venv-triton
TRITON_STAMP := $(TRITON_VENV)/.installed
CPP := build/cpp
DEMO := engines/demo-anydepth-detr
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The networks of the tests and the demo are tiny: more threads wait for each other.
export OMP_NUM_THREADS ?= 2

.PHONY: help docs release aarch64 demo triton-demo pilot-demo page-demo browser cpp cpp-demo test test-quick test-all test-rest fuzz lint format bench curve gpu gpu-pack clean

help:
	@echo "make demo    export, verify, evaluate and predict with the trained tiny checkpoint"
	@echo "make triton-demo  the same network behind a real Triton server, on this machine only"
	@echo "make pilot-demo   the same network at a fixed rate beside another process: super, a pilot, base"
	@echo "make page-demo    a page that runs both trained tiny networks in the browser; make browser installs one (Debian)"
	@echo "make cpp-demo     the same network in C++, no Python at run time"
	@echo "make test    the test suite, at tiny sizes"
	@echo "make test-quick   the quickest part of it; make test-all: the slow rest as well"
	@echo "make fuzz    random inputs, for as long as you like"
	@echo "make lint    ruff and mypy --strict"
	@echo "make docs    the site of the documentation, in build/site"
	@echo "make release   build what is released, and try it in environments of its own"
	@echo "make aarch64   the same and the C++ library on aarch64, emulated (Debian 12, x86-64)"
	@echo "make bench   measure graphs, precisions, exporting and reading checkpoints"
	@echo "make curve   measure the speed-up curve of R50, R101, YOLO s and l (about 25 minutes)"
	@echo "make gpu     what needs an NVIDIA GPU, with what is installed (STEP=name FORCE=1 OUT=folder WITHIN=seconds)"
	@echo "make gpu-pack  what was found there, in one file to send in"
	@echo "make clean   remove the environment and what the demo wrote"

demo: $(STAMP)
	$(BIN)/anydepth-deploy demo

# ARGS="--family anydepth-yolo" for the other checkpoint.
triton-demo: $(STAMP) $(TRITON_STAMP)
	$(BIN)/python -m triton_server.demo $(ARGS)

# On one core of an otherwise idle machine; under 3 minutes there (docs/pilot.md).
pilot-demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/pilot_demo.py $(ARGS)

# Both trained tiny networks on a page of this machine, until Ctrl-C: ARGS="--port 8000".
page-demo: $(STAMP)
	@for family in anydepth-detr anydepth-yolo; do \
	  test -f engines/demo-$$family/manifest.json || $(BIN)/anydepth-deploy export \
	    anydepth_deploy/trained/$$family-tiny-shapes.pth --out engines/demo-$$family || exit $$?; \
	done
	$(BIN)/anydepth-deploy page engines/demo-anydepth-detr engines/demo-anydepth-yolo --out build/page --serve $(ARGS)

# What the tests of the page need and pip has not, on Debian and as root.
browser:
	@missing=; \
	command -v chromium > /dev/null || missing="chromium fonts-dejavu"; \
	command -v npm > /dev/null || missing="$$missing npm"; \
	test -z "$$missing" || { apt-get update && apt-get install --yes --no-install-recommends $$missing; }

# The C++ library, its tool and its example, with the runtimes of the environment (docs/cpp.md).
cpp: $(STAMP)
	@command -v cmake > /dev/null || { echo "error: there is no cmake; install it and a C++ compiler"; exit 2; }
	@arguments=$$($(BIN)/python cpp/dependencies.py) && cmake -S cpp -B $(CPP) $$arguments
	cmake --build $(CPP) --parallel

cpp-demo: cpp
	@test -f $(DEMO)/manifest.json || \
	  $(BIN)/anydepth-deploy export anydepth_deploy/trained/anydepth-detr-tiny-shapes.pth --out $(DEMO)
	@$(BIN)/python cpp/examples/picture.py $(DEMO)/cpp-picture.ppm
	$(CPP)/examples/anydepth-detect $(DEMO) $(DEMO)/cpp-picture.ppm --depth base --out $(DEMO)/cpp-base
	$(CPP)/examples/anydepth-detect $(DEMO) $(DEMO)/cpp-picture.ppm --depth super --out $(DEMO)/cpp-super
	$(CPP)/anydepth-bench $(DEMO) --threads 1 --duration 1 --out $(DEMO)/cpp-bench.json

# A file's tests stay together: what they share is made once. Those that take longest begin first
# (tests/pace.txt). A process each takes about 2 GB. Hundreds of interpreters are started: bytecode is
# kept even where the environment says that Python is not to write any, as many containers do.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 8 \
  --dist loadfile --no-loadscope-reorder

# Everything that there is to tell, at tiny sizes: every command, family, precision and runtime.
test: $(STAMP)
	$(PYTEST) -m "not slow" $(ARGS)

# What needs neither an exported network, nor a compiler, nor a server.
test-quick: $(STAMP)
	$(PYTEST) -m "not slow and not long" $(ARGS)

# Published sizes, every depth, every version and long sweeps as well.
test-all: $(STAMP)
	$(PYTEST) $(ARGS)

# What test-all has beyond test.
test-rest: $(STAMP)
	$(PYTEST) -m slow $(ARGS)

# Random inputs, a hundred times as many and new ones each time: make fuzz ARGS="-k unpickle"
fuzz: $(STAMP)
	ANYDEPTH_EXAMPLES=$(or $(EXAMPLES),100) $(PYTEST) -m fuzz --timeout 0 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/site: every link and anchor is there. make docs ARGS=serve shows it while one writes.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build --strict)

# The source distribution and the wheel, in dist/, tried where nothing else is.
release: $(STAMP)
	$(BIN)/python -m release $(ARGS)

# The deployment half and the C++ library on aarch64, emulated; Debian's and PyPI's packages are unpacked
# into build/aarch64, nothing is installed. 7 minutes on two cores.
aarch64: $(STAMP)
	$(BIN)/python -m release.aarch64 $(ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) cpp
	$(BIN)/python benchmarks/export_cost.py
	$(BIN)/python benchmarks/gated_against_static.py
	$(BIN)/python benchmarks/gated_against_static.py --network yolo-s
	$(BIN)/python benchmarks/engine_sizes.py
	$(BIN)/python benchmarks/latency_by_precision.py
	$(BIN)/python benchmarks/latency_by_precision.py --network yolo-s
	$(BIN)/python benchmarks/read_checkpoint.py
	$(BIN)/python benchmarks/harness_cost.py
	$(BIN)/python benchmarks/pilot_simulated.py
	$(BIN)/python benchmarks/pilot_overhead.py
	$(BIN)/python benchmarks/triton_router.py
	$(BIN)/python benchmarks/triton_auto.py
	$(BIN)/python benchmarks/triton_shedding.py
	$(BIN)/python benchmarks/cpp_against_python.py

# On an NVIDIA GPU: make curve ARGS="--runtime torch-cudagraph --precision fp16"
curve: $(STAMP)
	$(BIN)/python benchmarks/curve.py $(ARGS)

# No environment is made: PYTHON=... has what there is. Networks of published sizes are computed on
# the CPU, too, by as many threads as there are cores.
gpu:
	@$(if $(filter file,$(origin OMP_NUM_THREADS)),env -u OMP_NUM_THREADS) $(PYTHON) -m benchmarks.gpu \
	  $(if $(STEP),--step '$(STEP)') $(if $(filter-out 0,$(FORCE)),--force) $(if $(WITHIN),--within $(WITHIN)) $(if $(OUT),--out '$(OUT)')

# All that `make gpu` and `bench` found on this machine, in one file to send in (PACK=file).
gpu-pack:
	@$(PYTHON) -m benchmarks.gpu --pack $(if $(PACK),'$(PACK)')

# torch goes first and alone, so that its version is the one that was tried and nothing drags in
# another. Set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds to spare the CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than Python 3.10; name another: make PYTHON=python3.11 ..."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "error: $(PYTHON) cannot make a virtual environment; install its venv package"; exit 2; }
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

# A Triton server from PyPI, with a Python of its own: it needs numpy 1.
$(TRITON_STAMP): $(STAMP) triton_server/requirements.txt triton_server/environment.py
	$(BIN)/python -m triton_server.environment
	@touch $(TRITON_STAMP)

clean:
	rm -rf $(VENV) $(TRITON_VENV) engines/demo* engines/curve build .pytest_cache .mypy_cache .ruff_cache
