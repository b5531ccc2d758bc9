#!/usr/bin/env bash
# In Colab's own image: install as a chapter's first cell does, see that nothing moves, run every notebook. The working
# tree is mounted where that cell would clone it, so that it finds this version.
set -euo pipefail

python -m pip list --format freeze | sort >/tmp/before
python -m pip install --quiet --editable .
python -m pip list --format freeze | sort >/tmp/after
if comm -23 /tmp/before /tmp/after | grep .; then
    echo "colab: expected an installation that moves nothing, got other versions of these" >&2
    exit 1
fi
python -m pip install --quiet nbval papermill
python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 600 book
