//! Held sockets reach servers of every kind, and stay; ports are given, kept, found and named.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use crate::common::load::{ask, get};
use crate::common::{Project, eventually, free_port, murder};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The inode of the listener at each of the descriptors 3 and on of a process.
fn held_by(pid: i32) -> Vec<String> {
    let socket = |fd: i32| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    (3..)
        .map_while(socket)
        .map(|target| target.display().to_string())
        .take_while(|target| target.starts_with("socket:"))
        .collect()
}

#[test]
fn the_protocol_is_kept_for_tcp_v4_v6_and_unix() {
    let (four, six) = (free_port(), free_port());
    let has_six = TcpListener::bind("[::1]:0").is_ok();
    let mut project = Project::empty();
    let path = project.root.join("web.sock");
    let mut listen = vec![
        format!("127.0.0.1:{four}"),
        format!("unix:{}", path.display()),
    ];
    if has_six {
        listen.push(format!("[::1]:{six}"));
    }
    project.config(&format!(
        "[process.web]\ncommand = \"echo \\\"$LISTEN_FDS $LISTEN_PID $$ $LISTEN_FDNAMES\\\"; exec FIXTURE serve\"\nlisten = {listen:?}\nready = {{ log = \"serving\" }}\n"
    ));
    project.file("version", "v1");
    project.serve();
    let pid = project.running("web");
    let count = listen.len();
    let names = vec!["web"; count].join(":");
    assert_eq!(
        project.logs("web"),
        [format!("{count} {pid} {pid} {names}"), "serving v1".into()]
    );
    assert_eq!(held_by(pid).len(), count);
    let answer = format!("v1 {pid}");
    assert_eq!(get(v4(four)).unwrap(), answer);
    assert_eq!(
        ask(&mut UnixStream::connect(&path).unwrap()).unwrap(),
        answer
    );
    if has_six {
        assert_eq!(
            get(format!("[::1]:{six}").parse().unwrap()).unwrap(),
            answer
        );
    }
    // Who may connect is the umask's business, as for a socket that a server makes.
    let mode = path.metadata().unwrap().mode() & 0o777;
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(umask);
    assert_eq!(mode, 0o666 & !umask.bits(), "{mode:o}");

    project.signal(Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
    assert!(!path.exists());
    assert!(TcpStream::connect(v4(four)).is_err());
}

#[test]
fn sockets_are_kept_over_crash_restart_and_reload_of_other_keys() {
    let (one, two, three) = (free_port(), free_port(), free_port());
    let mut project = Project::empty();
    let path = project.root.join("web.sock");
    let config = |first: u16, second: &str, more: &str| {
        format!(
            "release_crash_backoff_initial_seconds = 0\n[process.web]\ncommand = [\"FIXTURE\", \"serve\"]\nready = {{ log = \"serving\" }}\nlisten = [\"127.0.0.1:{first}\", \"{second}\"]\n{more}"
        )
    };
    let unix = format!("unix:{}", path.display());
    project.config(&config(one, &unix, ""));
    project.file("version", "v1");
    project.serve();
    let mut pid = project.running("web");
    let held = held_by(pid);
    assert_eq!(held.len(), 2);

    murder(pid);
    pid = project.status_when("web", |s| s["state"] == "running" && s["pid"] != pid)["pid"]
        .as_i64()
        .unwrap() as i32;
    assert_eq!(held_by(pid), held);

    let done = project.call("restart", json!({"process": "web"})).ok();
    assert_eq!(held_by(done["pid"].as_i64().unwrap() as i32), held);

    project.config(&config(one, &unix, "env = { OTHER = \"1\" }\n"));
    let done = project.call("reload", json!({})).ok();
    assert_eq!(done["changed"], json!(["web"]), "{done}");
    assert_eq!(held_by(project.running("web")), held);

    // Another address at the first place: the second stays.
    project.config(&config(two, &unix, "env = { OTHER = \"1\" }\n"));
    project.call("reload", json!({})).ok();
    let now = held_by(project.running("web"));
    assert_ne!(now[0], held[0]);
    assert_eq!(now[1], held[1]);
    get(v4(two)).unwrap();
    ask(&mut UnixStream::connect(&path).unwrap()).unwrap();
    eventually(|| match TcpStream::connect(v4(one)) {
        Ok(_) => Err("somebody listens there"),
        Err(_) => Ok(()),
    });

    // All addresses instead of one of them: that one is not in the way.
    project.config(&config(two, &unix, "swap = \"stop-start\"\n"));
    project.call("reload", json!({})).ok();
    project.config(
        &config(two, &unix, "swap = \"stop-start\"\n")
            .replace(&format!("127.0.0.1:{two}"), &format!("0.0.0.0:{two}")),
    );
    let done = project.call("reload", json!({})).ok();
    assert_eq!(done["errors"], json!([]), "{done}");
    get(v4(two)).unwrap();

    project.config(&config(
        two,
        &format!("127.0.0.1:{three}"),
        "swap = \"stop-start\"\n",
    ));
    project.call("reload", json!({})).ok();
    get(v4(three)).unwrap();
    assert!(!path.exists());
    // Taken out of the file: nothing is held any more.
    project.config("[process.other]\ncommand = [\"sleep\", \"1000\"]\n");
    project.call("reload", json!({})).ok();
    eventually(|| match TcpStream::connect(v4(two)) {
        Ok(_) => Err("somebody listens there"),
        Err(_) => Ok(()),
    });
}

#[test]
fn a_socket_that_cannot_be_had_is_said_and_the_rest_runs() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let mut project = Project::empty();
    let (taken, file) = (
        project.root.join("taken.sock"),
        project.root.join("file.sock"),
    );
    let _server = UnixListener::bind(&taken).unwrap();
    project.file("file.sock", "precious");
    let long = project.root.join("x".repeat(120));
    project.config(&format!(
        r#"
[process.busy]
command = ["sleep", "1000"]
listen = ["127.0.0.1:{port}"]
[process.taken]
command = ["sleep", "1000"]
listen = ["unix:{}"]
[process.file]
command = ["sleep", "1000"]
listen = ["unix:{}"]
[process.folder]
command = ["sleep", "1000"]
listen = ["unix:${{WHERE:-/nowhere}}/a.sock"]
[process.fine]
command = ["sleep", "1000"]
"#,
        taken.display(),
        file.display()
    ));
    project.serve();
    project.running("fine");
    let me = std::process::id().to_string();
    for (name, parts) in [
        ("busy", vec![port.to_string(), "cannot listen".into(), me]),
        (
            "taken",
            vec!["taken.sock".into(), "listens there already".into()],
        ),
        ("file", vec!["file.sock".into(), "in use".into()]),
        (
            "folder",
            vec!["/nowhere/a.sock".into(), "no such file".into()],
        ),
    ] {
        let error = project.call("start", json!({"process": name})).error();
        for part in parts {
            let there = error.to_lowercase().contains(&part.to_lowercase());
            assert!(there, "{part:?} in {error}");
        }
    }
    assert_eq!(project.read("file.sock"), "precious");
    drop(holder);
    project.call("start", json!({"process": "busy"})).ok();

    let mut project = Project::empty();
    project.config(&format!(
        "[process.long]\ncommand = [\"sleep\", \"1000\"]\nlisten = [\"unix:{}\"]\n",
        long.display()
    ));
    project.serve_fails().exits(1).says(&["listen", "107"]);
}

#[test]
fn a_full_queue_of_another_holds_up_nobody() {
    let mut project = Project::empty();
    let path = project.root.join("full.sock");
    let server = UnixListener::bind(&path).unwrap();
    nix::sys::socket::listen(&server, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
    let connect = || {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_NONBLOCK,
            None,
        )
        .unwrap();
        let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        nix::sys::socket::connect(fd, &address).map(|()| socket)
    };
    let waiting: Vec<_> = std::iter::from_fn(|| connect().ok()).collect();
    assert!(!waiting.is_empty());
    project.config(&format!(
        "[process.a]\ncommand = [\"sleep\", \"1000\"]\nlisten = [\"unix:{}\"]\n[process.b]\ncommand = [\"sleep\", \"1000\"]\n",
        path.display()
    ));
    project.serve();
    project.running("b");
    let error = project.call("start", json!({"process": "a"})).error();
    assert!(error.contains("listens there already"), "{error}");
}

/// Not a test: this program as a server on the crate `listenfd`, when bpm starts it so.
#[test]
fn serves_on_listenfd_when_told() {
    if std::env::var_os("SERVE_ON_LISTENFD").is_none() {
        return;
    }
    let mut fds = listenfd::ListenFd::from_env();
    let tcp = fds.take_tcp_listener(0).unwrap().unwrap();
    let unix = fds.take_unix_listener(1).unwrap().unwrap();
    assert_eq!(fds.len(), 2);
    println!("on listenfd");
    std::thread::spawn(move || {
        for stream in unix.incoming() {
            answer(&mut stream.unwrap());
        }
    });
    for stream in tcp.incoming() {
        answer(&mut stream.unwrap());
    }
}

fn answer(stream: &mut (impl Read + Write)) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nrust");
}

#[test]
fn a_server_on_the_crate_listenfd_serves() {
    let port = free_port();
    let mut project = Project::empty();
    let path = project.root.join("web.sock");
    let me = std::env::current_exe().unwrap();
    project.config(&format!(
        r#"
[process.web]
command = ["{}", "--exact", "ports::serves_on_listenfd_when_told", "--nocapture"]
env = {{ SERVE_ON_LISTENFD = "1" }}
listen = ["127.0.0.1:{port}", "unix:{}"]
ready = {{ log = "on listenfd" }}
"#,
        me.display(),
        path.display()
    ));
    project.serve();
    project.running("web");
    assert_eq!(get(v4(port)).unwrap(), "rust");
    assert_eq!(
        ask(&mut UnixStream::connect(&path).unwrap()).unwrap(),
        "rust"
    );
    project.call("restart", json!({"process": "web"})).ok();
    assert_eq!(get(v4(port)).unwrap(), "rust");
}

/// True if that language is there.
fn there_is(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    let there = found.is_ok_and(|o| o.status.success());
    if !there {
        eprintln!("{program} is not installed: not tried");
    }
    there
}

/// A server in another language: it answers over its held socket, over a crash too.
fn serves(program: &str, script: &str, answer: &str) {
    let port = free_port();
    let mut project = Project::new(&format!(
        r#"
release_crash_backoff_initial_seconds = 0
[process.web]
command = ["{program}", "server"]
listen = ["127.0.0.1:{port}"]
ready = {{ log = "serving" }}
"#
    ));
    project.file("server", script);
    project.serve();
    let pid = project.running("web");
    assert_eq!(get(v4(port)).unwrap(), answer);
    murder(pid);
    assert_eq!(get(v4(port)).unwrap(), answer);
    project.call("restart", json!({"process": "web"})).ok();
    assert_eq!(get(v4(port)).unwrap(), answer);
}

#[test]
fn a_python_server_serves() {
    if there_is("python3") {
        serves(
            "python3",
            r#"
import os, socket
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
listener = socket.socket(fileno=3)
print("serving", flush=True)
while True:
    client, _ = listener.accept()
    client.recv(1024)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npython")
    client.close()
"#,
            "python",
        );
    }
}

#[test]
fn a_node_server_serves() {
    if there_is("node") {
        serves(
            "node",
            r#"
const server = require("http").createServer((_, answer) => answer.end("node"));
server.listen({ fd: 3 }, () => console.log("serving"));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
"#,
            "node",
        );
    }
}

#[test]
fn a_fixed_port_is_given_checked_and_its_holder_named() {
    // Below the ephemeral range: no connection of another test may have it once it is free.
    let holder = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let port = holder.local_addr().unwrap().port();
    let mut project = Project::new(&format!(
        r#"
release_crash_backoff_initial_seconds = 100
[process.web]
command = ["FIXTURE", "serve", "${{PORT}}"]
port = {port}
"#
    ));
    project.serve();
    let error = project.call("start", json!({"process": "web"})).error();
    let me = std::process::id().to_string();
    for part in [&*port.to_string(), &me, "in use"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let status = project.status_when("web", |s| s["state"] == "crashed");
    assert!(status["reason"].as_str().unwrap().contains(&me), "{status}");
    assert_eq!(status["crashes"], 0, "it has not run");
    drop(holder);
    // The port is the readiness check as well.
    project.call("start", json!({"process": "web"})).ok();
    let status = project.status("web");
    assert_eq!(
        (&status["state"], &status["ready"]),
        (&json!("running"), &json!(true))
    );
    assert_eq!(status["ports"], json!([port]));
    assert_eq!(status["url"], format!("http://127.0.0.1:{port}"));
    get(v4(port)).unwrap();
}

#[test]
fn an_auto_port_is_kept_over_daemons_and_given_as_variable() {
    let mut project = Project::new(
        r#"
[process.web]
command = "echo $0 $PORT ${PORT}; exec FIXTURE serve"
port = "auto"
[process.list]
command = ["sh", "-c", "echo $0 $MINE; exec sleep 1000", "arg:${PORT}"]
env = { MINE = "http://localhost:${PORT}" }
port = "auto"
ready = { delay_seconds = 0.1 }
"#,
    );
    project.serve();
    project.running("web");
    let status = project.status("web");
    let port = status["ports"][0].as_u64().unwrap() as u16;
    project.line("web", &format!("sh {port} {port}"));
    let other = project.line("list", "arg:");
    let (a, b) = other.split_once(' ').unwrap();
    let number = a.strip_prefix("arg:").unwrap();
    assert_eq!(b, format!("http://localhost:{number}"));
    assert_ne!(number, port.to_string());
    project.call("restart", json!({"process": "web"})).ok();
    assert_eq!(project.status("web")["ports"], json!([port]));

    project.signal(Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));
    project.serve();
    project.running("web");
    assert_eq!(project.status("web")["ports"], json!([port]));
    project.signal(Signal::SIGTERM);
    assert_eq!(project.ended(), Some(0));

    // Somebody else has it meanwhile: another one, no failure.
    let holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
    project.serve();
    project.running("web");
    let status = project.status("web");
    let next = status["ports"][0].as_u64().unwrap();
    assert_ne!(next, u64::from(port));
    assert_eq!(status["url"], format!("http://127.0.0.1:{next}"));
    let said = format!("web: port {port}, kept for it, is in use by pid");
    assert!(project.log().contains(&said), "{}", project.log());
    // While that lasts it stays at the other one; then the kept one is taken again.
    project.call("restart", json!({"process": "web"})).ok();
    assert_eq!(project.status("web")["ports"], json!([next]));
    drop(holder);
    project.call("restart", json!({"process": "web"})).ok();
    assert_eq!(project.status("web")["ports"], json!([port]));
}

#[test]
fn port_on_all_addresses_is_shown_as_that() {
    let mut project = Project::new(
        "[process.web]\ncommand = [\"FIXTURE\", \"listen\", \"0.0.0.0:0\"]\nready.log = \"^[0-9]+$$\"\n",
    );
    project.serve();
    project.running("web");
    let port = project.logs("web")[0].clone();
    let shown = project.cli(["status"]).exits(0).out;
    assert!(shown.contains(&format!("*:{port}")), "{shown}");
    let status = project.status("web");
    assert_eq!(status["open_ports"], status["ports"]);
    assert_eq!(status["url"], format!("http://127.0.0.1:{port}"));
}

#[test]
fn run_that_listens_elsewhere_than_on_its_port_says_so_at_once() {
    let (port, other) = (free_port(), free_port());
    let mut project = Project::new(&format!(
        "[process.web]\ncommand = [\"FIXTURE\", \"listen\", \"{other}\"]\nport = {port}\n\
         [process.log]\ncommand = [\"FIXTURE\", \"listen\", \"0\"]\nport = \"auto\"\nready.log = \"^[0-9]\"\n"
    ));
    project.serve();
    let said = format!("listens on {other}, not on PORT {port}");
    let warned = |status: &Value, said: &str| {
        let mut warnings = status["warnings"].as_array().unwrap().iter();
        warnings.any(|w| w.as_str().unwrap().contains(said))
    };
    project.status_when("web", |s| s["state"] == "starting" && warned(s, &said));
    project.status_when("web", |s| s["reason"].to_string().contains(&said));
    assert!(project.cli(["why", "web"]).out.contains(&said));
    // One that is ready by its own word warns as well.
    project.status_when("log", |s| {
        s["state"] == "running" && warned(s, "not on PORT")
    });
}

#[test]
fn held_socket_that_no_process_of_the_run_has_is_told() {
    let address = v4(free_port());
    let mut project = Project::new(&format!(
        "[process.web]\ncommand = \"echo up; exec 3>&-; exec sleep 1000\"\nlisten = [\"{address}\"]\nready.log = \"up\"\n\
         [process.own]\ncommand = \"echo up; exec sleep 1000\"\nlisten = [\"127.0.0.1:{}\"]\nready.log = \"up\"\n",
        free_port()
    ));
    project.serve();
    let said =
        format!("connections to {address} wait, and no process of the run has that socket open");
    project.status_when("web", |s| s["warnings"].to_string().contains(&said));
    assert!(project.cli(["why", "web"]).out.contains(&said));
    assert!(project.cli(["status"]).out.contains(&said));
    project.running("own");
    assert_eq!(project.status("own")["warnings"], json!([]));
}

#[test]
fn held_unix_socket_that_a_program_removed_is_made_again() {
    let mut project = Project::empty();
    let path = project.root.join("web.sock");
    project.config(&format!(
        "[process.web]\ncommand = [\"FIXTURE\", \"serve\"]\nlisten = [\"unix:{}\"]\nready.log = \"serving\"\nswap = \"stop-start\"\n",
        path.display()
    ));
    project.file("version", "v1");
    project.serve();
    project.running("web");
    std::fs::remove_file(&path).unwrap();
    project.call("restart", json!({"process": "web"})).ok();
    let pid = project.running("web");
    let mut stream = UnixStream::connect(&path).unwrap();
    assert_eq!(ask(&mut stream).unwrap(), format!("v1 {pid}"));
}

#[test]
fn file_of_a_held_socket_that_the_run_before_removed_is_told() {
    let mut project = Project::empty();
    let path = project.root.join("web.sock").display().to_string();
    project.config(&format!(
        "[process.web]\ncommand = \"trap 'rm -f web.sock; exit 0' TERM; echo up; while :; do sleep 0.05; done\"\n\
         listen = [\"unix:{path}\"]\nready.log = \"up\"\n"
    ));
    project.serve();
    project.running("web");
    assert_eq!(project.status("web")["warnings"], json!([]));
    project.call("restart", json!({"process": "web"})).ok();
    let said = format!("nobody can connect to {path}: the run before removed that file");
    project.status_when("web", |s| {
        s["warnings"][0]
            .as_str()
            .is_some_and(|w| w.starts_with(&said))
    });
}

#[test]
fn held_socket_waits_again_for_the_next_program() {
    let config = |command: &str| {
        format!(
            "[process.web]\ncommand = {command}\nlisten = [\"127.0.0.1:{}\"]\nswap = \"stop-start\"\n",
            free_port()
        )
    };
    let first = config("[\"FIXTURE\", \"serve\"]");
    let second = first.replace("[\"FIXTURE\", \"serve\"]", "[\"sleep\", \"1000\"]");
    let mut project = Project::new(&first);
    project.serve();
    let flags = |pid: i32| {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/3")).unwrap_or_default();
        let flags = info
            .lines()
            .find_map(|l| l.strip_prefix("flags:")?.trim().parse().ok());
        flags.map(|octal: u64| (octal / 1_000 % 10) & 4)
    };
    let is = |project: &Project, wanted: u64| {
        eventually(|| match flags(project.running("web")) {
            Some(found) if found == wanted => Ok(()),
            other => Err(other),
        });
    };
    // The fixture sets O_NONBLOCK (04000), which the socket would keep.
    is(&project, 4);
    project.config(&second);
    project.cli(["reload"]).exits(0);
    is(&project, 0);
}

#[test]
fn port_of_another_at_the_other_loopback_address_is_in_use() {
    let port = free_port();
    let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    let Ok(_other) = TcpListener::bind(address) else {
        return eprintln!("skipped: no ::1 here");
    };
    let mut project = Project::new(&format!(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\nport = {port}\n"
    ));
    project.serve();
    let status = project.status_when("web", |s| s["state"] == "crashed");
    let reason = status["reason"].as_str().unwrap();
    let said = format!("port {port} is in use by pid {}", std::process::id());
    assert!(reason.contains(&said), "{reason}");
}

#[test]
fn ports_that_are_listened_on_are_found_and_shown() {
    let mut project = Project::new(
        r#"
[process.web]
command = "FIXTURE serve & FIXTURE serve & wait"
ready = { command = ["sh", "-c", "test $(grep -c serving out) = 2"] }
[process.none]
command = ["sleep", "1000"]
"#,
    );
    project.config(&project.read(".mcp-run").replace("serve &", "serve >>out &"));
    project.serve();
    project.running("web");
    let ports = eventually(|| {
        let status = project.status("web");
        match status["ports"].as_array() {
            Some(two) if two.len() == 2 => Ok(status["ports"].clone()),
            _ => Err(status),
        }
    });
    for port in ports.as_array().unwrap() {
        get(v4(port.as_u64().unwrap() as u16)).unwrap();
    }
    let status = project.status("web");
    let lowest = ports[0].as_u64().unwrap();
    assert_eq!(status["url"], format!("http://127.0.0.1:{lowest}"));
    let none = project.status("none");
    assert_eq!((&none["ports"], &none["url"]), (&json!([]), &Value::Null));

    let shown = project.cli(["status"]).exits(0).out;
    assert!(
        shown.contains(&format!("{},{}", ports[0], ports[1])),
        "{shown}"
    );
    let up = project.cli(["up"]).exits(0).out;
    assert!(up.contains(&format!("http://127.0.0.1:{lowest}")), "{up}");
    let text = project.call("get_status", json!({})).text();
    assert!(
        text.contains(&format!("http://127.0.0.1:{lowest}")),
        "{text}"
    );
}

#[test]
fn usage_is_of_the_whole_group_and_young() {
    let mut project = Project::new(
        r#"
[process.busy]
command = "sh -c 'while :; do :; done' & sleep 1000 & wait"
[process.idle]
command = ["sleep", "1000"]
"#,
    );
    project.serve();
    project.running("busy");
    let status = project.status_when("busy", |s| s["cpu_seconds"].as_f64() > Some(0.2));
    assert_eq!(status["tasks"], 3, "{status}");
    // Others may leave it little of a processor.
    project.status_when("busy", |s| s["cpu_percent"].as_f64() > Some(0.0));
    assert!(status["rss_bytes"].as_u64() > Some(500_000), "{status}");
    let idle = project.status("idle");
    assert_eq!(idle["tasks"], 1, "{idle}");
    assert!(idle["cpu_seconds"].as_f64() < Some(0.2), "{idle}");
    // A new run is seen at once, not after the second for which a reading is good.
    let pid = project.running("idle");
    project.call("restart", json!({"process": "idle"})).ok();
    let idle = project.status("idle");
    assert_ne!(idle["pid"], pid);
    assert_eq!(idle["tasks"], 1, "{idle}");
}

#[test]
fn limits_are_what_the_file_says() {
    let mut project = Project::new(
        r#"
[process.small]
command = "ulimit -Sn; ulimit -Sc; exec sleep 1000"
limits = { nofile = 77, core = 0 }
[process.core]
command = "ulimit -Sc; exec sleep 1000"
limits = { core = "1M" }
[process.plain]
command = "ulimit -Sn; exec sleep 1000"
"#,
    );
    project.serve();
    project.running("plain");
    project.running("small");
    project.says("small", &["77", "0"]);
    let own = Command::new("sh")
        .args(["-c", "ulimit -Sn"])
        .output()
        .unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    // bpm raises its own; a child gets what bpm was given.
    project.says("plain", &[own.trim()]);
    // In blocks of 512 bytes.
    project.running("core");
    project.says("core", &["2048"]);
}

#[test]
fn the_ports_of_what_has_just_become_ready_are_known() {
    let mut project = Project::new(
        r#"
[process.web]
command = "until [ -e go ]; do sleep 0.02; done; exec FIXTURE serve"
ready = { log = "serving" }
"#,
    );
    project.serve();
    // A reading of before, which would be good for a second.
    project.status_when("web", |s| {
        s["state"] == "starting" && s["tasks"].is_number()
    });
    project.file("go", "");
    let status = project.status_when("web", |s| s["state"] == "running");
    assert_eq!(status["ports"].as_array().unwrap().len(), 1, "{status}");
    assert!(status["url"].is_string(), "{status}");
}

#[test]
fn a_holder_that_bpm_started_is_named_without_its_arguments() {
    let port = crate::common::free_port();
    let mut project = Project::new(&format!(
        r#"
release_crash_backoff_initial_seconds = 100
[process.first]
command = ["FIXTURE", "listen", "{port}", "${{TOKEN}}"]
env = {{ TOKEN = "s3cr3t" }}
ready = {{ tcp = "127.0.0.1:{port}" }}
[process.second]
command = ["true"]
port = {port}
autostart = false
"#
    ));
    project.serve();
    let pid = project.status_when("first", |s| s["ready"] == true)["pid"].to_string();
    let error = project.call("start", json!({"process": "second"})).error();
    assert!(error.contains(&pid) && error.contains("fixture"), "{error}");
    assert!(!error.contains("s3cr3t"), "{error}");
}

#[test]
fn a_process_is_told_the_port_of_another() {
    let mut project = Project::new(
        "[process.api]\ncommand = [\"sleep\", \"1000\"]\nport = \"auto\"\nready.delay_seconds = 0.01\n\
         [process.web]\ncommand = \"echo $API $PORT_OF; exec sleep 1000\"\ndepends_on = [\"api\"]\n\
         env = { API = \"${api.url}/v1\", PORT_OF = \"${api.port}\" }\nready.log = \"http\"\n",
    );
    project.serve();
    project.running("web");
    let status = project.call("get_status", json!({"process": "api", "verbose": true}));
    let url = status.ok()["processes"][0]["url"]
        .as_str()
        .unwrap()
        .to_string();
    let port = url.rsplit(':').next().unwrap();
    assert_eq!(project.logs("web"), [format!("{url}/v1 {port}")]);
    // Another one in its place while it is busy: the process that names it is to be restarted.
    project.call("stop", json!({"process": "api"})).ok();
    let holder = TcpListener::bind(v4(port.parse().unwrap())).unwrap();
    project.call("start", json!({"process": "api"})).ok();
    let said = format!("it was started with port {port} of api, which has ");
    let told = |s: &Value| s["warnings"].to_string().contains(&said);
    project.status_when("web", told);
    project.call("restart", json!({"process": "web"})).ok();
    project.status_when("web", |s| !told(s));
    assert_ne!(project.logs("web"), [format!("{url}/v1 {port}")]);
    drop(holder);
    // A fixed port in its place is a change of both.
    let fixed = free_port();
    let text = std::fs::read_to_string(project.root.join(".mcp-run")).unwrap();
    project.config(&text.replace("\"auto\"", &fixed.to_string()));
    let done = project.call("reload", json!({})).ok();
    assert_eq!(done["changed"], json!(["api", "web"]), "{done}");
    eventually(|| {
        let lines = project.logs("web");
        match lines.last() == Some(&format!("http://127.0.0.1:{fixed}/v1 {fixed}")) {
            true => Ok(()),
            false => Err(lines),
        }
    });
}

/// As a deploy leaves it that switches a link: the daemon of the release before has the port.
#[test]
fn holder_of_a_port_is_named_with_its_project() {
    let port = free_port();
    let config =
        format!("[process.web]\ncommand = [\"FIXTURE\", \"listen\", \"{port}\"]\nport = {port}\n");
    let mut first = Project::new(&config);
    first.up();
    first.line("web", &port.to_string());
    let mut second = Project::new(&config);
    second.env("BPM_HOME", first.home());
    let root = first.root.display().to_string();
    second
        .cli(["up", "--timeout", "5"])
        .exits(1)
        .says(&[&format!(
            "port {port} is in use by process web of {root} (pid {}): \"bpm -C {root} stop\" frees it",
            first.running("web")
        )]);
    second.cli(["stop"]).exits(0);
}
