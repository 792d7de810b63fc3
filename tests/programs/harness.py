"""Pinned packages, and projects of them with a daemon of their own each."""

import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent.parent / "target"
TOOLS = TARGET / "programs"
BPM = os.path.abspath(os.environ.get("BPM") or TARGET / "debug/bpm")

MARKS = {
    "CLAUDECODE": "1", "CODEX_THREAD_ID": "1", "GEMINI_CLI": "1", "OPENCODE": "1", "AI_AGENT": "1", "CURSOR_AGENT": "1",
    "GIT_DIR": "/nowhere", "GIT_INDEX_FILE": "/nowhere/index", "MAKEFLAGS": " -j4 --jobserver-auth=3,4", "MAKELEVEL": "1",
    "npm_lifecycle_event": "up", "npm_command": "run-script", "OLDPWD": "/nowhere",
}


def pinned(name):
    npm = json.loads((HERE / "package.json").read_text())["dependencies"]
    pip = dict(line.split("==") for line in (HERE / "requirements.txt").read_text().split())
    return {**npm, **pip}[name]


class Skip(Exception):
    pass


class Wrong(Exception):
    pass


def claim(held, text):
    if not held:
        raise Wrong(text)


def eventually(what, seconds=60):
    end = time.monotonic() + seconds
    while True:
        got = what()
        if got or time.monotonic() > end:
            return got
        time.sleep(0.02)


def install():
    """The pinned packages, once for each change of the pins."""
    pins = (HERE / "package.json").read_text() + (HERE / "requirements.txt").read_text()
    done = TOOLS / "done"
    if done.exists() and done.read_text() == pins:
        return
    TOOLS.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "package.json", TOOLS)
    print("installing into", TOOLS, flush=True)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    venv = f"python3 -m venv venv && venv/bin/pip -q --disable-pip-version-check install -r '{HERE}/requirements.txt'"
    whole = True
    for command in (npm, ["sh", "-c", venv]):
        try:
            whole &= subprocess.run(command, cwd=TOOLS).returncode == 0
        except FileNotFoundError:
            whole = False
    if whole:
        done.write_text(pins)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Project:
    """A folder with a daemon of its own: a copy of one beside this file, or these files."""

    def __init__(self, name, common=(), files=None):
        self.name = name
        self.folder = TOOLS / "work" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        if files is None:
            shutil.copytree(HERE / name, self.folder)
        else:
            self.folder.mkdir(parents=True)
        for path, text in (files or {}).items():
            (self.folder / path).write_text(text)
        for file in common:
            shutil.copy(HERE / "common" / file, self.folder)
        home = self.folder / ".home"
        home.mkdir()
        path = [str(TOOLS / "node_modules/.bin"), str(TOOLS / "venv/bin"), os.environ["PATH"]]
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TERM", "USER") if name in os.environ}
        self.env = {
            **kept, "PATH": ":".join(path), "HOME": str(home), "BPM_HOME": str(home / "bpm"), "BPM_PORT": "0",
            "NEXT_TELEMETRY_DISABLED": "1", "ASTRO_TELEMETRY_DISABLED": "1", "npm_config_update_notifier": "false", **MARKS,
        }
        self.held = None
        if "${HELD}" in (self.folder / ".mcp-run").read_text():
            self.held = free_port()
            self.env["HELD"] = str(self.held)

    def bpm(self, *args, seconds=180):
        return subprocess.run([BPM, *args], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=seconds)

    def good(self, *args):
        done = self.bpm(*args)
        if done.returncode:
            logs = self.bpm("logs", "-n", "20").stdout
            raise Wrong(f"bpm {' '.join(args)}: exit {done.returncode}: {done.stdout}{done.stderr}\n{logs}")
        return done.stdout

    def status(self):
        return json.loads(self.good("status", "--json"))

    def process(self):
        return self.status()["processes"][0]

    def url(self):
        return f"http://127.0.0.1:{self.held}" if self.held else self.process()["url"]

    def end(self):
        """Stops everything: what is wrong then, or None."""
        done = self.bpm("stop")
        left = [] if eventually(lambda: not self.left(), 3) else self.left()
        for pid, _ in left:
            os.kill(pid, 9)
        if left:
            return f"left behind by bpm stop: {left}"
        return f"bpm stop: exit {done.returncode}: {done.stderr}" if done.returncode else None

    def started_in(self):
        """Milliseconds from the newest start to readiness, as the daemon's events have them."""
        times = {}
        for event in self.status()["events"]:
            word = event["text"].split(" ")[0]
            if event["kind"] == "state" and word in ("starting", "running"):
                times[word] = event["time"]
        stamp = lambda text: float(text[17:-1]) + 60 * int(text[14:16])
        return round(1000 * ((stamp(times["running"]) - stamp(times["starting"])) % 3600))

    def left(self):
        """What lives of the project: by its folder, by its daemon's home, or below this program."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid() and self.owns(entry):
                found.append((int(entry.name), words(entry)))
        return found

    def owns(self, entry):
        try:
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return False
            inside = os.readlink(entry / "cwd") + "/"
            return inside.startswith(f"{self.folder}/") or self.env["BPM_HOME"].encode() in (entry / "environ").read_bytes()
        except OSError:
            return False


def words(entry):
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:80]
    except OSError:
        return "?"


def ask(url, seconds=30):
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return answer.status == 200 and answer.read() != b""
    except (OSError, http.client.HTTPException):
        return False


class Load(threading.Thread):
    """One request after the other: how long none was answered."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.over, self.asked, self.failed, self.gap = url, False, 0, 0, 0.0
        self.start()

    def run(self):
        good = time.monotonic()
        while not self.over:
            answered = ask(self.url)
            self.asked += 1
            self.failed += not answered
            now = time.monotonic()
            if answered:
                self.gap, good = max(self.gap, now - good), now
            else:
                time.sleep(0.02)

    def end(self):
        self.over = True
        self.join()
        return self


