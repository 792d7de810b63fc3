"""For gdb: writes the name of each function that a program enters, when it first does, a line each.

ENTERED is the file to write. Symbols at one address share a line, separated by spaces. A process that the program starts is
not followed.
"""

import os
import subprocess

import gdb

EXE = gdb.current_progspace().filename
OUT = open(os.environ["ENTERED"], "w")
ENTERED = []


class Entry(gdb.Breakpoint):
    def __init__(self, address, names):
        super().__init__(f"*{address:#x}", internal=True)
        self.silent = True
        self.names = names

    # A breakpoint may not delete itself in here: the loop below does.
    def stop(self):
        OUT.write(" ".join(self.names) + "\n")
        OUT.flush()
        ENTERED.append(self)
        return True


for setting in [
    "pagination off",
    "confirm off",
    "breakpoint always-inserted on",
    "detach-on-fork on",
    "follow-fork-mode parent",
    "print thread-events off",
    "print inferior-events off",
]:
    gdb.execute(f"set {setting}")
gdb.execute("handle SIGCHLD SIGTERM SIGINT SIGHUP SIGPIPE nostop noprint pass")
gdb.execute("starti")

with open(f"/proc/{gdb.selected_inferior().pid}/maps") as maps:
    base = next(int(line.split("-")[0], 16) for line in maps if EXE in line)
functions = {}
for line in subprocess.check_output(["nm", "--defined-only", EXE], text=True).splitlines():
    address, kind, name = line.split()
    if kind in "tT":
        functions.setdefault(int(address, 16), []).append(name)
for address, names in functions.items():
    Entry(base + address, names)

while gdb.selected_inferior().pid:
    try:
        gdb.execute("continue", to_string=True)
    except gdb.error:
        break
    while ENTERED:
        ENTERED.pop().delete()
