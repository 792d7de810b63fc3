#!/usr/bin/env bash
# Finding: the descriptor that makes a process's table double (the 65th, 257th, 513th ...) costs about 14 ms once the
# process has a second thread, and 10 us before.
#
# One would guess that opening a file costs what the file costs. The kernel replaces the table, and where other threads
# could be reading the old one it waits for an RCU grace period first. A server that starts its threads and then opens
# its pipes and sockets sleeps some ten milliseconds for each doubling; one that makes the table large before its first
# thread (dup2 to a high number, and close) never does.
#
# Source: expand_fdtable() in the kernel's fs/file.c (synchronize_rcu where the table is shared).
# Seen on Linux 6.18, medians of 20 processes:
#   dup2 to 256: 10 us with one thread, 13,700 us with two; the next one, to 255: 1 and 8 us
set -euo pipefail
python3 - <<'PY'
import os, statistics, sys, threading, time

def microseconds(step):
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e6

def medians(threads):
    """Of dup2 to 256, which the table of a new process (64 or, from a parent with more, 256 places) has no room for,
    and of a second one that finds room."""
    rows = []
    for _ in range(20):
        read, write = os.pipe()
        if os.fork() == 0:
            end = threading.Event()
            for _ in range(threads - 1):
                threading.Thread(target=end.wait, daemon=True).start()
            grown = microseconds(lambda: os.dup2(0, 256))
            again = microseconds(lambda: os.dup2(0, 255))
            os.write(write, f"{grown} {again}".encode())
            os._exit(0)
        rows.append([float(part) for part in os.read(read, 100).split()])
        os.wait()
        os.close(read)
        os.close(write)
    return [statistics.median(column) for column in zip(*rows)]

alone, beside = medians(1), medians(2)
print("Linux %s: dup2 to 256: %.0f us with one thread, %.0f with two; to 255: %.0f and %.0f"
      % (os.uname().release, alone[0], beside[0], alone[1], beside[1]))
# 10 and not 1,000: where grace periods are hurried (rcupdate.rcu_expedited) they cost a tenth of a millisecond.
sys.exit(not (beside[0] > 10 * alone[0] and beside[0] > 5 * beside[1]))
PY
