//! The page at `/` and the metrics, over the wire of a real daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::{Project, Response, eventually};

const NAP: &str = "[process.nap]\ncommand = [\"sleep\", \"1000\"]\n";
const BROWSER: (&str, &str) = ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8");

fn get(project: &Project, path: &str, fields: &[(&str, &str)]) -> Response {
    project.http().ask("GET", path, fields, "")
}

fn token(project: &Project, name: &str, text: &str) {
    project.file(name, text);
    std::fs::set_permissions(project.root.join(name), Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn page_is_a_document_for_browsers_and_a_table_for_curl() {
    let mut project = Project::new(NAP);
    project.serve();
    project.running("nap");
    let page = get(&project, "/", &[BROWSER]);
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    for (field, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.header(field), Some(value), "{field}");
    }
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(
        policy.ends_with("form-action 'none'; frame-ancestors 'none'"),
        "{policy}"
    );
    assert!(
        page.body.contains("<tr data-p=\"nap\" data-up>"),
        "{page:?}"
    );
    // Its script asks for the part that changes.
    let part = get(&project, "/", &[BROWSER, ("Bpm-Client", "dashboard")]);
    assert!(part.body.starts_with("<p id=\"head\""), "{part:?}");
    assert!(part.body.contains("<tr data-p=\"nap\""));
    let table = get(&project, "/", &[("Accept", "*/*")]);
    assert_eq!(
        table.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert!(table.body.starts_with("NAME  STATE"), "{table:?}");
    let url = project.descriptor()["url"].as_str().unwrap();
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        "HEAD / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let post = project.http().ask("POST", "/", &[], "");
    assert_eq!(
        (post.status, post.header("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[test]
fn page_can_be_switched_off() {
    let mut project = Project::new(&format!("dashboard = false\n{NAP}"));
    project.serve();
    assert_eq!(get(&project, "/", &[BROWSER]).status, 404);
    assert_eq!(get(&project, "/metrics", &[]).status, 200);
    project.config(NAP);
    project.cli(["reload"]).exits(0);
    assert_eq!(get(&project, "/", &[BROWSER]).status, 200);
}

#[test]
fn page_is_refused_to_other_sites_but_for_a_link() {
    let mut project = Project::new(NAP);
    project.serve();
    let site = ("Sec-Fetch-Site", "same-site");
    let link = [
        site,
        BROWSER,
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
    ];
    assert_eq!(get(&project, "/", &link).status, 200);
    let mut frame = link;
    frame[3] = ("Sec-Fetch-Dest", "iframe");
    assert_eq!(get(&project, "/", &frame).status, 403);
    for path in ["/", "/metrics", "/healthz", "/mcp"] {
        assert_eq!(get(&project, path, &[site]).status, 403, "{path}");
        let origin = [site, ("Origin", "http://localhost:5173")];
        assert_eq!(get(&project, path, &origin).status, 403, "{path}");
    }
    let own = [("Sec-Fetch-Site", "same-origin"), BROWSER];
    assert_eq!(get(&project, "/", &own).status, 200);
}

#[test]
fn page_without_its_token_has_no_datum() {
    let mut project = Project::new(&format!("token_file = \"token\"\n{NAP}"));
    token(&project, "token", "secret");
    project.serve();
    let page = get(&project, "/", &[BROWSER]);
    assert_eq!(page.status, 401);
    assert_eq!(page.header("www-authenticate"), Some("Bearer"));
    assert!(page.header("content-security-policy").is_some());
    assert!(page.body.contains("data-locked") && page.body.contains("<script>"));
    assert!(
        !page.body.contains("nap") && !page.body.contains("shop"),
        "{page:?}"
    );
    let curl = get(&project, "/", &[]);
    assert!(curl.status == 401 && curl.body.starts_with('{'), "{curl:?}");
    let bearer = ("Authorization", "Bearer secret");
    assert!(
        get(&project, "/", &[BROWSER, bearer])
            .body
            .contains("data-p=\"nap\"")
    );
    let log = project.state_folder().unwrap().join("daemon.log");
    assert!(!std::fs::read_to_string(log).unwrap().contains("secret"));
}

/// The page as a browser has it once its script has run; None: there is no browser that draws here.
fn browsed(project: &Project, url: &str) -> Option<String> {
    let output = Command::new("timeout")
        .args([
            "60",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
        ])
        .arg(format!(
            "--user-data-dir={}",
            project.root.join("browser").display()
        ))
        .args(["--virtual-time-budget=2000", "--dump-dom", url])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    page.contains("</html>").then_some(page)
}

#[test]
fn page_in_a_browser_takes_its_token_and_runs_nothing_else() {
    let bad = "[process.bad]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n\
               build = \"echo 'src/a.c:3:5: error: <script>document.title=1</script>' >&2; exit 1\"\n";
    let mut project = Project::new(&format!("token_file = \"token\"\n{NAP}{bad}"));
    // No browser would put it into an address like that; a person does.
    token(&project, "token", "100%");
    project.serve();
    project.cli(["start", "bad"]).exits(1);
    let url = project.descriptor()["url"]
        .as_str()
        .unwrap()
        .replace("/mcp", "/");
    let Some(locked) = browsed(&project, &url) else {
        return println!("skipped: no chromium that draws here");
    };
    assert!(
        locked.contains("data-locked") && !locked.contains("nap"),
        "{locked}"
    );
    assert!(
        locked.contains("\"bpm dash\" prints the address"),
        "{locked}"
    );
    let page = eventually(|| {
        let page = browsed(&project, &format!("{url}#token=100%")).ok_or("no page")?;
        let drawn = page.contains("data-p=\"nap\"");
        drawn.then_some(page.clone()).ok_or(page)
    });
    assert!(page.contains("<body class=\"live\">"), "{page}");
    assert!(page.contains("shop - bpm</title>"), "{page}");
    assert!(
        page.contains("&lt;script&gt;document.title=1&lt;/script&gt;"),
        "{page}"
    );
}

#[test]
fn metrics_token_opens_nothing_else() {
    let keys = "token_file = \"token\"\nmetrics_token_file = \"metrics\"\n";
    let mut project = Project::new(&format!("{keys}{NAP}"));
    token(&project, "token", "secret");
    token(&project, "metrics", "scrape\n");
    project.serve();
    let (all, metrics) = (
        ("Authorization", "Bearer secret"),
        ("Authorization", "Bearer scrape"),
    );
    assert_eq!(get(&project, "/metrics", &[]).status, 401);
    for shown in [all, metrics] {
        assert_eq!(get(&project, "/metrics", &[shown]).status, 200);
    }
    for path in ["/", "/readyz", "/mcp"] {
        assert_eq!(get(&project, path, &[metrics]).status, 401, "{path}");
    }
}

#[test]
fn template_is_small() {
    let all = [
        include_str!("../../src/server/page.html"),
        include_str!("../../src/server/page.css"),
        include_str!("../../src/server/page.js"),
    ]
    .concat();
    assert!(all.len() < 20_000, "{}", all.len());
    let mut gzip = Command::new("gzip");
    gzip.arg("-9").stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut gzip) = gzip.spawn() else {
        return eprintln!("skipped: gzip is not there");
    };
    gzip.stdin
        .take()
        .unwrap()
        .write_all(all.as_bytes())
        .unwrap();
    let packed = gzip.wait_with_output().unwrap().stdout.len();
    assert!((1_000..8_000).contains(&packed), "{packed}");
}

/// A scrape: values by series; fails where the text is not of the format.
fn scrape(project: &Project) -> BTreeMap<String, f64> {
    let answer = get(project, "/metrics", &[]);
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let (mut series, mut families) = (BTreeMap::new(), BTreeSet::new());
    let mut family = String::new();
    let mut lines = answer.body.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            assert!(text.ends_with('.'), "{line}");
            let kind = lines.next().unwrap();
            let wanted = if name.ends_with("_total") {
                "counter"
            } else {
                "gauge"
            };
            assert_eq!(kind, format!("# TYPE {name} {wanted}"));
            family = name.to_owned();
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let bare = name.split('{').next().unwrap();
        assert_eq!(bare, family, "{line}");
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite(), "{line}");
        assert!(
            series.insert(name.to_owned(), value).is_none(),
            "{name} comes twice"
        );
    }
    assert!(answer.body.ends_with('\n'));
    series
}

fn of(name: &str, process: &str) -> String {
    format!("bpm_process_{name}{{process=\"{process}\"}}")
}

#[test]
fn metrics_are_those_of_the_table() {
    let config =
        format!("{NAP}[process.job]\ntype = \"task\"\ncommand = \"echo one; echo two; exit 3\"\n");
    let mut project = Project::new(&config);
    project.serve();
    project.running("nap");
    project.status_when("job", |p| p["state"] == "failed");
    project.call("get_status", json!({})).ok();
    project.call("restart", json!({"process": "nope"})).error();
    let first = scrape(&project);
    let is = |name: &str, process: &str| first.get(&of(name, process)).copied();
    assert_eq!((is("up", "nap"), is("up", "job")), (Some(1.0), Some(0.0)));
    assert_eq!((is("ready", "nap"), is("ready", "job")), (Some(1.0), None));
    assert_eq!(
        (is("healthy", "nap"), is("dev_mode", "nap")),
        (None, Some(0.0))
    );
    assert_eq!(
        (is("last_exit_code", "nap"), is("last_exit_code", "job")),
        (None, Some(3.0))
    );
    assert_eq!(is("log_lines_total", "job"), Some(2.0));
    assert_eq!(is("log_bytes_total", "job"), Some(8.0));
    assert_eq!(is("next_start_timestamp_seconds", "nap"), None);
    assert!(is("resident_memory_bytes", "nap") > Some(0.0) && is("threads", "nap") == Some(1.0));
    assert!(
        is("resident_memory_bytes", "job").is_none() && is("cpu_seconds_total", "job").is_some()
    );
    assert_eq!(is("build_errors", "nap"), None);
    for process in ["nap", "job"] {
        let states = first.iter().filter(|(name, _)| {
            name.starts_with(&format!("bpm_process_state{{process=\"{process}\""))
        });
        assert_eq!(states.clone().count(), 9);
        assert_eq!(states.map(|(_, value)| value).sum::<f64>(), 1.0);
        let own = first
            .keys()
            .filter(|name| name.contains(&format!("process=\"{process}\"")));
        assert!(own.count() <= 37);
    }
    let daemon = first.keys().filter(|name| !name.contains("process=\""));
    assert!(daemon.count() <= 30);
    let calls = |tool: &str, result: &str| {
        first[&format!("bpm_tool_calls_total{{tool=\"{tool}\",result=\"{result}\"}}")]
    };
    assert!(calls("get_status", "ok") >= 1.0);
    assert_eq!((calls("restart", "error"), calls("stop", "ok")), (1.0, 0.0));
    assert_eq!(
        first["bpm_process_info{process=\"job\",type=\"task\"}"],
        1.0
    );
    assert!(first["process_open_fds"] > 3.0 && first["process_max_fds"] > 3.0);
    assert!(first["bpm_connections"] >= 1.0);
    let started = first["process_start_time_seconds"];
    assert!((1.7e9..4e9).contains(&started), "{started}");

    // Over restarts no series comes, and no counter goes back.
    let mut before = first;
    for _ in 0..20 {
        project
            .call("restart", json!({"process": "nap", "mode": "release"}))
            .ok();
        let now = scrape(&project);
        for (name, value) in &before {
            if name.contains("_total") {
                assert!(now[name] >= *value, "{name}: {} after {value}", now[name]);
            }
        }
        let new: Vec<_> = now
            .keys()
            .filter(|name| !before.contains_key(*name))
            .collect();
        let exits = ["last_exit_code", "last_exit_timestamp_seconds"].map(|name| of(name, "nap"));
        assert!(new.iter().all(|name| exits.contains(name)), "{new:?}");
        before = now;
    }
    assert_eq!(before[&of("restarts_total", "nap")], 20.0);
    assert_eq!(before[&of("last_exit_code", "nap")], 128.0 + 15.0);
}

#[test]
fn metrics_outlive_restarts_and_an_upgrade() {
    let config = format!(
        "{NAP}[process.job]\ntype = \"task\"\ncommand = \"echo one; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 3\"\n\
         [process.bad]\ncommand = [\"sleep\", \"1000\"]\nbuild = \"exit 1\"\nautostart = false\n"
    );
    let mut project = Project::new(&config);
    project.serve();
    project.running("nap");
    project.status_when("job", |p| p["state"] == "failed");
    project.call("start", json!({"process": "bad"})).error();
    project.call("get_status", json!({})).ok();
    let release = json!({"process": "nap", "mode": "release"});
    project.call("restart", release.clone()).ok();
    let before = scrape(&project);
    for _ in 1..10 {
        project.call("restart", release.clone()).ok();
    }
    let mut after = scrape(&project);
    assert_eq!(after[&of("restarts_total", "nap")], 10.0);
    // What is planned for the one whose build fails comes and goes.
    let planned = of("next_start_timestamp_seconds", "bad");
    let names = |series: &BTreeMap<String, f64>| -> Vec<String> {
        let lasting = series.keys().filter(|name| **name != planned);
        lasting.cloned().collect()
    };
    assert_eq!(names(&before), names(&after));
    for upgrade in ["one", "two"] {
        project.other_build(upgrade);
        let said = project.cli(["upgrade", "--binary", upgrade]).exits(0).out;
        assert!(said.contains(" as before, 1 process untouched"), "{said}");
        let before = std::mem::replace(&mut after, scrape(&project));
        assert_eq!(names(&before), names(&after));
        for (name, value) in before.iter().filter(|(name, _)| name.contains("_total")) {
            let now = after[name];
            assert!(now >= *value, "{upgrade}: {name}: {now} after {value}");
        }
    }
    for (name, least) in [
        (of("cpu_seconds_total", "job"), 0.001),
        (of("log_bytes_total", "job"), 4.0),
        (
            "bpm_process_builds_total{process=\"bad\",result=\"failed\"}".into(),
            1.0,
        ),
        (
            "bpm_tool_calls_total{tool=\"restart\",result=\"ok\"}".into(),
            10.0,
        ),
        (
            "bpm_tool_calls_total{tool=\"start\",result=\"error\"}".into(),
            1.0,
        ),
    ] {
        assert!(after[&name] >= least, "{name}: {}", after[&name]);
    }
    lint(&get(&project, "/metrics", &[]).body);
}

/// promtool has nothing to say about it; and python's client reads it.
fn lint(text: &str) {
    let python = "import sys; from prometheus_client.parser import text_string_to_metric_families as read\n\
                  assert len(list(read(sys.stdin.read()))) > 30";
    let there = "import prometheus_client";
    for (name, probe, args) in [
        ("promtool", &["--version"][..], &["check", "metrics"][..]),
        ("python3", &["-c", there][..], &["-c", python][..]),
    ] {
        let probed = Command::new(name)
            .args(probe)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !probed.is_ok_and(|status| status.success()) {
            println!("skipped: {name} (with prometheus_client) is not installed");
            continue;
        }
        let mut child = Command::new(name)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success() && said.is_empty(),
            "{name}: {}",
            String::from_utf8_lossy(&said)
        );
    }
}

#[test]
fn a_browser_keeps_no_idle_connection_to_a_page() {
    let mut project = Project::new(NAP);
    project.serve();
    let script = ("Bpm-Client", "dashboard");
    let types = [
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
    ];
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;
    let ends = |method, path, fields: &[(&str, &str)], body| {
        let answer = project.http().ask(method, path, fields, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("connection") == Some("close")
    };
    assert!(ends("GET", "/", &[BROWSER], ""));
    assert!(ends("GET", "/", &[BROWSER, script], ""));
    assert!(ends("POST", "/mcp", &[types[0], types[1], script], ping));
    // Others call again over the same connection.
    assert!(!ends("GET", "/", &[("Accept", "*/*")], ""));
    assert!(!ends("GET", "/metrics", &[], ""));
    assert!(!ends("POST", "/mcp", &types, ping));
}

#[test]
fn scrapes_and_looks_are_no_clients() {
    let mut project = Project::new(NAP);
    project.serve();
    let mut kept = project.http();
    assert_eq!(kept.ask("GET", "/metrics", &[], "").status, 200);
    assert_eq!(kept.ask("GET", "/", &[BROWSER], "").status, 200);
    let status = project.cli(["daemon", "status", "--json"]).exits(0);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["clients"], 0, "{status}");
}

#[test]
fn commands_print_the_url_and_the_metrics() {
    let mut project = Project::new(&format!("token_file = \"token\"\n{NAP}"));
    token(&project, "token", "a b/c\n");
    project.cli(["metrics"]).exits(3);
    project.cli(["dash"]).exits(3);
    project.serve();
    let url = project.descriptor()["url"].as_str().unwrap().to_owned();
    let page = url.replace("/mcp", "/");
    let shown = project.cli(["dash"]).exits(0).out;
    assert_eq!(shown, format!("{page}#token=a%20b%2Fc\n"));
    let metrics = project.cli(["metrics"]).exits(0).out;
    assert!(metrics.starts_with("# HELP bpm_info "), "{metrics}");
    project.config("[process.nap\n");
    let said = project.cli(["dash"]).exits(0);
    assert_eq!(said.out, format!("{page}\n"));
    assert!(said.err.contains("without a token"), "{said:?}");
    project.config(&format!("dashboard = false\n{NAP}"));
    project.cli(["dash"]).exits(1).says(&["dashboard = false"]);
}
