# `make demo` and `make test` do all the set-up on a fresh machine that has Python 3.10+, git and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO_ARGS ?=
# Two files at a time, as they come: a file's tests share what is costly to make. PYTEST_ARGS= runs one after the other.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder --durations 25 --durations-min 5
# Where the images are, if `make data` fetched them.
WITH_DATA = DYNAMARKS_DATA="$${DYNAMARKS_DATA:-$$(ls -d "$(CURDIR)/.data/fashion-mnist" 2>/dev/null)}"

# uv takes a fifth of pip's time; pip does it where uv cannot, such as behind an index that only pip is told of.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
install = { $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python $(1); } || $(PIP) $(1)

.PHONY: demo test test-servers test-spark test-keras-hub test-lowest check docs accessibility dist format data glyphs photos tables clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo data            ## the main job, end to end, on real images
	$(if $(findstring --gateway,$(DEMO_ARGS)),$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[gateway]')
	$(WITH_DATA) $(BIN)/dynamarks demo $(DEMO_ARGS)

test: $(VENV)/.test data            ## every test
	$(WITH_DATA) $(BIN)/python -m pytest $(PYTEST_ARGS)

# MLServer and KServe's Python server, in environments of their own; about 1 GB. They need Python 3.12 or older.
SERVERS := mlserver kserve

test-servers: $(VENV)/.test $(SERVERS:%=.venv-%/.installed)   ## installs both, which takes minutes, and asks them
	DYNAMARKS_MLSERVER_PYTHON="$(CURDIR)/.venv-mlserver/bin/python" \
	DYNAMARKS_KSERVE_PYTHON="$(CURDIR)/.venv-kserve/bin/python" \
	$(BIN)/python -m pytest tests/suspects/test_real_open_inference_servers.py

test-spark: $(VENV)/.test           ## log reduction on a Spark cluster; fetches 400 MB, needs Java 17
	$(call install,-e '.[spark]')
	$(BIN)/python -m pytest tests/distributed

# keras_hub asks for a tensorflow-text that does not exist for every TensorFlow; these tests need none.
test-keras-hub: $(VENV)/.test       ## classifiers of keras_hub, with random weights
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/watermark/keras_hub.txt
	$(BIN)/python -m pytest tests/watermark/test_keras_hub.py

test-lowest: data                   ## every test with the lowest versions that setup.py allows
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .venv-uv uv
	.venv-uv/bin/uv venv --quiet --clear --python $(PYTHON) .venv-lowest
	.venv-uv/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e '.[test]'
	$(WITH_DATA) .venv-lowest/bin/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.test                ## linter, type checker, spelling and vocabulary
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell -D - -D docs/vocabulary.txt

docs: $(VENV)/.test                 ## the documentation, into site/; fails on a broken link or reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

accessibility: docs                 ## axe-core on every page of the documentation; needs Chromium
	$(BIN)/python -m docs.accessibility

dist: $(VENV)/.test                 ## sdist and wheel, checked, into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m check_wheel_contents dist/*.whl

format: $(VENV)/.test               ## rewrite the source to the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Fashion-MNIST without touching the system: Debian carries it as a package. Elsewhere nothing happens here, and
# Keras downloads the images when they are first used.
data:
	@sh benchmarks/fetch_fashion_mnist.sh || true

glyphs: $(VENV)/.study              ## 1,000 classes of rendered characters for the studies, into .data/glyphs-1000/
	$(BIN)/python benchmarks/studies/glyphs.py

photos: $(VENV)/.study              ## 20, 50 and 100 classes of patches of photographs, into .data/photos-*/
	sh benchmarks/unpack_debian.sh .data/photographs $$($(BIN)/python benchmarks/studies/photos.py --packages)
	$(BIN)/python benchmarks/studies/photos.py

tables:                             ## tables of numbers for the studies, from Debian's weka, into .data/weka/
	sh benchmarks/unpack_debian.sh .data/weka weka

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python setup.py
	$(call install,-e '.[demo]')
	touch $@

$(VENV)/.test: $(VENV)/bin/python setup.py
	$(call install,-e '.[test]')
	touch $@ $(VENV)/.demo

$(VENV)/.study: $(VENV)/bin/python setup.py
	$(call install,-e '.[study]')
	touch $@ $(VENV)/.demo

$(SERVERS:%=.venv-%/.installed): .venv-%/.installed: tests/suspects/real_servers/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean:                              ## remove everything that was built, except keys and results
	rm -rf $(VENV) $(SERVERS:%=.venv-%) .data build dist site *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
