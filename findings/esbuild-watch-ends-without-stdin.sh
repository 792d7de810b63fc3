#!/usr/bin/env bash
# Finding: `esbuild --watch` whose standard input is the null device ends with 0 before it has built anything.
#
# One would guess that a watcher builds once and then watches, or fails. It takes the end of its standard input as the
# end of its parent, within milliseconds, and leaves with success and no output file. `--watch=forever` goes on, and so
# does an open pipe to which nothing is ever written. (tailwindcss, of the same habit, builds once before it leaves.)
#
# Version: esbuild 0.28.2. Source: its own message, and `esbuild --help`: "--watch=forever".
# Seen:
#   null device: exit 0, no output file
#   open pipe: goes on, output file written
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --no-audit --no-fund --silent esbuild@0.28.2 || { echo "skipped: the package cannot be had"; exit 0; }
esbuild=$folder/node_modules/.bin/esbuild
echo 'console.log(1)' >in.js

code=0
timeout 30 "$esbuild" in.js --outfile=null.js --watch </dev/null 2>null.log || code=$?
null="exit $code, $([ -e null.js ] && echo file || echo none)"

mkfifo pipe
sleep 60 >pipe &
writer=$!
"$esbuild" in.js --outfile=open.js --watch <pipe 2>open.log &
watcher=$!
for _ in $(seq 100); do [ -e open.js ] && break; sleep 0.1; done
open="$(kill -0 "$watcher" 2>/dev/null && echo goes on || echo ended), $([ -e open.js ] && echo file || echo none)"
kill "$watcher" "$writer" 2>/dev/null || true
wait 2>/dev/null || true
echo "null device: $null; open pipe: $open"
[ "$null; $open" = "exit 0, none; goes on, file" ] || { cat null.log; echo "changed"; exit 1; }
