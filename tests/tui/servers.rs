//! The server under it: started, lost, back, old, silent, guarded by a token.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::common::{PATIENCE, Project, lives, murder};
use crate::tmux::{Tmux, bpm_tui, eventually, is_there};

const NAP: &str = "[process.nap]\ncommand = \"echo napping; exec sleep 1000\"\n";

/// The daemon that runs now, by its descriptor.
fn daemon(project: &Project) -> i32 {
    eventually(|| {
        let folder = project.state_folder().ok_or("no folder")?;
        let text =
            std::fs::read_to_string(folder.join("daemon.json")).map_err(|e| e.to_string())?;
        let value: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let pid = value["pid"].as_i64().ok_or("no pid")? as i32;
        if lives(pid) {
            Ok(pid)
        } else {
            Err("dead".into())
        }
    })
}

#[test]
fn two_of_them_start_one_daemon() {
    if !is_there() {
        return;
    }
    let project = Project::new(NAP);
    let (one, two) = (Tmux::new(&project, 80, 24), Tmux::new(&project, 80, 24));
    one.line(bpm_tui());
    two.line(bpm_tui());
    one.sees(&["● live", "napping"]);
    two.sees(&["● live", "napping"]);
    for tmux in [&one, &two] {
        tmux.keys(&["q"]).sees(&["shop: 1 running; bpm runs on"]);
    }
    project.cli(["stop"]).exits(0);
}

#[test]
fn nothing_is_started_where_that_is_not_wanted() {
    if !is_there() {
        return;
    }
    let project = Project::new(NAP);
    let tmux = Tmux::new(&project, 80, 24);
    tmux.line(&format!("{} --no-start; echo code $?", bpm_tui()));
    tmux.sees(&["no daemon runs for shop", "code 3"]);
    assert!(project.cli(["daemon", "status"]).code == Some(3));
}

#[test]
fn mistakes_in_the_file_are_printed_before_the_screen_is_taken() {
    if !is_there() {
        return;
    }
    let project = Project::new("[process.nap]\ncomand = \"x\"\n");
    let tmux = Tmux::new(&project, 100, 24);
    tmux.line(&format!("{}; echo code $?", bpm_tui()));
    tmux.sees(&[
        "unknown key \"comand\"",
        "did you mean \"command\"?",
        "code 1",
    ]);
}

/// The numbers that are shown, from above.
fn numbers(screen: &str) -> Vec<u32> {
    let number = |line: &str| {
        let digits = line.split("number ").nth(1)?.split([' ', '│']).next()?;
        digits.parse().ok()
    };
    screen.lines().filter_map(number).collect()
}

/// The UI of a process that prints numbers until there is a file "halt", 20 of which are there. All fit on the screen.
fn counting() -> (Project, Tmux) {
    let script = "i=0; while [ ! -e halt ]; do i=$((i+1)); echo number $i; sleep 0.1; done; echo halted at $i; sleep 1000";
    let project = Project::new(&format!("[process.count]\ncommand = \"{script}\"\n"));
    let tmux = Tmux::new(&project, 100, 1_000);
    tmux.line(bpm_tui());
    tmux.sees(&["● live", "number 20"]);
    (project, tmux)
}

/// The same run goes on behind what is shown in `back`: no number is missing, and none comes twice.
fn goes_on_behind(project: &Project, tmux: &Tmux, back: &str) {
    let newest = |screen: &str| numbers(screen).last().copied().unwrap_or_default();
    tmux.until("later numbers", |screen| newest(screen) > newest(back) + 5);
    project.file("halt", "");
    let screen = tmux.sees(&["halted at "]);
    let last = screen.split("halted at ").nth(1).unwrap();
    let last: u32 = last.split([' ', '│']).next().unwrap().parse().unwrap();
    // A picture that is half drawn may be seen first.
    tmux.until("all numbers", |screen| {
        numbers(screen) == (1..=last).collect::<Vec<u32>>()
    });
    tmux.keys(&["q"]);
    tmux.is_restored();
    project.cli(["stop"]).exits(0);
}

#[test]
fn upgrade_is_outlived_without_a_gap() {
    if !is_there() {
        return;
    }
    let (project, tmux) = counting();
    let before = daemon(&project);
    project.other_build("next");
    project.cli(["upgrade", "--binary", "next"]).exits(0);
    let back = tmux.sees(&["● live", "restarts 0"]);
    assert_eq!(daemon(&project), before);
    goes_on_behind(&project, &tmux, &back);
}

#[test]
fn a_daemon_that_was_killed_is_waited_for_and_nothing_comes_twice() {
    if !is_there() {
        return;
    }
    let (project, tmux) = counting();
    murder(daemon(&project));
    tmux.sees(&["gone ", "again in"]);
    project.cli(["-d"]).exits(0);
    let back = tmux.sees(&["● live", "adopted", "restarts 0"]);
    goes_on_behind(&project, &tmux, &back);
}

#[test]
fn a_daemon_that_was_stopped_is_started_by_s() {
    if !is_there() {
        return;
    }
    let project = Project::new(NAP);
    let tmux = Tmux::new(&project, 80, 24);
    tmux.line(bpm_tui());
    tmux.sees(&["● live", "napping"]);
    project.cli(["daemon", "restart"]).exits(0);
    tmux.sees(&["● live", "── run 2"]);
    project.cli(["stop"]).exits(0);
    let screen = tmux.sees(&["■ stopped ", "S starts it, q leaves"]);
    let at = screen.split("■ stopped ").nth(1).unwrap().split(';').next();
    assert!(
        at.is_some_and(|at| at.len() == 8 && at.chars().filter(|c| *c == ':').count() == 2),
        "{screen}"
    );
    tmux.keys(&["q"]);
    tmux.is_restored();
    // Nor does the next one start it by itself.
    tmux.line(&format!("clear; {}", bpm_tui()));
    tmux.sees(&[
        "■ stopped by bpm stop",
        "S starts it, q leaves",
        "no status yet",
    ]);
    tmux.keys(&["S"]).sees(&["● live", "Output: nap run 3"]);
    tmux.keys(&["q"]).sees(&["bpm runs on"]);
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_listener_that_never_answers_is_given_up() {
    if !is_there() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let project = Project::empty();
    let tmux = Tmux::new(&project, 100, 24);
    let begun = Instant::now();
    tmux.line(&format!("{} :{port}; echo code $?", bpm_tui()));
    tmux.sees(&["connecting 1/5"]);
    tmux.sees(&["no answer within 2 s (5 tries)", "code 1"]);
    // At once, and five times more, each 2 s long, with 3.1 s between them: 15.1 s, and what the machine needs.
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}

#[test]
fn addresses_that_can_not_be_used_say_what_can() {
    let project = Project::empty();
    let tui = |args: &[&str]| {
        let output = project
            .command("script")
            .args([
                "-qec",
                &format!("{} {}", bpm_tui(), args.join(" ")),
                "/dev/null",
            ])
            .output();
        output
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default()
    };
    if tui(&["-V"]).is_empty() {
        println!("skipped: script is not installed");
        return;
    }
    assert!(tui(&["https://box:3001/mcp"]).contains("ssh -L 3001:localhost:3001 box"));
    assert!(tui(&["box"]).contains("host:port"));
}

#[test]
fn bpm_over_http_is_the_same() {
    if !is_there() {
        return;
    }
    let mut project = Project::new(
        "[process.echo]\ncommand = \"echo one; echo two >&2; sleep 1000\"\n[process.bad]\ncommand = \"exit 7\"\n",
    );
    project.up();
    project.line("echo", "two");
    let url = project.descriptor()["url"].as_str().unwrap().to_owned();
    let tmux = Tmux::new(&project, 100, 30);
    tmux.line(&format!("{} {url}", bpm_tui()));
    tmux.sees(&["● live   shop", "Output: echo", "one", "▌two", "✗ bad"]);
    tmux.keys(&["r"]).sees(&["── run 2", "restarted"]);
    tmux.keys(&["w"]).sees(&["Why: echo"]);
    tmux.keys(&["Escape", "j"]).sees(&["Process Details: bad"]);
    tmux.keys(&["k", "s"]).sees(&["stop echo?"]);
    tmux.keys(&["y"]).sees(&["■ echo"]);
    tmux.keys(&["q"]).sees(&["bpm runs on"]);
}

#[test]
fn a_token_is_needed_and_sent() {
    if !is_there() {
        return;
    }
    let mut project = Project::new(
        "token_file = \"token\"\n[process.nap]\ncommand = \"echo napping; exec sleep 1000\"\n",
    );
    project.file("token", "sesame\n");
    let path = project.root.join("token");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    project.up();
    let url = project.descriptor()["url"].as_str().unwrap().to_owned();
    let tmux = Tmux::new(&project, 100, 24);
    tmux.line(&format!("{} {url}; echo code $?", bpm_tui()));
    tmux.sees(&["needs a token: --token-file FILE", "code 1"]);
    tmux.line(&format!("clear; {} --token-file token {url}", bpm_tui()));
    tmux.sees(&["● live", "napping"]);
    tmux.keys(&["q"]);
    tmux.is_restored();
}

/// A server with the four tools of the earlier background-process-manager: texts, JSON-RPC errors, no cursor.
#[derive(Clone)]
struct Old {
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
    restarts: Arc<AtomicUsize>,
    /// A restart ends when this is set.
    built: Arc<AtomicBool>,
}

impl Old {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let old = Self {
            port: listener.local_addr().unwrap().port(),
            lines: Arc::new(Mutex::new(
                (1..=3).map(|n| format!("old line {n}")).collect(),
            )),
            restarts: Arc::default(),
            built: Arc::default(),
        };
        let server = old.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        old
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().ok()?;
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let request: Value = serde_json::from_slice(&body).ok()?;
            let args = &request["params"]["arguments"];
            let tools = ["search_logs", "search_build_log", "restart", "get_status"];
            let text = match (
                request["method"].as_str()?,
                request["params"]["name"].as_str(),
            ) {
                ("tools/list", _) => {
                    let list: Vec<Value> = tools.iter().map(|name| json!({"name": name})).collect();
                    answer(
                        &mut reader,
                        json!({"jsonrpc": "2.0", "id": request["id"], "result": {"tools": list}}),
                    )?;
                    continue;
                }
                (_, Some("get_status")) => format!(
                    "Mode: Dev\nTime until release mode: 2 hours 58 minutes\n\nProcesses:\n\n  web: running\n    Uptime: 0 hours 3 \
                     minutes\n    Recent events:\n      - Started\n    Crash count: {}\n\n  api: crashed\n",
                    self.restarts.load(Ordering::Relaxed)
                ),
                (_, Some("search_logs")) if args["process"] == "web" => {
                    self.lines.lock().unwrap().join("\n")
                }
                (_, Some("restart")) => {
                    eventually(|| {
                        let built = self.built.load(Ordering::Relaxed);
                        built.then_some(()).ok_or("it builds".into())
                    });
                    self.restarts.fetch_add(1, Ordering::Relaxed);
                    "Process 'web' restarted successfully in dev mode".into()
                }
                (_, Some("search_build_log")) => "(empty)".into(),
                (_, Some(_)) => "Log instance -1 not found (have 0 instances)".into(),
                (method, None) => {
                    let error =
                        json!({"code": -32601, "message": format!("Method not found: {method}")});
                    answer(
                        &mut reader,
                        json!({"jsonrpc": "2.0", "id": request["id"], "error": error}),
                    )?;
                    continue;
                }
            };
            let result = json!({"content": [{"type": "text", "text": text}]});
            answer(
                &mut reader,
                json!({"jsonrpc": "2.0", "id": request["id"], "result": result}),
            )?;
        }
    }
}

fn answer(reader: &mut BufReader<TcpStream>, message: Value) -> Option<()> {
    let body = message.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    reader.get_mut().write_all((head + &body).as_bytes()).ok()
}

#[test]
fn an_earlier_server_with_four_tools_works() {
    if !is_there() {
        return;
    }
    let old = Old::new();
    let project = Project::empty();
    let tmux = Tmux::new(&project, 80, 24);
    tmux.line(&format!("{} http://localhost:{}/mcp", bpm_tui(), old.port));
    tmux.sees(&[
        "● live",
        "dev, release in 2h58m",
        "2: 1▶ 1✗",
        "looking keeps this server",
        "✗ api",
    ]);
    tmux.keys(&["j"])
        .sees(&["Process Details: web", "up 0h03m", "Started", "old line 3"]);
    old.lines.lock().unwrap().push("a new line".into());
    tmux.sees(&["a new line"]);
    let screen = tmux.screen();
    assert_eq!(screen.matches("old line 3").count(), 1, "{screen}");
    for key in ["s", "w", "e", "R", "u", "S"] {
        tmux.keys(&[key]).sees(&["this server can't"]);
        tmux.keys(&["?"]).sees(&["the run before"]);
        tmux.keys(&["Escape"])
            .misses(&["the run before", "this server can't"]);
    }
    // It takes as long as it takes, and nothing stands still meanwhile.
    tmux.keys(&["r"]).sees(&["web: restart asked"]);
    old.lines.lock().unwrap().push("while it builds".into());
    tmux.sees(&["while it builds"]);
    assert_eq!(old.restarts.load(Ordering::Relaxed), 0);
    old.built.store(true, Ordering::Relaxed);
    tmux.sees(&["Process 'web' restart", "crashes 1"]);
    tmux.keys(&["q"])
        .sees(&["1 running, 1 failed; the server runs on"]);
}
