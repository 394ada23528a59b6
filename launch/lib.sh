# shellcheck shell=bash
# What the launchers share: options, `--dry-run`, settings that must be given, environment files. To be sourced.

export RESTART=75 # what `kame-jax train` ends with when the same command should be run again
DRY_RUN=0

# fail MESSAGE: one line on stderr, status 2.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# run COMMAND...: does it, or says what would be done.
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

# env_lines FILE: its KEY=value lines, comments gone.
env_lines() {
  grep -E '^[A-Za-z_][A-Za-z0-9_]*=' "$1"
}

# load_env FILE: its lines into this process; what is set already stays.
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
