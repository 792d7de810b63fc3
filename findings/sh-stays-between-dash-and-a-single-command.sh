#!/usr/bin/env bash
# Finding: `sh -c 'program'` is not the program where sh is dash 0.5.12: the shell stays as its parent.
#
# One would guess that a shell executes the last (and only) command of `sh -c` in place: bash does, and so do newer
# versions of dash. The dash of Debian 12 does not. What goes by the pid of the started process then meets the shell:
# LISTEN_PID of sd_listen_fds(3), a signal to the pid alone, a pid file.
#
# Versions: dash 0.5.12-2 (Debian 12), bash 5.2. Source: the pid that `sh -c` has, against the one of its command.
# Seen:
#   dash: a shell stays (pid of the command is another)
#   dash, exec: the program has the pid
#   bash: the program has the pid
set -euo pipefail
command -v dash >/dev/null || { echo "skipped: no dash"; exit 0; }
version=$(dpkg-query -W -f '${Version}' dash 2>/dev/null || echo unknown)
case $version in 0.5.12*) ;; *) echo "skipped: dash $version, and this is about 0.5.12"; exit 0 ;; esac

# own SHELL SCRIPT: "same" if the command of the script has the pid of the started shell
own() {
  local fifo child inner
  fifo=$(mktemp -u)
  mkfifo "$fifo"
  "$1" -c "$2" >"$fifo" &
  child=$!
  read -r inner <"$fifo"
  wait "$child"
  rm "$fifo"
  [ "$inner" = "$child" ] && echo same || echo another
}

program="$(command -v python3) -c 'import os; print(os.getpid(), flush=True)'"
dash=$(own dash "$program")
replaced=$(own dash "exec $program")
bash=$(own bash "$program")
echo "dash $version: $dash, with exec: $replaced; bash: $bash"
[ "$dash $replaced $bash" = "another same same" ] || { echo "changed"; exit 1; }
