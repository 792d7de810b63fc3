#!/usr/bin/env bash
# Finding: below bun, uv, make and tsx a program hears TERM twice when its process group is sent TERM once.
#
# One would guess that `kill -- -GROUP`, as a supervisor and a terminal's Ctrl-C do it, reaches each process once. bun,
# uv, make and tsx pass on what they get, so that the program gets the group's signal and its runner's. Many programs take a
# second TERM as "now at once" and drop the requests under way. npm dies of the signal without passing it on.
#
# Versions: bun 1.4.4, uv 0.13.8, tsx 4.23.15, GNU make 4.3. Source: a program that notes each TERM, started in a session of its own.
# Seen (times that the program hears TERM; group = one TERM to the group, leader = one TERM to the runner alone):
#   bun:  group 2, leader 1
#   uv:   group 2, leader 1
#   tsx:  group 2, leader 1
#   npm:  group 1
# With make and bun the two can melt into one now and then, since a pending signal is not counted: up to ten tries.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --no-audit --no-fund --silent bun@1.4.4 tsx@4.23.15 || { echo "skipped: bun or tsx cannot be had"; exit 0; }
python3 -m venv venv && venv/bin/pip install -q uv==0.13.8 || { echo "skipped: uv cannot be had"; exit 0; }
cat >program.py <<'PY'
import signal, time
def heard(*_):
    with open("heard", "a") as f:
        f.write("TERM\n")
signal.signal(signal.SIGTERM, heard)
open("up", "w").close()
end = time.monotonic() + 2
while time.monotonic() < end:
    time.sleep(0.02)
PY
cat >program.mjs <<'JS'
import fs from "node:fs";
process.on("SIGTERM", () => fs.appendFileSync("heard", "TERM\n"));
fs.writeFileSync("up", "");
setTimeout(() => {}, 2000);
JS
python=$(python3 -c 'import sys; print(sys.executable)')
cat >package.json <<J
{"name": "x", "version": "1.0.0", "scripts": {"serve": "$python program.py"}}
J

# heard TO COMMAND...: how often the program hears a TERM that is sent to the "group" or the "leader"
heard() {
  local to=$1
  shift
  rm -f up heard
  touch heard
  setsid "$@" >log 2>&1 &
  local leader=$!
  for _ in $(seq 300); do [ -e up ] && break; sleep 0.1; done
  sleep 0.3
  if [ "$to" = group ]; then kill -TERM -- "-$leader"; else kill -TERM "$leader"; fi
  wait "$leader" 2>/dev/null || true
  for _ in $(seq 40); do pgrep -g "$leader" >/dev/null || break; sleep 0.1; done
  grep -c TERM heard || true
}

# most TO COMMAND...: the highest of up to ten tries
most() {
  local most=0 n
  for _ in $(seq 10); do
    n=$(heard "$@")
    [ "$n" -gt "$most" ] && most=$n
    [ "$most" -ge 2 ] && break
  done
  echo "$most"
}

bun="$(most group node_modules/.bin/bun run serve) $(heard leader node_modules/.bin/bun run serve)"
uv="$(most group venv/bin/uv run --no-project --python "$python" program.py) $(heard leader venv/bin/uv run --no-project --python "$python" program.py)"
tsx="$(most group node_modules/.bin/tsx program.mjs) $(heard leader node_modules/.bin/tsx program.mjs)"
npm=$(heard group npm run serve)
echo "bun: group ${bun% *}, leader ${bun#* }; uv: group ${uv% *}, leader ${uv#* }; tsx: group ${tsx% *}, leader ${tsx#* }; npm: group $npm"
[ "$bun/$uv/$tsx/$npm" = "2 1/2 1/2 1/1" ] || { echo "changed"; exit 1; }
