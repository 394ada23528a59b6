# shellcheck shell=bash
# What the launchers share: options, `--dry-run`, required settings, environment files. Source this file.

export RESTART=75 # exit status of `kame-jax train` when the same command should be run again
DRY_RUN=0

# fail MESSAGE: one line on stderr, status 2.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# run COMMAND...: runs it, or prints what would be run.
run() {
  if [ "$DRY_RUN" = 1 ]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# need NAME EXAMPLE: a setting that has no default.
need() {
  [ -n "${!1:-}" ] || fail "set $1, for example $1=$2"
}

# need_config CONFIG [FOLDER]: the name of a ready configuration, or a file: in FOLDER, where the job will look for it.
# If FOLDER is not this directory, an absolute path is one on another machine and is accepted as it is.
need_config() {
  local configs=${BASH_SOURCE[0]%/*}/../configs
  if [ -f "$configs/$1.yaml" ] || [ -f "$configs/pods/$1.yaml" ]; then return; fi
  case $1 in
    /*) [ "${2:-}" != . ] || [ -f "$1" ] || fail "$1: no such file" ;;
    *) [ -f "${2:-/dev/null}/$1" ] || fail "no configuration '$1': expected a name (configs/, configs/pods/) or a file's path" ;;
  esac
}

# env_lines FILE: its KEY=value lines, without comments.
env_lines() {
  grep -E '^[A-Za-z_][A-Za-z0-9_]*=' "$1"
}

# load_env FILE: its lines into this process; variables that are set already are kept.
load_env() {
  local line key
  while IFS= read -r line; do
    key=${line%%=*}
    [ -n "${!key:-}" ] || export "$key=${line#*=}"
  done < <(env_lines "$1")
}

# quoted_env FILE: its lines as `export` commands for another shell.
quoted_env() {
  local line
  while IFS= read -r line; do
    printf 'export %s=%q; ' "${line%%=*}" "${line#*=}"
  done < <(env_lines "$1")
}
