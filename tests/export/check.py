"""Exports hold what they say: 52 odd values go through each engine's own reader and come out as they were, and an exported
server answers as it does under bpm. Run by .ci/export, which installs what it can; what is missing is skipped with a word.

    check.py BPM STEP...       a step: systemd, compose, kubernetes, nomad, podman, kube, install
"""

import base64
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
CI = HERE.parent.parent / ".ci"
BPM = os.path.abspath(sys.argv[1])

VALUES = [
    "", " ", "  lead and trail  ", "a b", "'", '"', "it's", 'say "hi"', "'quoted'", '"quoted"',
    "\\", "\\\\", "trailing\\", "a\\nb", "C:\\dir\\new", "\\'", '\\"', "$", "$$", "$$$",
    "$HOME", "${HOME}", "x$HOME", "$(id)", "$5", "a$b", "%", "%%", "%h %n", "50%",
    "%{if}", "${X:-d}", ";", "a ; b", "#", "# no comment", "a #b", "`date`", "&& ||", "*?[a]{b,c}",
    "line\nbreak", "\n", "tab\there", "cr\rhere", "\x1b[31mred", "\x7f", "\u00a0", "é ü ß", "日本", "🚀",
    "~", "-", "!@^&()=+|<>", "\u2028", "yes", "007", "null",
]


LIMITED = """[process.small]
command = ["small"]
limits = { nofile = 512, memory = "64M", cpu = 0.5, tasks = 64 }
oom_score_adj = 100
stdin = "open"
"""


def toml(text):
    out = ['"']
    for c in text:
        if c in '"\\':
            out.append("\\" + c)
        elif ord(c) < 32 or ord(c) == 127:
            out.append("\\u%04X" % ord(c))
        else:
            out.append(c)
    return "".join(out) + '"'


def literal(text):
    """As bpm's expansion gives it back."""
    out = []
    for at, c in enumerate(text):
        out.append(c)
        if c == "$" and text[at + 1 : at + 2] in ("$", "{"):
            out.append("$")
    return "".join(out)


def project(folder, program):
    """A process that has all values as arguments, and each as a variable."""
    command = [*program, *VALUES]
    lines = ["mcp_port = 0", "[process.odd]", "command = [%s]" % ", ".join(toml(literal(w)) for w in command)]
    lines += [f"env.V{n} = {toml(literal(v))}" for n, v in enumerate(VALUES)]
    lines += ["[process.once]", 'type = "task"', 'command = ["true"]']
    (folder / ".mcp-run").write_text("\n".join(lines) + "\n")


def run(*args, **more):
    return subprocess.run(args, check=True, capture_output=True, text=True, **more).stdout


def export(folder, *args):
    return run(BPM, "-C", str(folder), "export", *args)


def same(what, args, env):
    assert args == VALUES, (what, [(a, b) for a, b in zip(args, VALUES) if a != b])
    for number, value in enumerate(VALUES):
        assert env.get(f"V{number}") == value, (what, number, env.get(f"V{number}"), value)


def eventually(look, patience=60):
    until = time.monotonic() + patience
    while True:
        found = look()
        if found or time.monotonic() > until:
            return found
        time.sleep(0.05)


class Skip(Exception):
    pass


def need(program):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed")


DUMP = """import json, os, sys
path = sys.argv[1]
with open(path + ".new", "w") as f:
    json.dump([sys.argv[2:], dict(os.environ)], f)
os.rename(path + ".new", path)
"""


def verified(kind, *files):
    """Without a word: its exit code says little."""
    with tempfile.TemporaryDirectory() as runtime:
        env = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        said = subprocess.run(["systemd-analyze", kind, "verify", *files], capture_output=True, text=True, env=env)
    assert said.returncode == 0 and not said.stderr, said.stderr


def systemd(folder):
    need("systemd-analyze")
    (folder / "dump.py").write_text(DUMP)
    project(folder, [sys.executable, str(folder / "dump.py"), str(folder / "said.json")])
    with open(folder / ".mcp-run", "a") as f:
        f.write('[process.web]\ncommand = ["%s", "-m", "http.server", "--bind", "127.0.0.1", "${PORT}"]\n' % sys.executable)
        f.write('port = 18093\nready = { http = "http://127.0.0.1:18093/" }\ndepends_on = ["once"]\n')
        f.write('[process.held]\ncommand = ["sleep", "1000"]\nlisten = ["127.0.0.1:18094", "unix:/tmp/bpm held.sock"]\n')
        f.write('ready = { delay_seconds = 0.1 }\nlimits = { nofile = 512, core = "unlimited", tasks = 64, memory = "64M" }\nwatch = ["*.py"]\n')
        f.write('nice = 3\numask = "027"\nunset_env = ["CI"]\nsuccess_exit_codes = [0, 3, "HUP"]\nstop_to = "leader"\n')
    units = folder / "units"
    export(folder, "systemd", "--user", "-o", str(units))
    files = sorted(str(p) for p in units.iterdir())
    verified("--user", *files)
    script = f"""
        systemctl --user start {folder.name}.target
        systemctl --user start {folder.name}-web.service
        for _ in $(seq 300); do [ -e said.json ] && break; sleep 0.1; done
        {sys.executable} -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:18093/").status)' > answer
        systemctl --user is-active {folder.name}-web.service {folder.name}-held.service {folder.name}-once.service > active
    """
    done = subprocess.run([str(CI / "systemd-user"), str(units), "bash", "-c", script], cwd=folder, capture_output=True, text=True)
    if done.returncode == 77:
        raise Skip("verified only: " + done.stderr.strip())
    log = (units / "manager.log").read_text()[-3000:]
    assert done.returncode == 0, (done.stderr, log)
    args, env = json.loads((folder / "said.json").read_text())
    same("systemd", args, env)
    assert (folder / "answer").read_text() == "200\n", log
    assert (folder / "active").read_text() == "active\n" * 3, (folder / "active").read_text()


def compose(folder):
    project(folder, ["prog"])
    with open(folder / ".mcp-run", "a") as f:
        f.write(LIMITED)
    out = folder / "out"
    export(folder, "compose", "--image", "x", "-o", str(out))
    file = out / "compose.yaml"
    done = []
    # A variable of the shell must not come in.
    env = {**os.environ, "HOME": "/wrong", "X": "wrong", "b": "wrong"}
    if shutil.which("docker-compose"):
        config = run("docker-compose", "-f", str(file), "config", "--format", "json", env=env) if "v2" in version("docker-compose") else ""
        if config:
            service = json.loads(config)["services"]["odd"]
            # What it prints is to be read again: the dollar signs are doubled.
            undouble = lambda v: v.replace("$$", "$")
            assert service["command"][0] == "prog"
            same("compose", [undouble(v) for v in service["command"][1:]], {k: undouble(v) for k, v in service["environment"].items()})
            done.append("docker-compose v2")
        else:
            run("docker-compose", "-f", str(file), "config", "-q", env=env)
            done.append("docker-compose v1 (syntax)")
    # Without podman it prints no configuration either.
    if shutil.which("podman-compose") and shutil.which("podman"):
        import yaml

        config = run("podman-compose", "-f", str(file), "config", env=env)
        service = yaml.safe_load(config)["services"]["odd"]
        undouble = lambda v: v.replace("$$", "$")
        args, env = service["command"][1:], service["environment"]
        if isinstance(env, list):
            env = dict(pair.split("=", 1) for pair in env)
        if args != VALUES:
            args, env = [undouble(v) for v in args], {k: undouble(v) for k, v in env.items()}
        same("podman-compose", args, env)
        done.append("podman-compose")
    if not done:
        raise Skip("neither docker-compose nor podman-compose with podman is installed")
    return ", ".join(done)


def version(program):
    said = subprocess.run([program, "version"], capture_output=True, text=True).stdout
    return "v2" if "v2" in said or " 2." in said else said


def expanded(text, known):
    """What Kubernetes makes of a command, an argument or a value (third_party/forked/golang/expansion)."""
    out, at = [], 0
    while at < len(text):
        if text[at] == "$" and at + 1 < len(text):
            if text[at + 1] == "$":
                out.append("$")
                at += 2
                continue
            if text[at + 1] == "(" and ")" in text[at + 2 :]:
                end = text.index(")", at + 2)
                name = text[at + 2 : end]
                out.append(known.get(name, text[at : end + 1]))
                at = end + 1
                continue
        out.append(text[at])
        at += 1
    return "".join(out)


def kubernetes(folder):
    try:
        import yaml
    except ImportError:
        raise Skip("PyYAML is not installed")
    project(folder, ["/bin/prog"])
    (folder / ".env").write_text("FROM_FILE='a $(V1) b'\n")
    with open(folder / ".mcp-run", "a") as f:
        f.write('[process.web]\ncommand = "web"\nport = 8080\nenv_file = ".env"\nenv.API_TOKEN = "x"\ndepends_on = ["odd"]\n')
        f.write('ready = { http = "http://127.0.0.1:8080/h" }\nhealth = { command = ["a b", "$(x)"], interval_seconds = 2.5 }\n')
        f.write(LIMITED)
    out = folder / "out"
    export(folder, "kubernetes", "--image", "x:1", "-o", str(out))
    docs = list(yaml.safe_load_all((out / "kubernetes.yaml").read_text()))
    odd = next(d for d in docs if d["kind"] == "Deployment" and d["metadata"]["name"] == "odd")
    container = odd["spec"]["template"]["spec"]["containers"][0]
    known = {"HOME": "/wrong", "id": "wrong", "X": "wrong"}
    args = [expanded(a, known) for a in container["args"]]
    same("kubernetes", args, {e["name"]: expanded(e["value"], known) for e in container["env"]})
    assert any(d["kind"] == "ConfigMap" and d["data"] == {"FROM_FILE": "a $(V1) b"} for d in docs)
    if not shutil.which("kubernetes-validate"):
        raise Skip("read back by PyYAML only: kubernetes-validate is not installed")
    said = subprocess.run(["kubernetes-validate", "--strict", str(out / "kubernetes.yaml")], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


def nomad(folder):
    try:
        import hcl2
    except ImportError:
        raise Skip("python-hcl2 is not installed")
    project(folder, ["prog"])
    with open(folder / ".mcp-run", "a") as f:
        f.write('[process.web]\ncommand = "web"\nport = 8080\nenv.API_TOKEN = "x"\ndepends_on = ["once"]\n')
        f.write('ready = { http = "http://127.0.0.1:8080/h" }\nstart_limit_burst = 3\n')
        f.write(LIMITED)
    for more in ([], ["--image", "x", "--replicas", "2"]):
        text = export(folder, "nomad", *more)
        hcl2.loads(text)
        # The parser does not undo what is escaped: this does, by HCL's rules.
        line = next(l for l in text.split("\n") if l.strip().startswith("args = ["))
        args = unescaped(line.split("=", 1)[1].strip())
        env = {}
        for l in text.split("\n"):
            if l.strip().startswith('"V'):
                name, value = l.strip().split(" = ", 1)
                env[unescaped(name)[0]] = unescaped(value)[0]
        same("nomad", args, env)


def unescaped(text):
    """The strings in a line of HCL2, as its templates make them."""
    found, at = [], 0
    while True:
        at = text.find('"', at)
        if at < 0:
            return found
        at += 1
        out = []
        while text[at] != '"':
            if text[at] == "\\":
                kind = text[at + 1]
                if kind == "u":
                    out.append(chr(int(text[at + 2 : at + 6], 16)))
                    at += 6
                    continue
                out.append({"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}[kind])
                at += 2
            elif text[at : at + 3] in ("$${", "%%{"):
                out.append(text[at] + "{")
                at += 3
            else:
                assert text[at : at + 2] not in ("${", "%{"), text[at:]
                out.append(text[at])
                at += 1
        at += 1
        found.append("".join(out))


CONTAINERS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
cgroups = "enabled"
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
# podman wants cgroups of one version, and in a user namespace it does without what only the machine's root may do.
INSIDE = """set -eu
mount --make-rprivate /
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
unshare --user sleep 1000 &
for _ in $(seq 500); do [ "$(readlink /proc/$!/ns/user)" != "$(readlink /proc/$$/ns/user)" ] && break; sleep 0.01; done
echo 0 0 65536 >/proc/$!/uid_map
echo 0 0 65536 >/proc/$!/gid_map
status=0
nsenter --user --target $! --setuid 0 --setgid 0 unshare --mount "$@" || status=$?
kill $!
exit $status
"""


def image(folder):
    """A podman of its own with an image that holds busybox; a function that runs it."""
    need("podman")
    need("busybox")
    if os.geteuid() != 0:
        raise Skip("needs root")
    if "not a dynamic" not in run("sh", "-c", "ldd $(command -v busybox) 2>&1 || true"):
        raise Skip("busybox is not static")
    root = folder / "image"
    for name in ("bin", "etc", "tmp", "srv"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for name in ("sh", "httpd", "nc", "wget", "cat", "printf", "sleep", "true", "base64"):
        os.symlink("busybox", root / "bin" / name)
    (root / "srv/index.html").write_text("the same answer\n")
    store = ["--root", str(folder / "store"), "--runroot", str(folder / "runroot"), "--storage-driver", "vfs"]
    env = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}
    (folder / "containers.conf").write_text(CONTAINERS)
    (folder / "inside").write_text(INSIDE)

    def pod(*args, **more):
        command = ["unshare", "--mount", "bash", str(folder / "inside"), "podman", *store, *args]
        done = subprocess.run(command, capture_output=True, env=env, **more)
        # Not as text: that would make a newline of each CR.
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done

    tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
    made = pod("import", "-c", "ENV PATH=/bin", "-c", "WORKDIR /srv", "-", "localhost/bpm-export:1", stdin=tar.stdout)
    if made.returncode or pod("run", "--rm", "localhost/bpm-export:1", "cat", "/srv/index.html").stdout != "the same answer\n":
        raise Skip("podman runs nothing here: " + made.stderr.strip()[-200:])
    return pod


def served(folder):
    """What bpm itself answers for the process "web"."""
    env = {**os.environ, "BPM_HOME": str(folder / "home")}
    run(BPM, "-C", str(folder), "up", "web", env=env)
    try:
        return urllib.request.urlopen("http://127.0.0.1:18095/").read().decode()
    finally:
        run(BPM, "-C", str(folder), "stop", env=env)


def web(folder):
    """A server on the machine and in the image; what it answers under bpm."""
    command = f'cd {folder}/image/srv 2>/dev/null || cd /srv; exec busybox httpd -f -p 18095 -h .'
    with open(folder / ".mcp-run", "a") as f:
        f.write('[process.web]\ncommand = ["sh", "-c", "%s"]\nport = 18095\n' % command)
    answer = served(folder)
    assert answer == "the same answer\n", answer
    return answer


def podman(folder):
    pod = image(folder)
    script = 'printf "%s\\0" "$@"; printf "\\0\\0"; cat /proc/self/environ'
    project(folder, ["sh", "-c", script, "sh"])
    wanted = web(folder)
    import yaml

    out = folder / "out"
    export(folder, "compose", "--image", "localhost/bpm-export:1", "-o", str(out))
    services = yaml.safe_load((out / "compose.yaml").read_text())["services"]

    def start(name, *more):
        # As compose reads it; its networks are more than this machine may have.
        service = services[name]
        undouble = lambda v: v.replace("$$", "$")
        env = [word for k, v in service.get("environment", {}).items() for word in ("-e", f"{k}={undouble(v)}")]
        stop = ["--stop-signal", service["stop_signal"], "--stop-timeout", "1"]
        return pod("run", *more, *env, *stop, service["image"], *[undouble(v) for v in service["command"]])

    said = start("odd", "--rm")
    assert said.returncode == 0, said.stderr
    args, _, rest = said.stdout.partition("\0\0\0")
    # The first of the values is empty, the last is not: the mark is three zero bytes, and one ends the last value.
    pairs = dict(pair.split("=", 1) for pair in rest.split("\0") if "=" in pair)
    same("podman", args.split("\0"), pairs)
    assert start("web", "-d", "--name", "web").returncode == 0
    try:
        ask = lambda: urllib.request.urlopen("http://127.0.0.1:18095/").read().decode()
        answer = eventually(lambda: attempt(ask))
    finally:
        pod("rm", "-f", "-t", "0", "web")
    assert answer == wanted, answer


def kube(folder):
    pod = image(folder)
    # The log of a container is one of lines: not every byte comes through it as it is.
    script = '{ printf "%s\\0" "$@"; printf "\\0\\0"; cat /proc/self/environ; } | base64 -w 0; echo; exec sleep 1000'
    project(folder, ["sh", "-c", script, "sh"])
    wanted = web(folder)
    out = folder / "out"
    export(folder, "kubernetes", "--image", "localhost/bpm-export:1", "-o", str(out))
    file = out / "kubernetes.yaml"
    import yaml

    docs = list(yaml.safe_load_all(file.read_text()))
    odd = next(d for d in docs if d["metadata"]["name"] == "odd")["spec"]["template"]["spec"]["containers"][0]
    # On the machine's own network there is nothing to be forwarded.
    file.write_text(re.sub(r"\n +ports:\n +- containerPort: \d+", "", file.read_text()))
    played = pod("kube", "play", "--network", "host", str(file))
    if "cgroup" in played.stderr or "pause" in played.stderr:
        raise Skip("podman makes no pods here: " + played.stderr.strip()[-200:])
    assert played.returncode == 0, played.stderr
    try:
        ask = lambda: urllib.request.urlopen("http://127.0.0.1:18095/").read().decode()
        answer = eventually(lambda: attempt(ask))
        said = eventually(lambda: pod("logs", "odd-pod-0-odd").stdout)
    finally:
        pod("kube", "down", str(file))
    assert answer == wanted, answer
    args, _, rest = base64.b64decode(said).decode().partition("\0\0\0")
    pairs = dict(pair.split("=", 1) for pair in rest.split("\0") if "=" in pair)
    # podman leaves "$$" and "$(NAME)" as they are, where Kubernetes makes a dollar sign of the first and a value of the second.
    # It writes each document once more, by a library that loses a line feed that stands alone.
    kept = lambda value: "" if value == "\n" else value
    given = [kept(value) for value in odd["args"][-len(VALUES) :]]
    assert args.split("\0") == given, [pair for pair in zip(args.split("\0"), given) if pair[0] != pair[1]]
    for variable in odd["env"]:
        name, value = variable["name"], kept(variable["value"])
        assert pairs.get(name) == value, (name, pairs.get(name), value)


def attempt(ask):
    try:
        return ask()
    except OSError:
        return None


def install(folder):
    need("systemd-analyze")
    (folder / ".mcp-run").write_text('mcp_port = 0\n[process.sleeper]\ncommand = ["sleep", "1000"]\n')
    env = {**os.environ, "BPM_HOME": str(folder / "home")}
    units = folder / "units"
    units.mkdir()
    name = f"bpm-{folder.name}.service"
    for kind in ("--user", "--system"):
        args = ["export", "systemd", "--self"] + (["--user"] if kind == "--user" else [])
        (units / name).write_text(run(BPM, "-C", str(folder), *args, env=env))
        verified(kind, str(units / name))
    (units / name).unlink()
    script = f"""
        bpm() {{ {BPM} -C {folder} "$@"; }}
        bpm -d > /dev/null
        ! bpm install 2> refused
        bpm install --yes > installed
        bpm wait sleeper
        bpm status > status
        bpm status --json > before
        systemctl --user show -P MainPID {name} > pid
        kill -9 $(cat pid)
        for _ in $(seq 300); do
            [ "$(systemctl --user show -P MainPID {name})" != "$(cat pid)" ] && bpm wait sleeper 2>/dev/null && break
            sleep 0.1
        done
        bpm status --json > after
        systemctl --user reload {name}
        bpm stop > stopped
        systemctl --user show -P ActiveState {name} > state
        bpm uninstall > uninstalled
    """
    done = subprocess.run([str(CI / "systemd-user"), str(units), "bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode == 77:
        raise Skip("verified only: " + done.stderr.strip())
    log = (units / "manager.log").read_text()[-3000:]
    assert done.returncode == 0, (done.stderr, log)
    text = lambda name: (folder / name).read_text()
    assert "a daemon runs already" in text("refused") and "--yes" in text("refused"), text("refused")
    assert "it runs" in text("installed"), text("installed")
    assert "running" in text("status"), text("status")
    before, after = (json.loads(text(name))["processes"][0] for name in ("before", "after"))
    assert after["state"] == "running", after
    # Adopted where that bpm can, started again where it can't: it runs, once.
    print("   after kill -9:", "adopted" if before["pid"] == after["pid"] else "started again")
    assert "inactive" in text("state") and "removed" in text("uninstalled"), (text("state"), text("uninstalled"))
    assert not (units / name).exists()


def main():
    failed = False
    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory(prefix="bpm-export-", ignore_cleanup_errors=True) as folder:
            folder = pathlib.Path(folder).resolve() / name
            folder.mkdir()
            begun = time.monotonic()
            try:
                said = globals()[name](folder)
                print(f"ok: {name}{f' ({said})' if said else ''}, {time.monotonic() - begun:.1f} s", flush=True)
            except Skip as why:
                print(f"skipped: {name}: {why}", flush=True)
            except AssertionError as why:
                failed = True
                print(f"FAILED: {name}: {why}", flush=True)
            except subprocess.CalledProcessError as e:
                failed = True
                print(f"FAILED: {name}: {e}: {e.stderr}", flush=True)
    sys.exit(failed)


main()
