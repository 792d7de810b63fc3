//! A bpm that may not do everything says that, and nothing about the daemon.

use std::process::Stdio;

use crate::common::sandbox::Refusal;
use crate::common::{Ended, Project, bpm};

const NAP: &str = "[process.nap]\ncommand = [\"FIXTURE\", \"nap\"]\n";

fn refused(project: &Project, refusal: Refusal, args: &[&str]) -> Ended {
    let mut command = project.command(bpm());
    command.args(args).stdin(Stdio::null());
    Ended::new(refusal.to(&mut command).output().unwrap())
}

#[test]
fn each_error_of_our_own_is_no_verdict() {
    let project = Project::new(NAP);
    project.cli(["-d"]).exits(0);
    for (error, why) in [
        (libc::EACCES, "permission denied (a sandbox?)"),
        (libc::EMFILE, "too many open files"),
        (libc::ENFILE, "too many open files in system"),
        (libc::ENOMEM, "cannot allocate memory"),
    ] {
        for call in [libc::SYS_socket, libc::SYS_connect] {
            let refusal = Refusal::of(call).with(error);
            for args in [&["status"][..], &["stop", "--force"], &["-d", "--replace"]] {
                let ended = refused(&project, refusal, args).exits(1);
                let said = format!("{}{}", ended.out, ended.err);
                let why = format!("cannot ask the daemon: {why}");
                assert!(said.contains(&why), "{args:?}: {said}");
                for wrong in ["unhealthy", "--force\"", "--replace"] {
                    assert!(!said.contains(wrong), "{args:?}: {said}");
                }
            }
        }
    }
    project.cli(["status"]).exits(0);
    project.cli(["stop"]).exits(0);
}

#[test]
fn start_without_tcp_serves_on_the_socket_alone() {
    let project = Project::new(NAP);
    let family = libc::AF_INET as u32;
    let no_tcp = Refusal::of(libc::SYS_socket).where_argument(0, u32::MAX, family);
    refused(&project, no_tcp, &["up"]).exits(0);
    let status = project.cli(["daemon", "status", "--json"]).exits(0).out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["url"], serde_json::Value::Null);
    let log = project.cli(["daemon", "logs"]).exits(0).out;
    let why = "no TCP, the Unix socket only: cannot listen on 127.0.0.1: operation not permitted";
    assert!(log.contains(why), "{log}");
    project.cli(["stop"]).exits(0);
}
