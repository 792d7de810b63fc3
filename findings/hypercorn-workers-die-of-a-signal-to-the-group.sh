#!/usr/bin/env bash
# Finding: hypercorn drops the requests under way when TERM goes to its process group, and answers them when it goes to its
# first process alone.
#
# One would guess that a server with an orderly shutdown has it however TERM comes: gunicorn's and uvicorn's workers
# handle the signal. hypercorn serves from worker processes even with one worker, lets them ignore INT and forgets TERM:
# whatever signals the group, as most supervisors do, kills the workers at once.
#
# Version: hypercorn 0.18.0. Source: a request of 1.5 s, the signal 0.5 s after its begin.
# Seen:
#   TERM to the group: cut
#   TERM to the first process: answered
#   INT to the group: answered
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv && venv/bin/pip install -q hypercorn==0.18.0 || { echo "skipped: hypercorn cannot be had"; exit 0; }
cat >app.py <<'PY'
import asyncio
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"whole"})
PY

# run SIGNAL TO: whether a request is answered
run() {
  local port got server
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  # A shell without job control lets its background commands ignore INT.
  env --default-signal=INT setsid venv/bin/hypercorn --bind "127.0.0.1:$port" app:app >log 2>&1 &
  server=$!
  for _ in $(seq 200); do curl -fs "http://127.0.0.1:$port/" >/dev/null && break; sleep 0.1; done
  curl -s --max-time 20 "http://127.0.0.1:$port/slow" >answer &
  local asking=$!
  sleep 0.5
  if [ "$2" = group ]; then kill "-$1" -- "-$server"; else kill "-$1" "$server"; fi
  wait "$asking" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  [ "$(cat answer)" = whole ] && echo "answered" || echo "cut"
}
group=$(run TERM group)
leader=$(run TERM leader)
int=$(run INT group)
echo "TERM to the group: $group; to the first process: $leader; INT to the group: $int"
[ "$group/$leader/$int" = "cut/answered/answered" ] || { echo "changed"; cat log; exit 1; }
