# Sourced by the scripts that use other machines: checks of settings, and commands that a dry run prints.

dry_run=no
command=
arguments=()

fail() {
  echo "error: $*" >&2
  exit 2
}

# require NAME...: these settings are not empty.
require() {
  local name missing=()
  for name in "$@"; do
    [ -n "${!name:-}" ] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] || fail "set ${missing[*]} in the environment; $0 --help says to what"
}

# require_form NAME REGULAR_EXPRESSION EXAMPLE: a setting looks right.
require_form() {
  require "$1"
  [[ ${!1} =~ ^$2$ ]] || fail "$1=${!1} should look like $3"
}

# require_yes_no NAME...
require_yes_no() {
  local name
  for name in "$@"; do
    [[ ${!name} = yes || ${!name} = no ]] || fail "$name=${!name} must be yes or no"
  done
}

# require_config ARGUMENT...: the arguments of stvsr_jax.main name a config, and no directory of their own.
require_config() {
  local argument has_config=no
  for argument in "$@"; do
    case $argument in
      --config | --config=*) has_config=yes ;;
      --workdir | --workdir=*) fail "$argument: the directory of the run follows from the settings" ;;
    esac
  done
  [ "$has_config" = yes ] || fail "no --config given; put the arguments of stvsr_jax.main behind --, like: -- --config configs/videoinr.py"
}

# require_program NAME: it is installed, unless nothing is going to be run.
require_program() {
  [ "$dry_run" = yes ] || command -v "$1" > /dev/null || fail "$1 is not installed on this machine"
}

# find_free_port: prints a port of this machine that nothing listens on. Below those that systems give to outgoing connections.
find_free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 12000))
    # Opening a connection fails where nobody listens.
    if ! (exec 3<> "/dev/tcp/localhost/$port") 2> /dev/null; then
      echo "$port"
      return
    fi
  done
}

# quote WORD...: the words as a shell would read them.
quote() {
  local word line=()
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word=\'${word//\'/\'\\\'\'}\'
    fi
    line+=("$word")
  done
  echo "${line[*]}"
}

# run COMMAND...: run it, or print it in a dry run.
run() {
  if [ "$dry_run" = yes ]; then
    quote "$@"
  else
    "$@"
  fi
}

# Print the comment at the head of the script, which is its help.
print_help() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"
}

# parse_arguments OTHER ARGUMENT...: [--dry-run] [-- ARGUMENTS], into dry_run and arguments. OTHER, one of the two
# below, is called with every other word.
# shellcheck disable=SC2034 # the scripts read them
parse_arguments() {
  local other=$1
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) dry_run=yes ;;
      -h | --help) print_help && exit 0 ;;
      --) shift && arguments=("$@") && break ;;
      *) "$other" "$1" ;;
    esac
    shift
  done
}

# take_nothing WORD: for scripts without commands.
take_nothing() {
  fail "unknown argument $1; those of stvsr_jax.main go behind --"
}

# take_command WORD: into command, for scripts that run one.
take_command() {
  [[ $1 != -* ]] || fail "unknown option $1; --help lists them"
  [ -z "$command" ] || fail "one command at a time: $command, then $1"
  command=$1
}
