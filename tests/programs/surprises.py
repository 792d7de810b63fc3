"""What real programs do to a supervisor that guesses, and what bpm makes of it. Each function is one, and claims what is right."""

import json
import os
import pty
import socket
import subprocess
import time

from harness import BPM, Load, Project, Skip, Wrong, ask, claim, eventually

ALL = []


def surprise(*common, **files):
    """A function that gets a project of these files (`__` in a name is a dot), and of some of those in common."""

    def made(play):
        play.common = common
        play.files = {".mcp-run" if name == "config" else name.replace("__", "."): text for name, text in files.items()}
        ALL.append(play)
        return play

    return made


def play(one):
    """What is wrong, or None."""
    project = Project(one.__name__, one.common, one.files)
    said = None
    try:
        one(project)
    except (Wrong, subprocess.TimeoutExpired) as e:
        said = f"WRONG: {e}"
    except Skip as e:
        said = f"skipped: {e}"
    wrong = project.end()
    return said or wrong


def warned(project, *parts):
    """A warning of the process has all of this."""
    has = lambda: any(all(part in warning for part in parts) for warning in project.process()["warnings"])
    claim(eventually(has, 30), f"no warning of {parts}: {project.process()['warnings']}")


def opens_all_addresses(project):
    """The program keeps the held socket open and takes no connection from it: its own address is shown as it is."""
    shown = eventually(lambda: "*:" in project.good("status"), 20)
    claim(shown, project.good("status"))


def ends_with(project, *parts):
    """`bpm why` of a process that crashed says all of this."""
    project.bpm("up", "--timeout", "60")
    claim(eventually(lambda: project.process()["crashes"] > 0), f"it did not end: {project.process()}")
    why = project.good("why", "p")
    for part in parts:
        claim(part in why, f"{part!r} is not in: {why}")


@surprise(config='[process.p]\ncommand = ["esbuild", "in.js", "--outfile=out.js", "--watch"]\n', in__js="1\n")
def esbuild_without_its_input_is_explained(project):
    ends_with(project, "exit code 0", 'stdin = "open"')
    claim('stdin = "open"' in project.bpm("doctor").stdout, "doctor does not know it")


@surprise(config='[process.p]\ncommand = ["vite", "--host", "127.0.0.1"]\nport = "auto"\n', index__html="<p>\n")
def vite_that_ignores_port_is_told_at_once(project):
    subprocess.Popen([BPM, "up", "--timeout", "30"], cwd=project.folder, env=project.env, stdout=-3, stderr=-3)
    eventually(lambda: project.bpm("status").returncode == 0)
    warned(project, "listens on 5173", "vite ignores PORT; pass ${PORT}")


@surprise(
    "server.mjs",
    config='[process.p]\ntype = "task"\ncommand = ["node", "t.js"]\n',
    t__js='process.stdout.write("x".repeat(200000) + "\\n"); console.log("the reason"); process.exit(3);\n',
)
def last_words_of_node_are_kept(project):
    for _ in range(5):
        project.bpm("up")
        project.bpm("start", "p")
        last = project.good("logs", "p", "-n", "1")
        claim("the reason" in last, f"the last line is {last[-60:]!r}")


@surprise("app.py", config='[process.p]\ncommand = "gunicorn app:wsgi"\nlisten = ["127.0.0.1:${HELD}"]\nready.notify = true\n')
def gunicorn_as_a_string_gets_its_socket(project):
    project.good("up", "--timeout", "60")
    claim(ask(project.url()), "it does not answer on the held socket")


@surprise("app.py", config='[process.p]\ncommand = ["uv", "run", "--no-project", "gunicorn", "app:wsgi"]\nlisten = ["127.0.0.1:${HELD}"]\n')
def uv_that_keeps_its_program_from_the_socket_is_told(project):
    claim("LISTEN_PID" in project.good("check"), "check says nothing of LISTEN_PID")


@surprise("app.py", config='[process.p]\ncommand = ["gunicorn", "-b", "fd://3", "app:wsgi"]\nlisten = ["127.0.0.1:${HELD}"]\n')
def gunicorn_that_fails_on_its_descriptor_is_explained(project):
    ends_with(project, "Bad file descriptor", "wants no -b")


@surprise("app.py", config='[process.p]\ncommand = ["gunicorn", "app:wsgi"]\nlisten = ["127.0.0.1:${HELD}"]\nready.notify = true\n')
def gunicorn_that_says_ready_too_early_replaces_nothing(project):
    project.good("up", "--timeout", "60")
    before, load = project.process()["pid"], Load(project.url())
    (project.folder / "app.py").write_text("this is no python\n")
    restarted = project.bpm("restart", "p")
    load.end()
    claim(restarted.returncode == 1, f"the restart was good: {restarted.stdout}")
    claim(load.failed == 0, f"{load.failed} of {load.asked} requests failed")
    claim(project.process()["pid"] == before and ask(project.url()), "the old one is gone")


@surprise(
    "app.py",
    config='[process.p]\ncommand = ["daphne", "-e", "systemd:domain=UNIX:index=0", "app:asgi"]\n'
    'listen = ["unix:${PWD}/p.sock"]\nready.log = "Configuring endpoint"\nswap = "stop-start"\n',
)
def unix_socket_that_daphne_removes_is_made_again(project):
    project.good("up", "--timeout", "60")
    for _ in range(2):
        project.good("restart", "p")
        with socket.socket(socket.AF_UNIX) as client:
            os.chdir(project.folder)
            claim(eventually(lambda: not client.connect_ex("p.sock"), 20), "nobody can connect")
            client.sendall(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
            claim(b"200 OK" in client.recv(1000), "daphne does not answer")


@surprise(config='[process.p]\ncommand = ["bun", "run", "s.js"]\nlisten = ["127.0.0.1:${HELD}"]\nready.log = "up"\n',
          s__js='Bun.serve({ fd: 3, port: 0, fetch: () => new Response("x") }); console.log("up");\n')
def bun_that_opens_all_addresses_instead_is_shown(project):
    project.good("up", "--timeout", "60")
    opens_all_addresses(project)


@surprise(config='[process.p]\ncommand = ["deno", "run", "-A", "s.js"]\nlisten = ["127.0.0.1:${HELD}"]\nready.log = "up"\n',
          s__js='Deno.serve({ fd: 3, port: 0, onListen: () => console.log("up") }, () => new Response("x"));\n')
def deno_that_opens_all_addresses_instead_is_shown(project):
    project.good("up", "--timeout", "60")
    opens_all_addresses(project)


# Not accept(): python would make the socket wait by itself.
BLOCKING = """import os, socket
server = socket.socket(fileno=3)
while True:
    fd, _ = server._accept()
    os.write(fd, b"HTTP/1.0 200 OK\\r\\n\\r\\nblocking\\n")
    os.close(fd)
"""


@surprise("server.mjs", config='[process.p]\ncommand = ["node", "server.mjs"]\nlisten = ["127.0.0.1:${HELD}"]\nready.log = "serving"\n', s__py=BLOCKING)
def socket_of_node_waits_again_for_a_blocking_server(project):
    project.good("up", "--timeout", "60")
    claim(ask(project.url()), "node does not answer")
    text = (project.folder / ".mcp-run").read_text()
    text = text.replace('["node", "server.mjs"]', '["python3", "s.py"]').replace('ready.log = "serving"\n', "")
    (project.folder / ".mcp-run").write_text(text)
    project.good("reload")
    claim(eventually(lambda: ask(project.url(), 5)), "python does not answer")
    time.sleep(1)
    claim(project.process()["crashes"] == 0, f"it crashed: {project.process()}")


@surprise(
    config='[process.tsc]\ncommand = ["tsc", "--watch"]\n[process.node]\ncommand = ["node", "--watch", "t.js"]\ncolor = true\n',
    t__js='console.log("ran");\n', in__ts="1;\n", tsconfig__json='{ "compilerOptions": { "noEmit": true, "types": [] }, "files": ["in.ts"] }\n',
)
def watchers_that_clear_the_screen_clear_nothing(project):
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(project.folder)
        os.execve(BPM, [BPM], project.env)
    seen, end = b"", time.monotonic() + 60
    while time.monotonic() < end and not (b"Watching for file" in seen and seen.count(b"ran") > 1):
        if b"ran" in seen and b"touched" not in seen:
            (project.folder / "t.js").write_text('console.log("ran"); // again\n')
        seen += os.read(fd, 4096)
    os.kill(pid, 15)
    os.close(fd)
    os.waitpid(pid, 0)
    claim(b"Watching for file" in seen and seen.count(b"ran") > 1, f"they did not run: {seen!r}")
    claim(b"\x1b[2J" not in seen and b"\x1b[3J" not in seen and b"\x1bc" not in seen, f"it was cleared: {seen!r}")


QUITS = """import signal, sys, time
def heard(number, _):
    print(signal.Signals(number).name, flush=True)
    time.sleep(0.3)
    print("cleaned up", flush=True)
    sys.exit(0)
signal.signal(signal.SIGQUIT, heard)
print("up", flush=True)
time.sleep(1000)
"""


@surprise(
    config='[process.p]\ncommand = ["pnpm", "run", "serve"]\nstop_signal = "QUIT"\nready.log = "^up"\n', s__py=QUITS,
    package__json='{ "private": true, "name": "x", "scripts": { "serve": "python3 s.py" } }\n',
    **{"pnpm-workspace__yaml": "verifyDepsBeforeRun: false\n"},
)
def script_of_pnpm_hears_the_signal_that_kills_pnpm(project):
    project.good("up", "--timeout", "60")
    project.good("stop", "p")
    claim("cleaned up" in project.good("logs", "p"), project.good("logs", "p"))


@surprise("app.py", config='[process.p]\ncommand = ["uv", "run", "--no-project", "uvicorn", "app:asgi", "--port", "${PORT}"]\nport = "auto"\nstop_signal = "INT"\n')
def request_behind_uv_is_answered_at_an_interrupt(project):
    project.good("up", "--timeout", "60")
    url = project.url()
    asking = subprocess.Popen(["curl", "-fsS", url + "/slow"], stdout=-1, stderr=-1)
    time.sleep(0.5)
    project.good("stop", "p")
    claim(asking.wait(20) == 0, f"the request was not answered: {asking.stderr.read()!r}")


@surprise("server.mjs", config='[process.p]\ncommand = "node --watch server.mjs"\nport = "auto"\n')
def program_of_node_watch_hears_one_signal(project):
    for _ in range(3):
        project.good("up", "--timeout", "60")
        project.good("stop", "p")
        heard = project.good("logs", "p").count("SIGTERM")
        claim(heard == 1, f"it heard TERM {heard} times")


@surprise(
    config='[process.p]\ntype = "npm"\nbuild = ["yarn", "install"]\ncommand = ["yarn", "run", "die"]\n', yarn__lock="",
    package__json='{ "private": true, "name": "x", "scripts": { "die": "node die.js" } }\n', die__js='process.kill(process.pid, "SIGSEGV");\n',
    **{"__yarnrc__yml": "enableTelemetry: false\nnodeLinker: node-modules\n"},
)
def end_by_a_signal_behind_yarn_is_explained(project):
    ends_with(project, "exit code 129", "129 is what yarn ends with")


@surprise("app.py", config='[process.p]\ncommand = ["hypercorn", "--bind", "fd://3", "app:asgi"]\nlisten = ["127.0.0.1:${HELD}"]\nready.log = "Running on"\n')
def backlog_that_hypercorn_made_small_grows_again(project):
    def backlog():
        said = subprocess.run(["ss", "-Hltn", f"sport = :{project.held}"], capture_output=True, text=True).stdout
        return int(said.split()[2])

    try:
        subprocess.run(["ss", "-V"], capture_output=True)
    except FileNotFoundError:
        raise Skip("no ss here")
    project.good("up", "--timeout", "60")
    claim(backlog() == 100, f"hypercorn makes it {backlog()}")
    text = (project.folder / ".mcp-run").read_text()
    (project.folder / ".mcp-run").write_text(text.split("command")[0] + 'command = ["sleep", "1000"]\n' + text.split("\n")[2] + "\n")
    project.good("reload")
    claim(eventually(lambda: backlog() > 100, 20), f"it is still {backlog()}")
