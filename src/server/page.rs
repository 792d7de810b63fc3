//! Pure: no system call, no thread, no clock.
//!
//! The page at `/`: one document without another file. The daemon draws what it shows, so it is complete
//! without a script; the script fetches that part again, and swaps what has changed.

use std::fmt::Write;

use serde_json::Value;

use crate::base::escape::escaped;
use crate::base::json::{items, strings};
use crate::server::render;

const DOCUMENT: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The `Content-Type`.
pub const HTML: &str = "text/html; charset=utf-8";
/// The script sends it as `Bpm-Client`.
pub const CLIENT: &[u8] = b"dashboard";

/// Nothing is loaded, framed or submitted, and no other script runs: a test computes the hashes.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-9jhzLXwNBPyvo+vX5+8bGNv1STT43YQQxirJ2pmcqbU='; \
    style-src 'sha256-3gQb7DdTlX8IwjYmTCQETZUkyH992s9sthrTJc6DpHs='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The fields of an answer with the page.
pub const HEADERS: &[(&str, &str)] = &[
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
];

/// The same where a token is missing.
pub const LOCKED_HEADERS: &[(&str, &str)] = &[
    ("WWW-Authenticate", "Bearer"),
    HEADERS[0],
    HEADERS[1],
    HEADERS[2],
    HEADERS[3],
    HEADERS[4],
    HEADERS[5],
];

/// How many events are shown.
const EVENTS: usize = 20;

/// The document with the data of `bpm/page`.
pub fn document(data: &Value) -> String {
    let project = text(&data["project"]);
    fill(&title(data), &escape(project), &part(data), false)
}

/// The document without any data, which asks for the token.
pub fn locked() -> String {
    fill("bpm", "bpm", "<p>This page needs the token.</p>", true)
}

fn fill(title: &str, project: &str, part: &str, locked: bool) -> String {
    let mut page = String::with_capacity(DOCUMENT.len() + STYLE.len() + SCRIPT.len() + part.len());
    let mut rest = DOCUMENT;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(match name {
            "title" => title,
            "project" => project,
            "part" => part,
            "style" => STYLE,
            "script" => SCRIPT,
            "locked" if locked => " data-locked",
            "ask" if !locked => " hidden",
            _ => "",
        });
        rest = after;
    }
    page + rest
}

/// The part that changes: the state of the project, its faults, the table, the newest events.
pub fn part(data: &Value) -> String {
    let processes = data["processes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut out = String::new();
    // Writing into a String can't fail.
    let _ = write!(
        out,
        "<p id=\"head\" data-title=\"{}\" data-project=\"{}\">{}</p>\n<section id=\"wrong\">",
        title(data),
        escape(text(&data["project"])),
        head(data)
    );
    let of_bpm: Vec<String> = strings(&data["warnings"])
        .map(|warning| format!("bpm: {warning}"))
        .collect();
    let (what, class) = match (of_bpm.len(), count_wrong(processes)) {
        (0, 0) => ("Under way", ""),
        (_, _) => ("What is wrong", " class=\"is\""),
    };
    let mut notes = of_bpm;
    notes.extend(render::troubles(processes));
    if !notes.is_empty() {
        let _ = write!(out, "<h2>{what}</h2><ul{class}>");
        for note in notes {
            let _ = write!(out, "<li>{}</li>", escape(&note));
        }
        out.push_str("</ul>");
    }
    out.push_str(
        "</section>\n<h2>Processes</h2>\n<table><thead><tr><th>State</th><th>Name</th><th>Mode</th>\
         <th class=\"n\">PID</th><th class=\"n\">Uptime</th><th class=\"n\">Restarts</th>\
         <th class=\"n\">CPU</th><th class=\"n\">Memory</th><th>Ports</th>\
         <th><span class=\"js\">Actions</span></th></tr></thead><tbody id=\"rows\">\n",
    );
    for process in processes {
        row(&mut out, process);
    }
    out.push_str("</tbody></table>\n<h2>Events</h2>\n<ol id=\"events\">");
    let events = data["events"].as_array().map_or(&[][..], Vec::as_slice);
    for event in events.iter().rev().take(EVENTS) {
        let at = text(&event["time"]);
        let time = at.get(11..19).unwrap_or(at);
        let _ = write!(
            out,
            "<li><time datetime=\"{}\">{}</time> <b>{}</b> <span>{}</span></li>",
            escape(at),
            escape(time),
            escape(event["process"].as_str().unwrap_or("bpm")),
            escape(text(&event["text"]))
        );
    }
    out.push_str("</ol>\n");
    out
}

/// `✗1 shop - bpm`
fn title(data: &Value) -> String {
    let wrong = count_wrong(data["processes"].as_array().map_or(&[][..], Vec::as_slice));
    let mark = match wrong {
        0 => String::new(),
        n => format!("\u{2717}{n} "),
    };
    format!("{mark}{} - bpm", escape(text(&data["project"])))
}

fn count_wrong(processes: &[Value]) -> usize {
    let wrong = |p: &&Value| {
        matches!(text(&p["state"]), "crashed" | "failed")
            || p["build"]["state"] == "failed"
            || p["healthy"] == false
            || p["rolled_back"] == true
            || p["log_trouble"].is_string()
    };
    processes.iter().filter(wrong).count()
}

fn head(data: &Value) -> String {
    let daemon = &data["daemon"];
    let mut head = format!("{} mode", escape(text(&data["mode"])));
    if data["release_in_seconds"].is_number() {
        let span = render::span(&data["release_in_seconds"]);
        let _ = write!(head, ", release in {span}");
    }
    let _ = write!(
        head,
        "; bpm {}, pid {}, up {}",
        escape(text(&daemon["version"])),
        daemon["pid"].as_i64().unwrap_or_default(),
        render::span(&daemon["uptime_seconds"])
    );
    if let Some(bytes) = daemon["rss_bytes"].as_u64() {
        let _ = write!(head, ", {}", render::size(bytes));
    }
    head
}

fn row(out: &mut String, p: &Value) {
    let (name, state) = (escape(text(&p["name"])), text(&p["state"]));
    let up = p["wanted"] == true && !matches!(state, "failed" | "done" | "crashed");
    let (mark, class) = mark(p, state);
    let _ = write!(
        out,
        "<tr data-p=\"{name}\"{}><td><span class=\"{class}\"><span aria-hidden=\"true\">{mark}</span> {}</span></td>\
         <td><b>{name}</b>{}</td>",
        if up { " data-up" } else { "" },
        escape(&words(p, state)),
        flags(p),
    );
    let number = |value: &Value| value.as_i64().map_or("-".into(), |n| n.to_string());
    cell(out, "mode", "", &escape(text(&p["mode"])));
    cell(out, "pid", "n", &number(&p["pid"]));
    cell(out, "up", "n", &render::span(&p["uptime_seconds"]));
    cell(out, "restarts", "n", &number(&p["restarts"]));
    let cpu = p["cpu_percent"].as_f64();
    let percent = cpu.map_or("-".into(), |c| format!("{c:.1}%"));
    figure(out, "cpu", cpu, &percent);
    let memory = p["rss_bytes"].as_u64();
    let size = memory.map_or("-".into(), render::size);
    figure(out, "mem", memory, &size);
    cell(out, "ports", "", &ports(p));
    let other = if up { "stop" } else { "start" };
    let _ = writeln!(
        out,
        "<td><span class=\"js\"><button data-do=\"restart\" data-p=\"{name}\" aria-label=\"restart {name}\">restart</button>\
         <button data-do=\"{other}\" data-p=\"{name}\" aria-label=\"{other} {name}\">{other}</button></span></td></tr>"
    );
}

/// A cell of the table; one without a value is left out where there is little room.
fn cell(out: &mut String, key: &str, class: &str, html: &str) {
    let missing = if html == "-" { " no" } else { "" };
    let _ = write!(
        out,
        "<td class=\"{class}{missing}\" data-k=\"{key}\">{html}</td>"
    );
}

/// A cell whose last values the script draws as a line.
fn figure(out: &mut String, key: &str, value: Option<impl ToString>, shown: &str) {
    let missing = if value.is_none() { " no" } else { "" };
    let value = value.map_or(String::new(), |value| value.to_string());
    let _ = write!(
        out,
        "<td class=\"n{missing}\" data-k=\"{key}\"><span data-{key}=\"{value}\">{shown}</span></td>"
    );
}

fn mark(p: &Value, state: &str) -> (&'static str, &'static str) {
    match state {
        "running" if p["ready"] == false || p["healthy"] == false => ("\u{25b6}", "busy"),
        "running" => ("\u{25b6}", "good"),
        "crashed" | "failed" => ("\u{2717}", "bad"),
        "stopped" | "done" => ("\u{25a0}", "off"),
        _ => ("\u{25cc}", "busy"),
    }
}

fn words(p: &Value, state: &str) -> String {
    let more = match state {
        "running" if p["ready"] == false => ", not ready",
        "running" if p["healthy"] == false => ", unhealthy",
        _ => "",
    };
    format!("{state}{more}")
}

fn flags(p: &Value) -> String {
    let mut flags = String::new();
    if p["stale"] == true {
        flags.push_str(" <span class=\"busy\">* stale</span>");
    }
    if p["rolled_back"] == true {
        flags.push_str(" <span class=\"busy\">\u{2039} rolled back</span>");
    }
    flags
}

/// Links to where it listens; the host is that of its own URL.
fn ports(p: &Value) -> String {
    let url = text(&p["url"]);
    let host = url.strip_prefix("http://").unwrap_or_default();
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => escape(host),
        _ => "127.0.0.1".into(),
    };
    let links: Vec<String> = items(&p["ports"])
        .filter_map(Value::as_u64)
        .map(|port| format!("<a href=\"http://{host}:{port}\" rel=\"noreferrer\">{port}</a>"))
        .collect();
    if links.is_empty() {
        return "-".into();
    }
    links.join(" ")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Text as HTML, in content and in quoted attributes. What steers a terminal or turns the direction of text
/// is shown instead of obeyed.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in escaped(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
