#!/usr/bin/env bash
# Finding: gunicorn sends READY=1 before any worker has imported the application, and ends with 3 when that fails.
#
# One would guess that a program which notifies its manager (sd_notify(3)) can serve when it says READY=1. A manager
# that ends the old server at that word is left with nothing: the new one dies a moment later of a syntax error. With
# --preload the application is imported first, and nothing is sent.
#
# Version: gunicorn 27.0.1. Source: gunicorn/arbiter.py, where the notification stands before the workers are spawned.
# Seen:
#   broken app: READY=1, then exit 3
#   broken app, --preload: no READY=1, exit 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv && venv/bin/pip install -q gunicorn==27.0.1 || { echo "skipped: gunicorn cannot be had"; exit 0; }
echo 'def app(' >app.py
cat >run.py <<'PY'
import os, socket, subprocess, sys, tempfile
path = os.path.join(tempfile.mkdtemp(), "notify")
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(path)
s.settimeout(0.2)
child = subprocess.Popen(
    ["venv/bin/gunicorn", "--no-control-socket", "-b", "127.0.0.1:0", "app:app", *sys.argv[1:]],
    env={**os.environ, "NOTIFY_SOCKET": path}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
code = child.wait(timeout=60)
said = b""
try:
    while True:
        said += s.recv(4096) + b"\n"
except TimeoutError:
    pass
print("READY" if b"READY=1" in said else "nothing", code)
PY
plain=$(python3 run.py)
preload=$(python3 run.py --preload)
echo "plain: $plain; --preload: $preload"
[ "$plain; $preload" = "READY 3; nothing 1" ] || { echo "changed"; exit 1; }
