#!/usr/bin/env bash
# Finding: a cgroup whose cgroup.kill was written once kills, for ever, each process that clone3(2) begins in it
# (CLONE_INTO_CGROUP); one that moves into it by cgroup.procs lives, and so do that one's children.
#
# One would guess that cgroup.kill ends what is in the cgroup now, as cgroups(7) and the kernel's cgroup-v2 text say,
# and that an empty one can be used again. The kernel counts the kills of a cgroup, and compares the count of the
# parent's cgroup with that of the child's, to catch forks that are under way: for a child that begins elsewhere the
# two are numbers of different cgroups. A cgroup that was removed and made again begins from nothing.
#
# Needs root, a cgroup v2 to make folders in, and Linux 5.14 or newer. Source: what each call answers.
# Seen with Linux 6.18.44:
#   new: exit code 7; after cgroup.kill: signal 9, again: signal 9; moved in: exit code 7; made again: exit code 7
set -euo pipefail
python3 - <<'PY'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
SYS_CLONE3, INTO_CGROUP, SIGCHLD = 435, 0x200000000, 17
FIELDS = "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup"
class Args(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in FIELDS.split()]
def ended(pid):
    status = os.waitpid(pid, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
def begin_in(folder):
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    args = Args(flags=INTO_CGROUP, exit_signal=SIGCHLD, cgroup=fd)
    pid = libc.syscall(SYS_CLONE3, ctypes.byref(args), ctypes.sizeof(args))
    if pid == 0:
        os._exit(7)
    os.close(fd)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return ended(pid)
def move_into(folder):
    pid = os.fork()
    if pid == 0:
        with open(folder + "/cgroup.procs", "w") as procs:
            procs.write(str(os.getpid()))
        os._exit(7)
    return ended(pid)
mounts = [line.split() for line in open("/proc/mounts")]
root = next((m[1] for m in mounts if m[2] == "cgroup2"), None)
folder = f"{root}/finding-{os.getpid()}"
try:
    os.mkdir(folder)
except OSError as e:
    print("skipped: no cgroup can be made here:", e)
    sys.exit(0)
try:
    seen = [begin_in(folder)]
    with open(folder + "/cgroup.kill", "w") as kill:
        kill.write("1")
    seen += [begin_in(folder), begin_in(folder), move_into(folder)]
    os.rmdir(folder)
    os.mkdir(folder)
    seen.append(begin_in(folder))
except OSError as e:
    print("skipped: this kernel lacks a call:", e)
    sys.exit(0)
finally:
    os.rmdir(folder)
print("new: {}; after cgroup.kill: {}, again: {}; moved in: {}; made again: {}".format(*seen))
sys.exit(seen != ["exit code 7", "signal 9", "signal 9", "exit code 7", "exit code 7"])
PY
