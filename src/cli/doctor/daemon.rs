//! The daemon: another one, an older one, one that is gone and left its processes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::base::clock::{Mono, Wall};
use crate::base::json::{object, strings};
use crate::base::paths::CONFIG_FILE;
use crate::cli::{install, pid_behind};
use crate::client::connection::{PATIENCE, VERSION};
use crate::client::verdict::{Verdict, hidden, judge};
use crate::os::lock::{self, Lock};
use crate::os::{host, peer, proc};

use super::Doctor;

/// A clock that is off by less disturbs nobody.
const SLACK: i64 = 60 * 1_000;
/// 2025-01-01: no bpm of this kind is older.
const EARLIEST: i64 = 1_735_689_600 * 1_000;

pub(super) fn look(doctor: &mut Doctor) {
    let project = doctor.project;
    match judge(&project.dir, "cli") {
        Ok(Verdict::Running(descriptor, mut client)) => {
            doctor.ok("daemon", format_args!("runs, pid {}", descriptor.pid));
            let until = Some(Mono::now().after(PATIENCE));
            let status = client.call("bpm/status", object([]), until);
            for warning in strings(&status.unwrap_or_default()["warnings"]) {
                doctor.problem("daemon", warning, "\"bpm daemon logs\" says since when");
            }
            doctor.daemon = Some(descriptor);
            age(doctor);
        }
        Ok(Verdict::Unhealthy(descriptor)) => {
            let pid = pid_behind(descriptor.as_ref());
            let fix = "\"bpm stop --force\" ends it, \"bpm -d\" starts another";
            doctor.problem("daemon", format_args!("it does not answer{pid}"), fix);
        }
        Ok(Verdict::Stale(descriptor)) => {
            let text = format_args!("the one with pid {} was killed", descriptor.pid);
            doctor.note("daemon", text, "\"bpm -d\" starts another");
            another(doctor);
            left(doctor);
        }
        Ok(Verdict::Stopped) => {
            doctor.ok("daemon", "none runs");
            another(doctor);
            left(doctor);
        }
        // As far as can be told, this daemon holds the project's lock.
        Err(error) => doctor.error("daemon", &error),
    }
    clock(doctor);
    unit(doctor);
}

/// A daemon that runs another binary than this one.
fn age(doctor: &mut Doctor) {
    let Some(daemon) = &doctor.daemon else { return };
    let fix = "\"bpm upgrade\" replaces it and keeps the processes";
    if daemon.version != VERSION {
        let text = format!("it is version {}, this bpm is {VERSION}", daemon.version);
        return doctor.note("version", text, fix);
    }
    let ours = std::process::id() as i32;
    let deleted = fs::read_link(format!("/proc/{}/exe", daemon.pid))
        .is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"));
    if deleted && host::image(daemon.pid) != host::image(ours) {
        let text = "the daemon's binary was replaced since it started";
        return doctor.note("version", text, fix);
    }
    doctor.ok("version", format_args!("daemon and command are {VERSION}"));
}

/// A bpm of this project under another BPM_HOME or user.
fn another(doctor: &mut Doctor) {
    let root = &doctor.project.root;
    if !matches!(Lock::probe(root), Ok(true)) {
        return;
    }
    let Some(pid) = lock::holder(root) else {
        let text = "another bpm, which can't be seen from here, runs this project";
        return doctor.problem("other daemon", text, "stop it where it was started");
    };
    let user = proc::owner(pid).map(peer::user_name).unwrap_or_default();
    let home = proc::variable(pid, "BPM_HOME");
    let home = home.map(|home| String::from_utf8_lossy(&home).into_owned());
    let text = match &home {
        Some(home) => format!("pid {pid} of {user} has this project, with BPM_HOME={home}"),
        None => format!("pid {pid} of {user} has this project"),
    };
    let fix = match home {
        Some(home) => format!("BPM_HOME={home} bpm stop, as {user}"),
        None => format!("\"bpm stop\" as {user}, without BPM_HOME"),
    };
    doctor.problem("other daemon", text, fix);
}

/// Processes whose daemon is gone.
fn left(doctor: &mut Doctor) {
    if let Some(daemon) = hidden(&doctor.project.dir, &doctor.project.root) {
        let text = format_args!("pid {} runs it, and its files are gone", daemon.pid);
        return doctor.problem("daemon", text, "\"bpm stop\" ends it");
    }
    let found = proc::find_marked(&doctor.project.dir.marker());
    if found.is_empty() {
        return;
    }
    let mut text = format!("{} of this project have no daemon:", found.len());
    for (number, process) in found.iter().take(5).enumerate() {
        let comma = if number > 0 { "," } else { "" };
        let program = proc::program(process.pid).unwrap_or_default();
        text.push_str(&format!("{comma} pid {} {program}", process.pid));
    }
    let fix = "\"bpm up\" takes them over, \"bpm stop\" ends them";
    doctor.problem("left processes", text, fix);
}

/// Times in bpm's files that are still to come, or a clock that was never set.
fn clock(doctor: &mut Doctor) {
    let now = Wall::now();
    if now.0 < EARLIEST {
        let text = format_args!("it says {}", now.rfc3339());
        let fix = "set it: \"timedatectl set-ntp true\", or date(1)";
        return doctor.problem("clock", text, fix);
    }
    let dir = &doctor.project.dir;
    let config = doctor.project.root.join(CONFIG_FILE);
    for path in [dir.state(), dir.log(), config] {
        let Ok(file) = fs::metadata(&path) else {
            continue;
        };
        let changed = file.mtime().saturating_mul(1_000);
        if changed > now.0.saturating_add(SLACK) {
            let text = format_args!(
                "{:?} was changed in the future: the clock was set back",
                path.display().to_string()
            );
            let fix = "\"timedatectl\" tells whether it is right; \"touch\" sets the file's time";
            return doctor.problem("clock", text, fix);
        }
    }
    doctor.ok("clock", now.rfc3339());
}

/// A unit of the user ends with the last session, unless they linger.
fn unit(doctor: &mut Doctor) {
    if let Some(path) = install::unit_of_user(doctor.project) {
        let path = path.display();
        if install::lingers() {
            return doctor.ok("unit", path);
        }
        let text = format_args!("{path} ends when you log out");
        doctor.note("unit", text, "loginctl enable-linger");
    }
}
