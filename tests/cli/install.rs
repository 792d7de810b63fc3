//! `bpm install`: the unit that it prints. Whether a systemd runs it is `.ci/export`'s to tell.

use std::fs;
use std::process::Command;

use crate::common::{Project, bpm};

fn project() -> Project {
    let mut project =
        Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\nstop_timeout_seconds = 40\n");
    // Of whatever manager runs here nothing is touched.
    let nowhere = project.root.join("run");
    project.env("XDG_RUNTIME_DIR", &nowhere);
    project.env("XDG_CONFIG_HOME", &nowhere);
    project
}

#[test]
fn the_unit_uses_what_bpm_does() {
    let project = project();
    let unit = project.cli(["install", "--dry-run"]).exits(0).out;
    let (bpm, root) = (bpm().display().to_string(), project.root.display());
    for line in [
        "Type=notify",
        &format!("ExecStart={bpm} serve {root}"),
        &format!("ExecReload={bpm} -C {root} reload"),
        "Restart=on-failure",
        "KillMode=process",
        "TimeoutStopSec=56",
        "WatchdogSec=60",
        "FileDescriptorStoreMax=1024",
        "OOMPolicy=continue",
        "Delegate=yes",
        &format!("Environment=BPM_HOME={}", project.home().display()),
    ] {
        assert!(unit.lines().any(|l| l == line), "no {line} in\n{unit}");
    }
    let exported = project.cli(["export", "systemd", "--self"]).exits(0).out;
    assert!(
        exported.contains("WantedBy=multi-user.target"),
        "{exported}"
    );
    let folder = project.root.join("units");
    project
        .cli([
            "export",
            "systemd",
            "--self",
            "-o",
            folder.to_str().unwrap(),
        ])
        .exits(0);
    let file = folder.join("bpm-shop.service");
    assert!(file.exists());
    if let Ok(said) = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&file)
        .output()
    {
        assert_eq!(String::from_utf8_lossy(&said.stderr), "");
    }
}

#[test]
fn a_unit_waits_for_all_levels_of_a_stop() {
    let nap = "command = \"x\"\nstop_timeout_seconds = 100\n";
    let project = Project::new(&format!(
        "[process.c]\n{nap}depends_on = [\"b\"]\n[process.b]\n{nap}depends_on = [\"a\"]\n\
         [process.a]\n{nap}[process.d]\n{nap}"
    ));
    let unit = project.cli(["install", "--dry-run"]).exits(0).out;
    assert!(unit.contains("\nTimeoutStopSec=316\n"), "{unit}");
}

#[test]
fn without_systemd_it_says_what_else_would_do() {
    if fs::exists("/run/systemd/private").unwrap() {
        return;
    }
    let project = project();
    let said = project.cli(["install"]).exits(1);
    let root = project.root.display();
    for part in [
        "# runit: /etc/sv/bpm-shop/run\n#!/bin/sh\n",
        &format!(" serve {root}\n"),
        "\nexec 2>&1\nPATH=",
        &format!(" BPM_HOME={} ", project.home().display()),
        "@reboot PATH=",
    ] {
        assert!(said.out.contains(part), "no {part} in {said:?}");
    }
    said.says(&["bpm: cannot install: no systemd runs here", "hint: "]);
    let said = project.cli(["uninstall"]).exits(0);
    assert_eq!(said.out, "it is not installed\n");
}

#[test]
fn only_root_installs_for_others_and_only_for_those_there_are() {
    let project = project();
    let said = project
        .cli(["install", "--dry-run", "--user", "no-such-user"])
        .exits(1);
    if nix::unistd::geteuid().is_root() {
        said.says(&[
            "cannot install for \"no-such-user\": there is no such user",
            "hint: ",
        ]);
        let unit = project
            .cli(["install", "--dry-run", "--user", "nobody"])
            .exits(0)
            .out;
        assert!(unit.contains("\nUser=nobody\n"), "{unit}");
        assert!(!unit.contains("BPM_HOME"), "{unit}");
    } else {
        said.says(&["only root may", "hint: "]);
    }
}
