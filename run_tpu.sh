#!/usr/bin/env bash
# Runs `python -m lumos_jax.main` on a Cloud TPU VM or a whole slice, or here.
set -euo pipefail

usage() {
  cat <<'HELP'
Runs `python -m lumos_jax.main` on a Cloud TPU VM, on all workers of a slice, or
on this machine. The tree is copied as it is (what git does not ignore).

  ./run_tpu.sh --tpu=NAME --zone=ZONE --workdir=gs://BUCKET/RUN [options] \
      [--config=FILE[:ARGS]] [--config.KEY=VALUE ...] [-- MAIN_FLAGS]
  ./run_tpu.sh --local [--workdir=DIR] [--config=...] [-- MAIN_FLAGS]

Where:
  --tpu=NAME       a TPU VM or slice that exists and is READY
  --zone=ZONE      its zone, such as us-east5-b
  --project=ID     its project; default: gcloud's
  --local          run here instead (on a TPU VM you are logged in to, a GPU
                   machine, a laptop); PYTHON=... picks the interpreter

What (passed on to lumos_jax.main):
  --config=...     default configs/pretrain.py; --config.KEY=VALUE overrides
  --workdir=...    gs://... for a TPU: all workers write one run there, and it
                   outlives the machine; a rerun with the same one resumes
  -- FLAGS         any other flags

How:
  --detach         start and return; the run continues without this terminal
  --attach         follow a running job
  --stop           stop it (SIGTERM: it saves a checkpoint first)
  --reinstall      install again even if nothing changed
  --logs=DIR       where logs are kept here (default logs/)
  --dry-run        print the commands, run none
  --help           this text

A slice is created with, for instance:
  gcloud compute tpus tpu-vm create NAME --zone=ZONE \
      --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
HELP
}

die() {
  printf 'run_tpu.sh: %s\n' "$*" >&2
  exit 2
}

say() { printf '[run_tpu] %s\n' "$*" >&2; }

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
REMOTE='lumos' # Under the worker's home: tree/, venv/, logs/, run.pid.

# --- On a worker: this same script, as copied there, called with --worker-step.

# Prints an interpreter that can make an environment for lumos-jax.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
    if [[ -n "$candidate" ]] && command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys, venv, ensurepip
sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

worker_install() {
  local stamp python
  cd "$HOME/$REMOTE/tree"
  stamp="$(cat setup.py lumos_jax/__init__.py | sha256sum)"
  if [[ "${1:-}" != force && -f ../venv/installed &&
    "$(<../venv/installed)" == "$stamp" ]]; then
    echo "already installed"
    return
  fi
  rm -rf ../venv
  python="$(find_python)"
  if [[ -n "$python" ]]; then
    "$python" -m venv ../venv
  else
    # TPU VM images come with an older Python; uv brings its own.
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 ../venv
  fi
  ../venv/bin/python -m pip install --quiet -e ".[tpu,demo]"
  echo "$stamp" >../venv/installed
}

worker_pid() { cat "$HOME/$REMOTE/run.pid" 2>/dev/null || true; }

worker_launch() {
  local pid log
  pid="$(worker_pid)"
  if [[ -n "$pid" ]] && kill -0 "$pid" 2>/dev/null; then
    die "a run is active on $(hostname) (process $pid); use --attach or --stop"
  fi
  cd "$HOME/$REMOTE/tree"
  mkdir -p ../logs
  log="$(cd ../logs && pwd)/$(date -u +%Y%m%d-%H%M%S).log"
  ln -sfn "$log" ../logs/latest.log
  rm -f ../run.rc
  # Its own session, so that a lost connection does not end the run. The shell
  # around it outlives SIGTERM to write down how the run ended.
  # shellcheck disable=SC2016
  setsid nohup bash -c \
    'trap : TERM; rc=0; "$@" || rc=$?; echo "$rc" >../run.rc' \
    _ ../venv/bin/python -u -m lumos_jax.main "$@" >"$log" 2>&1 </dev/null &
  echo "$!" >../run.pid
  echo "started on $(hostname), log $log"
}

worker_follow() {
  local pid
  pid="$(worker_pid)"
  [[ -n "$pid" ]] || die "no run was started on $(hostname)"
  tail -n "${1:-+1}" -s 0.5 --pid="$pid" -F "$HOME/$REMOTE/logs/latest.log" \
    2>/dev/null
}

# Waits for the end (the workers of a slice end within moments of each other).
worker_result() {
  local rc pid
  pid="$(worker_pid)"
  for _ in $(seq 120); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 1
  done
  rc="$(cat "$HOME/$REMOTE/run.rc" 2>/dev/null || echo 1)"
  if [[ "$rc" != 0 ]]; then
    echo "--- $(hostname) ended with exit status $rc; last lines of its log:"
    tail -n 40 "$HOME/$REMOTE/logs/latest.log"
  fi
  return "$rc"
}

worker_stop() {
  local pid
  pid="$(worker_pid)"
  if [[ -n "$pid" ]] && kill -TERM -- "-$pid" 2>/dev/null; then
    echo "asked $(hostname) to save and stop"
  else
    echo "nothing runs on $(hostname)"
  fi
}

if [[ "${1:-}" == --worker-step=* ]]; then
  step="${1#*=}"
  shift
  "worker_$step" "$@"
  exit
fi

# --- Here.

tpu='' zone='' project='' workdir='' config='' logs="$ROOT/logs" action=run
local_run=false dry_run=false detach=false reinstall=false
main_args=()
while (($#)); do
  case "$1" in
    --tpu=?*) tpu="${1#*=}" ;;
    --zone=?*) zone="${1#*=}" ;;
    --project=?*) project="${1#*=}" ;;
    --logs=?*) logs="${1#*=}" ;;
    --workdir=?*) workdir="${1#*=}" main_args+=("$1") ;;
    --config=?*) config="${1#*=}" main_args+=("$1") ;;
    --config.?*=*) main_args+=("$1") ;;
    --local) local_run=true ;;
    --dry-run) dry_run=true ;;
    --detach) detach=true ;;
    --reinstall) reinstall=true ;;
    --attach) action=attach ;;
    --stop) action=stop ;;
    --help | -h)
      usage
      exit 0
      ;;
    --)
      shift
      main_args+=("$@")
      break
      ;;
    --tpu | --zone | --project | --logs | --workdir | --config)
      die "write $1=VALUE, with an equals sign"
      ;;
    *) die "unknown flag $1 (see --help; lumos_jax.main's go after --)" ;;
  esac
  shift
done

# Prints words so that a shell reads them back.
quote() {
  local word out=''
  for word in "$@"; do
    case "$word" in
      '' | *[!A-Za-z0-9_./:=,@%+~-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    out+=" $word"
  done
  printf '%s' "${out# }"
}

# Runs a command, or prints it so that it can be pasted.
run() {
  if $dry_run; then
    printf '%s\n' "$(quote "$@")"
  else
    "$@"
  fi
}

if [[ $action == run ]]; then
  if [[ -z "$config" ]]; then
    config=configs/pretrain.py
    main_args=("--config=$config" ${main_args[@]+"${main_args[@]}"})
  fi
  # A file, or the name of a shipped config.
  [[ "$config" == /* || -f "$ROOT/${config%%:*}" ||
    -f "$ROOT/configs/${config%%:*}.py" ]] ||
    die "there is no config file ${config%%:*} under $ROOT"
fi

if $local_run; then
  [[ $action == run && -z "$tpu" ]] ||
    die "--local goes with neither --tpu, --attach nor --stop"
  python="${PYTHON:-python3}"
  if ! $dry_run && ! command -v "$python" >/dev/null; then
    die "no $python here; set PYTHON=... to a Python 3.11 or newer"
  fi
  cd "$ROOT"
  if $reinstall || $dry_run || ! "$python" -c \
    'import importlib.metadata as m; m.version("lumos-jax")' 2>/dev/null; then
    extras=demo
    # TPU chips show up as one of these.
    if compgen -G '/dev/accel*' >/dev/null || [[ -e /dev/vfio/0 ]]; then
      extras=tpu,demo
    fi
    run "$python" -m pip install -e ".[$extras]"
  fi
  run "$python" -m lumos_jax.main "${main_args[@]}"
  exit
fi

[[ -n "$tpu" ]] || die "--tpu=NAME is missing (or --local to run here)"
[[ -n "$zone" ]] || die "--zone=ZONE of $tpu is missing, such as us-east5-b"
if [[ $action == run && "$workdir" != gs://?* ]]; then
  die "--workdir is '$workdir': give gs://BUCKET/PATH, which all workers can" \
    "write and which outlives the TPU"
fi
if ! $dry_run && ! command -v gcloud >/dev/null; then
  die "gcloud is not installed here: install the Google Cloud CLI and log in" \
    "(gcloud auth login), or use --local"
fi

where=("--zone=$zone")
[[ -z "$project" ]] || where+=("--project=$project")

# Runs a step of this script's copy on workers ("all" or a number).
on_workers() {
  # The tilde is the worker's.
  # shellcheck disable=SC2088
  local workers="$1" step="$2" script="~/$REMOTE/tree/run_tpu.sh"
  shift 2
  run gcloud compute tpus tpu-vm ssh "$tpu" "${where[@]}" --worker="$workers" \
    --command="bash $script $(quote --worker-step="$step" "$@")"
}

follow() {
  say "following worker 0; Ctrl-C leaves the run going (--attach, --stop)"
  if $dry_run; then
    on_workers 0 follow "$@"
  else
    mkdir -p "$logs"
    local log
    log="$logs/$tpu-$(date -u +%Y%m%d-%H%M%S).log"
    on_workers 0 follow "$@" | tee "$log"
    say "log kept in $log"
  fi
  on_workers all result
  say "done${workdir:+; outputs are in $workdir}"
}

case "$action" in
  stop)
    on_workers all stop
    exit
    ;;
  attach)
    follow 200
    exit
    ;;
esac

if ! $dry_run; then
  state="$(gcloud compute tpus tpu-vm describe "$tpu" "${where[@]}" \
    --format='value(state)')" ||
    die "cannot see TPU $tpu in $zone (gcloud's message is above)"
  [[ "$state" == READY ]] || die "TPU $tpu is $state, not READY"
fi

# Prints the tree's files, zero-terminated: what git does not ignore.
tree_files() {
  git -C "$ROOT" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' path; do
      # A file deleted here may still be in git's index.
      [[ ! -e "$ROOT/$path" ]] || printf '%s\0' "$path"
    done
}

archive='lumos_jax.tgz'
if ! $dry_run; then
  git -C "$ROOT" rev-parse --is-inside-work-tree >/dev/null 2>&1 ||
    die "$ROOT is not a git checkout, so what to copy is unknown"
  scratch="$(mktemp -d)"
  trap 'rm -rf "$scratch"' EXIT
  archive="$scratch/$archive"
  tree_files | tar -C "$ROOT" --null -T - -czf "$archive"
else
  say "archive: what git does not ignore of $ROOT -> $archive"
fi

say "copying the tree to all workers of $tpu"
run gcloud compute tpus tpu-vm scp "$archive" "$tpu:lumos_jax.tgz" \
  "${where[@]}" --worker=all
# Files deleted since the last copy must go; prepared data may stay.
run gcloud compute tpus tpu-vm ssh "$tpu" "${where[@]}" --worker=all \
  --command="mkdir -p ~/$REMOTE/tree && cd ~/$REMOTE/tree && \
find . -mindepth 1 -maxdepth 1 ! -name data -exec rm -rf {} + && \
tar -xzf ~/lumos_jax.tgz"
say "installing"
if $reinstall; then
  on_workers all install force
else
  on_workers all install
fi
say "launching"
on_workers all launch --multihost "${main_args[@]}"
if $detach; then
  say "started; follow it with: $0 --tpu=$tpu --zone=$zone --attach"
else
  follow
fi
