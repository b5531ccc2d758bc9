# The only home of commands. `make` lists them; each first makes what it needs.

PYTHON ?= python3
JOBS   ?= 2
THREADS ?= 1
PORT   ?= 8000

VENV  := .venv
PY    := $(VENV)/bin/python
READY := $(VENV)/ready

# The packages of .venv-NAME are resolved from pyproject.toml with OPTIONS-NAME and the requirements MORE-NAME. nbgrader
# is not for Colab: it needs a newer IPython. uv takes pre-releases of those packages only that a requirement names so.
OPTIONS-colab  := --constraints book/tools/colab-2026-08.txt --extra data --extra notebooks --extra book --extra dev
OPTIONS-floors := --all-extras --resolution lowest-direct
OPTIONS-newest := --all-extras
MORE-newest    := 'torch>=0.dev0' 'torchvision>=0.dev0' 'timm>=0.dev0'

NAME     := $(VENV:.venv-%=%)
PACKAGES := $(if $(OPTIONS-$(NAME)),$(VENV)/requirements.txt,requirements.lock)

# A copied, moved or broken environment does not find this library. Make builds it anew.
FIND := from importlib.util import find_spec; from os.path import samefile; \
	print(samefile(find_spec("dcal_lite").origin, "dcal_lite/__init__.py"))
OURS := $(shell test -x $(PY) && $(PY) -I -c '$(FIND)' 2>/dev/null)
ifneq ($(OURS),True)
.PHONY: $(READY)
endif

# Programs keep files in the home folder; one that cannot be written to is replaced.
ifeq ($(shell test -w "$$HOME" || echo no),no)
export HOME := $(CURDIR)/_build/home
endif

# Make runs one target after the other, also with -j: they share the environment and _build, and use several cores.
.NOTPARALLEL:

# Keep compiled modules: without them every kernel and every test process compiles PyTorch again.
unexport PYTHONDONTWRITEBYTECODE

LIBRARY   := $(shell find dcal_lite $(wildcard data_scripts book/tools/*.py) -type f -not -name '*.pyc')
NOTEBOOKS := $(shell find book -name '*.ipynb' -not -path '*/.*')
STRIP     := $(PY) -m nbstripout --keep-count --extra-keys "metadata.language_info.version"

COLAB := us-docker.pkg.dev/colab-images/public/runtime

ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)

.DEFAULT_GOAL := help
.PHONY: help setup lock book test test-all lint fmt record browser sandbox serve pdf lab
.PHONY: colab-check colab-test floors-test newest-test colab links release bench reproduce zoo assignments grade formgrader clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make the virtual environment .venv, exactly as requirements.lock says

# The stamp is written last: an interrupted set-up leaves none, and the next one starts from nothing.
$(READY): requirements.lock pyproject.toml $(filter book/tools/%,$(OPTIONS-$(NAME)))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(if $(filter True,$(OURS)),test -f $@ ||) $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock | $(PY) -m pip install --no-deps --requirement /dev/stdin
	$(if $(OPTIONS-$(NAME)),printf '%s\n' $(MORE-$(NAME)) | $(PY) -m uv pip compile --quiet --upgrade --python $(PY) \
		$(OPTIONS-$(NAME)) --output-file $(PACKAGES) pyproject.toml -)
	$(PY) -m uv pip sync --python $(PY) $(PACKAGES)
	$(PY) -m uv pip install --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(READY)  ## bring requirements.lock up to date with pyproject.toml (add UPGRADE=--upgrade for newer versions)
	$(PY) -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate $(UPGRADE) --output-file requirements.lock

book: $(READY) _build/library  ## run every chapter and build the book into _build/html
	rm -rf _build/html _build/.doctrees
	$(PY) -m book.tools.build

# Builds what changed since the last time.
.PHONY: pages
pages: $(READY) _build/library
	$(PY) -m book.tools.build

# Neither the cache of executed notebooks nor that of pages sees a change of the library or of a package.
_build/library: $(READY) $(LIBRARY)
	rm -rf _build/.jupyter_cache _build/.doctrees
	@mkdir -p $(@D) && touch $@

# Several processes with one thread each are faster than one process with many. Threads that wait leave the cores alone.
book pages tests test-all notebooks: export OMP_NUM_THREADS := $(THREADS)
book pages tests test-all notebooks: export OMP_WAIT_POLICY := passive

# Processors round differently. With ISA=avx2 PyTorch and oneDNN compute as on one that has AVX2 and no more, as most
# laptops and AMD's processors before Zen 4; with ISA=default as on one without it.
ONEDNN-avx2    := AVX2
ONEDNN-default := SSE41
ifdef ISA
export ATEN_CPU_CAPABILITY := $(ISA)
export ONEDNN_MAX_CPU_ISA  := $(or $(ONEDNN-$(ISA)),$(error ISA=avx2 or ISA=default expected, got ISA=$(ISA)))
endif

test: tests notebooks  ## run the tests, then every notebook (minutes)

.PHONY: tests notebooks elsewhere
tests: $(READY)
	$(PY) -m pytest -n $(JOBS)

test-all: $(READY)  ## run the slow tests too, then all as on other processors and with more threads (hours)
	$(PY) -m pytest -n $(JOBS) -m "" --hypothesis-profile=default
	$(MAKE) --no-print-directory notebooks elsewhere

elsewhere: $(READY)
	$(MAKE) --no-print-directory test ISA=avx2
	$(MAKE) --no-print-directory test ISA=default
	$(MAKE) --no-print-directory test ISA=avx2 THREADS=2
	$(MAKE) --no-print-directory test ISA=default THREADS=2
	$(MAKE) --no-print-directory test THREADS=2
	$(MAKE) --no-print-directory test THREADS=4

notebooks: $(READY)
	$(PY) -m pytest -n $(JOBS) --dist loadscope --nbval-lax --nbval-current-env --nbval-cell-timeout 600 book

lint: $(READY)  ## check style, formatting, and that notebooks are stored without outputs
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(if $(NOTEBOOKS),$(STRIP) --verify $(NOTEBOOKS))

fmt: $(READY)  ## put all this right: formatting, notebooks' first cells, outputs
	$(PY) book/tools/notebooks.py
	$(if $(NOTEBOOKS),$(STRIP) $(NOTEBOOKS))
	$(PY) -m ruff check --fix-only
	$(PY) -m ruff format

record: $(READY)  ## run notebooks and store the outputs that `make test` compares (NOTEBOOKS=path)
	$(PY) book/tools/notebooks.py
	$(PY) -m jupyter nbconvert --to notebook --execute --inplace $(NOTEBOOKS)
	$(MAKE) --no-print-directory fmt

# Fonts as wide as Arial, which readers have: with wider ones alone, formulas and the front page do not fit a phone.
browser:  ## install Debian's Chromium, in which the interactive figures and the built pages are tested
	{ command -v chromium && { ! fc-match Arial | grep --quiet DejaVu || ! command -v apt-get; }; } || \
		{ $(ROOT) apt-get update && $(ROOT) apt-get install --yes --no-install-recommends chromium fonts-liberation; }

sandbox:  ## install Debian's bubblewrap, in which submissions are graded
	command -v bwrap || { $(ROOT) apt-get update && $(ROOT) apt-get install --yes --no-install-recommends bubblewrap; }

serve: pages  ## build the book, serve it at http://127.0.0.1:8000 (PORT=8000), reload what is changed
	$(PY) book/tools/serve.py $(PORT)

pdf: pages browser  ## print the book into _build/book.pdf, to be annotated
	$(PY) -m book.tools.pdf _build/html _build/book.pdf

lab: $(READY)  ## open the chapters in JupyterLab
	$(PY) -m jupyterlab book

colab-test:  ## run the tests and every notebook with Colab's versions, in .venv-colab
floors-test:  ## do that with the oldest versions that pyproject.toml allows, in .venv-floors
newest-test:  ## do that with today's newest, in .venv-newest; pre-releases of PyTorch and timm, too

colab-test floors-test newest-test:
	$(if $(filter newest-%,$@),rm -f .venv-newest/ready)
	$(MAKE) --no-print-directory test VENV=.venv-$(@:-test=)

colab-check: $(READY)  ## check that installing the library on Colab moves nothing that is there
	$(PY) book/tools/colab.py

colab:  ## do that, and run every notebook, in Colab's own image (needs Docker; the image is large)
	docker run --rm --volume "$(CURDIR):/content/dcal" --workdir /content/dcal --entrypoint bash $(COLAB) book/tools/colab.sh

links: $(READY) _build/library  ## ask every address in the book whether it still answers
	$(VENV)/bin/jupyter-book build . --builder linkcheck

release: $(READY)  ## let the pages and the notebooks' first cells name the version's tag (TAG=v1.0.0); commit, then tag
	sed -i.old 's/^  branch: [^ ]*/  branch: $(TAG)/' _config.yml && rm _config.yml.old
	$(MAKE) --no-print-directory fmt

.PHONY: tagged
tagged:
	@grep -q '^  branch: $(TAG) ' _config.yml || { echo "before $(TAG) is set: make release TAG=$(TAG)"; exit 1; }

bench: $(READY)  ## measure the library's ratios of speed and memory
	$(PY) -m book.tools.bench

reproduce: $(READY)  ## train and evaluate a row of the papers' tables (ROW=hacnn-market1501 ARGS="preset=t4 --root data")
	$(PY) -m dcal_lite reproduce $(ROW) $(ARGS)

zoo: $(READY)  ## train again the small weights that the chapters load
	$(PY) -m dcal_lite.zoo

# All work in course/, which is private: solutions, hidden tests, submissions, marks.
assignments: $(READY)  ## build the problem sets for students (COURSE_SEED=secret COURSE_TERM=1; without: the sample)
	$(PY) -m book.assignments build

grade: $(READY)  ## grade STUDENT/psN.ipynb in a folder: marks and feedback (SUBMISSIONS=folder ARGS=--trust)
	$(PY) -m book.assignments grade "$(SUBMISSIONS)" $(ARGS)

# nbgrader takes its settings from the folder in which it is started, and wants the course below JupyterLab's root.
formgrader: $(READY)  ## grade the explanations by hand: JupyterLab, menu Nbgrader, Formgrader
	cd book/assignments && ../../$(PY) -m jupyterlab --notebook-dir ../..

clean:  ## remove the built book and all caches; environments stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
