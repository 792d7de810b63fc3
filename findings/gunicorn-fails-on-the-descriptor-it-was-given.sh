#!/usr/bin/env bash
# Finding: gunicorn told to listen on the descriptor that it was handed (-b fd://3) fails under real socket activation
# and works without it.
#
# One would guess that `-b fd://3` is how to name the socket of sd_listen_fds(3). With LISTEN_PID and LISTEN_FDS set
# right, gunicorn takes the sockets from the environment, and the descriptor that -b names is a bad one by then: it
# ends with "Bad file descriptor". Without -b it serves; with a wrong LISTEN_PID, `-b fd://3` serves as well.
#
# Version: gunicorn 27.0.1. Source: its own message.
# Seen:
#   activation alone: serves
#   activation and -b fd://3: [Errno 9] Bad file descriptor
#   -b fd://3 without LISTEN_PID: serves
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv && venv/bin/pip install -q gunicorn==27.0.1 || { echo "skipped: gunicorn cannot be had"; exit 0; }
cat >app.py <<'PY'
def app(environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PY
cat >run.py <<'PY'
import os, signal, socket, sys, time, urllib.request
activate, args = sys.argv[1] == "activate", sys.argv[2:]
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
port = s.getsockname()[1]
pid = os.fork()
if pid == 0:
    log = os.open("log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(log, 1), os.dup2(log, 2)
    os.dup2(s.fileno(), 3)
    os.set_inheritable(3, True)
    env = dict(os.environ)
    if activate:
        env |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execve("venv/bin/gunicorn", ["gunicorn", "--no-control-socket", *args, "app:app"], env)
said, code = "silence", None
for _ in range(100):
    time.sleep(0.1)
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        said = "Bad file descriptor" if "Bad file descriptor" in open("log").read() else "ended"
        break
    try:
        said = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).read().decode()
        break
    except OSError:
        continue
if not done:
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
print(said)
PY
activated=$(python3 run.py activate)
both=$(python3 run.py activate -b fd://3)
alone=$(python3 run.py plain -b fd://3)
echo "activation: $activated; with -b fd://3: $both; -b fd://3 alone: $alone"
[ "$activated; $both; $alone" = "ok; Bad file descriptor; ok" ] || { cat log; echo "changed"; exit 1; }
