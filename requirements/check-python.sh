#!/bin/sh
# Says in one line what is missing before an environment is made: usage: check-python.sh PYTHON
python=$1
if ! command -v "$python" >/dev/null 2>&1; then
  echo "cutbank: no '$python' found: install Python 3.11 or newer, or say make PYTHON=/path/to/python3" >&2
  exit 2
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 2
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "cutbank: '$python' is Python $version: 3.11 or newer is needed; say make PYTHON=/path/to/python3.11" >&2
  exit 2
fi
if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
  echo "cutbank: '$python' has no venv module: install the package python$version-venv (Debian, Ubuntu: apt-get install python$version-venv)" >&2
  exit 2
fi
