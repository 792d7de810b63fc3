#!/usr/bin/env bash
# Finding: PIDFD_GET_INFO tells the exit code of a process that is not one's child, but only once its parent has reaped
# it: the pidfd is readable (POLLIN) before, and hung up (POLLHUP) from then on.
#
# One would guess that a pidfd which poll(2) calls readable has the status ready. The bit PIDFD_INFO_EXIT is missing in
# the answer until the parent waited; where the parent never does (a careless pid 1), it stays missing.
#
# Needs Linux 6.15 or newer. Source: ioctl_pidfd(2), and what the call answers at each moment.
# Seen:
#   alive: no status; ended: readable, no status; reaped: hung up, exit code 7 (0x700)
set -euo pipefail
python3 - <<'PY'
import ctypes, fcntl, os, select, struct, sys
EXIT, SIZE = 1 << 3, 64
GET_INFO = 0xC000FF0B | SIZE << 16
def status(fd):
    buffer = bytearray(struct.pack("<Q", EXIT) + bytes(SIZE - 8))
    try:
        fcntl.ioctl(fd, GET_INFO, buffer)
    except OSError as e:
        # ESRCH: gone without a status, as before 6.15.
        return f"errno {e.errno}"
    mask, code = struct.unpack("<Q", buffer[:8])[0], struct.unpack("<i", buffer[60:64])[0]
    return hex(code) if mask & EXIT else "none"
def events(fd, wait):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    found = dict(poll.poll(wait)).get(fd, 0)
    return "+".join(n for n, bit in (("in", select.POLLIN), ("hup", select.POLLHUP)) if found & bit) or "-"
# A parent that waits for a child when it is told to; we are the child's grandparent and never its parent.
told, tell = os.pipe()
said, say = os.pipe()
parent = os.fork()
if parent == 0:
    go, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(go, 1)
        os._exit(7)
    os.write(say, f"{child}\n".encode())
    os.read(told, 1)
    os.close(end)
    os.read(told, 1)
    os.waitpid(child, 0)
    os.write(say, b"reaped\n")
    os.read(told, 1)
    os._exit(0)
child = int(os.read(said, 64))
fd = os.pidfd_open(child)
alive = (events(fd, 100), status(fd))
os.write(tell, b"x")
ended = (events(fd, 5000), status(fd))
os.write(tell, b"x")
os.read(said, 64)
reaped = (events(fd, 1000), status(fd))
os.write(tell, b"x")
os.waitpid(parent, 0)
print("alive", *alive, "| ended", *ended, "| reaped", *reaped)
if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15):
    print("skipped: Linux", os.uname().release)
    sys.exit(0)
sys.exit((alive, ended, reaped) != (("-", "none"), ("in", "none"), ("in+hup", "0x700")))
PY
