#!/usr/bin/env bash
# Runs the study, or its tests, in an environment that satisfies requirements.lock, which it makes if need be.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage:
  ./run_all.sh [PROFILE] [-p NAME VALUE]... [--only 02,06] [--out DIR] [--jobs N]
  ./run_all.sh --new my_study.toml && ./run_all.sh my_study.toml
  ./run_all.sh PROFILE --engine ray [--address auto]
  ./run_all.sh PROFILE --shard I/N
  ./run_all.sh PROFILE --dry-run [--gpu NAME] [-p NAME VALUE]...
  ./run_all.sh --check [--minutes N] [--out DIR]
  ./run_all.sh --test [all|faults|gpu] [PYTEST ARGUMENT]...
  ./run_all.sh bench gpu [--plan] [--cases NAME...] [--seconds S] [--out DIR]
  ./run_all.sh --help

The first form runs the notebooks of a profile and writes reports, figures, statistics.csv,
claims.json and index.html; `./run_all.sh PROFILE --help` explains its options. The second writes a study
file, with comments, and runs it: a file is a profile. The third does the same as the first with Ray, on this
machine or a cluster. The fourth trains the I-th of N parts and no more. The fifth trains nothing: it prints what
is to be trained, what is there already and what the rest costs, and writes plan.csv. The sixth makes the numbers
of codecheck.yml anew, as far as N minutes (default 5) go, and says which hold. The seventh runs the quick tests;
`all` of them with the coverage of kdutils, which is also what a path or another argument runs under; those that
inject faults and try bad inputs, counted in the last two lines; or those that compare a GPU with the CPU, which
skip where there is none. The eighth measures a step at Qwen2.5's shapes on a GPU, beside other programs.

All set themselves up. The environment variable KDUTILS_ENV says where:
  auto    the active Python if it already satisfies requirements.lock, else .venv (the default)
  active  the active Python, or an error
  venv    .venv in this folder, made with pip
  conda   .conda in this folder, made with conda, mamba or micromamba
KDUTILS_DATA names a folder with real questions; the released results are part of this repository.
KDUTILS_MIN_DISK_GB is the free space that a set-up asks for (default 6).
USAGE
}

fail() {
  printf 'run_all.sh: %s\n' "$*" >&2
  exit 1
}

say() { printf 'run_all.sh: %s\n' "$*" >&2; }

# --- which Python -------------------------------------------------------------------------------

# Empty if it does not run at all, which is what a pyenv shim of a version that is not selected does.
version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true; }

is_recent() {
  local major minor rest
  IFS=. read -r major minor rest <<<"$1"
  [ -n "$rest" ] && { [ "$major" -gt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -ge 11 ]; }; }
}

active_python() {
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -n "$(version_of python)" ]; then
    command -v python
  else
    command -v python3 || true
  fi
}

refuse_python() { # the active one, which is too old or missing
  local found="no Python was found"
  [ -z "$1" ] || found="found Python $(version_of "$1") ($1)"
  fail "Python 3.11 or newer is needed, $found: install python3.11 and call again, or use KDUTILS_ENV=conda"
}

# The Python that makes .venv: the active one unless it is too old.
base_python() {
  local candidate
  for candidate in "$(active_python)" python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && is_recent "$(version_of "$candidate")"; then
      command -v "$candidate"
      return
    fi
  done
  refuse_python "$(active_python)"
}

# Prints what of the lock is missing in Python $1. -P: the modules of kdutils do not shadow the standard library;
# it is also what a Python older than 3.11 stumbles over.
check_lock() { "$1" -P "$root/kdutils/io/environment.py" check --show 3 "$root/requirements.lock"; }

# --- making an environment ----------------------------------------------------------------------

# What an environment depends on. The folder too: a copied or moved one points to where it was made.
ingredients() {
  printf '%s\n' "$root"
  cat "$root/requirements.lock" "$root/requirements-cpu.lock" "$root/pyproject.toml" "$root/environment.yml"
}

# An environment is ready when its stamp, written last, holds the ingredients of today.
is_ready() { [ -x "$1/bin/python" ] && [ -f "$1/kdutils.stamp" ] && ingredients | cmp -s - "$1/kdutils.stamp"; }

require_disk() {
  local needed=${KDUTILS_MIN_DISK_GB:-6} free
  case $needed in '' | *[!0-9]*) fail "KDUTILS_MIN_DISK_GB=$needed is not a whole number" ;; esac
  free=$(df -Pk "$root" | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge "$needed" ] ||
    fail "setting up needs about $needed GB in $root, $free GB are free: make room, or set KDUTILS_ENV=active"
}

# The reason in a few words, from the end of the log of a set-up that failed.
diagnosis() {
  local end
  end=$(tail -n 12 "$1")
  case $end in
    *"No space left on device"*) echo "the disk (or TMPDIR) is full: make room" ;;
    *"DO NOT MATCH THE HASHES"*)
      echo "the file of $(sed -n 's/^ *\([^ ]*==[^ ]*\).*/\1/p' <<<"$end" | tail -n 1) is not that of requirements.lock: see where pip got it," ;;
    *"ensurepip is not"*)
      echo "this Python cannot make venvs: install its venv package (Debian: python3-venv)" ;;
    *"connection broken by"* | *ConnectionError* | *TimeoutError* | *ProxyError* | *SSLError* | *"CONNECTION FAILED"*)
      echo "no network: the package index could not be reached; connect, or set PIP_INDEX_URL or a proxy," ;;
    *) echo "$({ grep -E '^ERROR|Error:' <<<"$end" || echo "$end"; } | tail -n 1 | cut -c 1-200): mend it" ;;
  esac
}

# -I: neither PYTHONPATH nor the user's own packages may stand in for what is to be installed.
isolated_pip() { PIP_USER=0 "$1" -I -m pip --no-input --disable-pip-version-check "${@:2}"; }

make_venv() {
  "$base" -I -m venv "$1" || return
  # Only for speed (measured: half a minute of two), so an older pip will do where there is no newer one.
  isolated_pip "$1/bin/python" install --no-compile --retries 0 'pip>=25' || echo "goes on with the pip at hand"
  local lock=requirements.lock
  # --no-compile: Python compiles what is imported when it is, which is a small part (saves a minute).
  local install=("$1/bin/python" install --no-compile --no-deps --require-hashes)
  if isolated_pip "${install[@]}" --retries 0 -r requirements-cpu.lock; then # it does without CUDA's libraries, 3 GB
    lock=$1/requirements.lock
    awk '/^[^# ]/ { cuda = /^(cuda|nvidia|triton)/ } !cuda' requirements.lock >"$lock" || return
  fi
  isolated_pip "${install[@]}" -r "$lock" && isolated_pip "$1/bin/python" check
}

make_conda() {
  case $conda in
    *micromamba) "$conda" create --yes --prefix "$1" --file environment.yml ;;
    *) "$conda" env create --prefix "$1" --file environment.yml ;;
  esac
}

# Puts an environment of kind $1 (venv or conda) at $2. An unfinished one is thrown away and made anew:
# pip takes a half-unpacked package for an installed one, so going on from it could not be trusted.
set_up() {
  local kind=$1 prefix=$2
  local name=${2##*/} log=$2-setup.log started=$SECONDS
  { exec 9>>"$prefix.lock"; } 2>/dev/null ||
    fail "$root cannot be written: use a copy that can, or a Python that satisfies requirements.lock with KDUTILS_ENV=active"
  # The lock dies with its holders, so it needs no check for stale ones. fd 9 stays open in pip:
  # a killed run_all.sh whose pip lives on still keeps others out.
  if ! lock_descriptor 9 wait=no; then
    say "another run_all.sh is setting up $name; waiting for it"
    lock_descriptor 9 wait=yes || fail "$prefix.lock cannot be locked: delete it and call again"
  fi
  if ! is_ready "$prefix"; then
    # The log stands beside an unfinished environment and inside a finished one: what has neither is not ours.
    if [ -e "$prefix" ] && [ ! -e "$log" ] && [ ! -e "$prefix/setup.log" ]; then
      fail "$prefix was not made by run_all.sh: delete it, or activate it and set KDUTILS_ENV=active"
    fi
    require_disk
    say "setting up $name once, some minutes (log: $log)"
    date >"$log"
    rm -rf "$prefix"
    if ! (cd "$root" && "make_$kind" "$prefix" && install_kdutils "$prefix" && check_lock "$prefix/bin/python") >>"$log" 2>&1; then
      fail "set-up of $name failed, $(diagnosis "$log") and call again (log: $log)"
    fi
    mv "$log" "$prefix/setup.log"
    ingredients >"$prefix/kdutils.stamp.partial"
    mv "$prefix/kdutils.stamp.partial" "$prefix/kdutils.stamp"
    say "$name is ready after $((SECONDS - started)) s"
  fi
  exec 9>&-
}

# So that JupyterLab and plain papermill, which know nothing of this script, find kdutils.
install_kdutils() { isolated_pip "$1/bin/python" install --no-deps --no-build-isolation --editable .; }

lock_descriptor() { # $1: number, $2: wait=yes or wait=no
  if command -v flock >/dev/null; then
    if [ "$2" = wait=no ]; then flock -n "$1"; else flock "$1"; fi
  else # macOS has no flock; a lock that Python takes on our open file stays ours after it has left
    python3 -c 'import fcntl, sys
fcntl.flock(int(sys.argv[1]), fcntl.LOCK_EX | (fcntl.LOCK_NB if sys.argv[2] == "wait=no" else 0))' "$@" 2>/dev/null
  fi
}

# --- choosing one: sets `python` ----------------------------------------------------------------

use_active() {
  python=$(active_python)
  { [ -n "$python" ] && is_recent "$(version_of "$python")"; } || refuse_python "$python"
  local missing
  missing=$(check_lock "$python" 2>&1) ||
    fail "$python does not satisfy requirements.lock: $(paste -sd ';' - <<<"$missing" | sed 's/;/; /g') (remedy: unset KDUTILS_ENV, or pip install -r requirements.lock)"
}

use_venv() {
  own=yes python=$root/.venv/bin/python
  is_ready "$root/.venv" && return
  base=$(base_python)
  set_up venv "$root/.venv"
}

use_conda() {
  own=yes python=$root/.conda/bin/python
  is_ready "$root/.conda" && return
  conda=$(command -v conda || command -v mamba || command -v micromamba) ||
    fail "KDUTILS_ENV=conda, but none of conda, mamba, micromamba is on PATH: install one, or unset KDUTILS_ENV to use pip"
  set_up conda "$root/.conda"
}

use_auto() {
  python=$(active_python)
  # One start of Python and no more: this is what every call pays.
  { [ -n "$python" ] && check_lock "$python" >/dev/null 2>&1; } || use_venv
}

# ------------------------------------------------------------------------------------------------

case ${1:-} in -h | --help)
  usage
  exit 0
  ;;
esac

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
case ${KDUTILS_ENV:-auto} in
  auto | active | venv | conda) "use_${KDUTILS_ENV:-auto}" ;;
  *) fail "KDUTILS_ENV=$KDUTILS_ENV is unknown: use auto, active, venv or conda" ;;
esac

# Our own environment was installed without bytecode. Where Python may not write it, each of the many processes
# of a run compiles everything it imports anew: 6 s each, measured.
[ -z "${own:-}" ] || unset PYTHONDONTWRITEBYTECODE
# -P: the folder that the caller stands in, perhaps another copy of the study, is not searched for modules.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = --test ]; then
  shift
  cd "$root"
  pytest=("$python" -P -m pytest -n 2 --dist worksteal)
  case ${1:-} in
    '') exec "${pytest[@]}" -m "not slow" ;;
    gpu) exec "$python" -P -m pytest -m gpu "${@:2}" tests/gpu ;; # in one process: the tests share the device's memory
    faults) exec "${pytest[@]}" -m "faults or inputs" "${@:2}" ;;
    all) shift ;;
  esac
  exec "${pytest[@]}" --cov=kdutils --cov-report=term "$@"
fi
if [ "${1:-}" = --check ]; then
  exec "$python" -P -m kdutils.report.codecheck "${@:2}"
fi
if [ "${1:-}" = bench ] && [ "${2:-}" = gpu ]; then
  exec "$python" -P -m kdutils.bench.gpu --out "$root/outputs/gpu" "${@:3}"
fi
exec "$python" -P -m kdutils "$@"
