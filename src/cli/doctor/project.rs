//! Checks of the project: tools, `.envrc`, ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use crate::base::table::Set;
use crate::config::{Command, Kind, Listen, Port, PortWish, Process, Toggle, parse_listen, shell};
use crate::os::{host, proc, run};

use super::Doctor;
use crate::cli::is_executable;

/// Programs that are asked for their version, since one that is there need not start: rustup's cargo without a
/// toolchain, a script whose interpreter is gone.
const ASKED: &[&str] = &[
    "cargo", "npm", "npx", "node", "pnpm", "yarn", "bun", "deno", "uv", "poetry", "pdm", "python",
    "python3", "ruby", "bundle", "php", "just", "direnv",
];
/// Longer than any of them takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// A version manager must not fetch anything for this.
const OFFLINE: [(&str, &str); 3] = [
    ("COREPACK_ENABLE_NETWORK", "0"),
    ("RUSTUP_AUTO_INSTALL", "0"),
    ("NO_UPDATE_NOTIFIER", "1"),
];

pub(super) fn look(doctor: &mut Doctor) {
    tools(doctor);
    envrc(doctor);
    ports(doctor);
}

/// The first words of all that a process runs.
fn programs(process: &Process) -> Vec<String> {
    let first = |command: &Option<Command>| match command {
        Some(Command::List(words)) => words.first().cloned(),
        Some(Command::Shell(line)) => shell::words(line).into_iter().next(),
        None => None,
    };
    let mut all = Vec::new();
    if process.kind == Kind::Rust {
        all.push("cargo".to_string());
    } else {
        all.extend(first(&process.command));
    }
    all.extend(first(&process.build));
    all.extend(first(&process.build_release));
    all.retain(|program| !program.contains('$'));
    all
}

fn tools(doctor: &mut Doctor) {
    let mut seen: Set<String> = Set::default();
    let path = doctor.project.env.get("PATH").unwrap_or_default();
    let path = path.to_string_lossy();
    for process in &doctor.config.processes {
        let own = process.env.iter().rev().find(|(name, _)| name == "PATH");
        let path = match own {
            // Its parts that are to be expanded are in the daemon's.
            Some((_, own)) => format!("{own}:{path}"),
            None => path.to_string(),
        };
        for program in programs(process) {
            if !seen.add(program.clone()) {
                continue;
            }
            let whose = format!("{program} ({})", process.name);
            match find(&program, &process.cwd, &path) {
                None if process.build.is_some() && program.contains('/') => {}
                None if program.contains('/') => {
                    let text = format_args!("{whose} is not there");
                    doctor.problem("tools", text, "build it, or correct the path");
                }
                None => {
                    let fix = "install it, or put its folder into PATH (env.PATH of the process)";
                    doctor.problem("tools", format_args!("{whose} is not in PATH"), fix);
                }
                Some(found) => starts(doctor, &program, &whose, &found),
            }
        }
    }
    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    let text = match names.is_empty() {
        true => "none but the shell".into(),
        false => names.join(", "),
    };
    doctor.ok_unless_said("tools", text);
}

/// The file that would be executed.
fn find(program: &str, cwd: &Path, path: &str) -> Option<String> {
    if program.contains('/') {
        let path = cwd.join(program);
        return is_executable(&path).then(|| path.display().to_string());
    }
    let folders = path.split(':').filter(|folder| !folder.is_empty());
    let mut paths = folders.map(|folder| Path::new(folder).join(program));
    let found = paths.find(|path| is_executable(path))?;
    Some(found.display().to_string())
}

fn starts(doctor: &mut Doctor, program: &str, whose: &str, path: &str) {
    let name = program.rsplit('/').next().unwrap_or(program);
    if !ASKED.contains(&name) {
        return;
    }
    let mut env = doctor.project.env.0.clone();
    env.extend(OFFLINE.map(|(name, value)| (name.into(), value.into())));
    // Elsewhere: in the project a version manager may fetch what the project asks for.
    let said = run::run(path, &["--version"], &env, Path::new("/"), PATIENCE);
    let why = match said {
        Ok(said) if said.code == Some(0) => return,
        Ok(said) => {
            let mut lines = said.err.lines().chain(said.out.lines());
            let line = lines.find(|line| !line.trim().is_empty());
            line.unwrap_or("\"--version\" fails").trim().to_string()
        }
        Err(why) => why,
    };
    let fix = format_args!("\"{name} --version\" shows it; install it again");
    doctor.problem("tools", format_args!("{whose} does not start: {why}"), fix);
}

/// direnv loads only what was allowed.
fn envrc(doctor: &mut Doctor) {
    let project = doctor.project;
    if doctor.config.direnv == Toggle::Off || !project.root.join(".envrc").exists() {
        return;
    }
    let (env, root) = (&project.env.0, &project.root);
    let Ok(said) = run::run("direnv", &["status"], env, root, PATIENCE) else {
        let text = "direnv is not in PATH, and the project has an .envrc";
        return doctor.problem(".envrc", text, "install direnv, or write direnv = false");
    };
    let mut lines = said.out.lines();
    match lines.find_map(|l| l.trim().strip_prefix("Found RC allowed ")) {
        // 0 is "allowed" since direnv 2.33.
        Some("true" | "0") => doctor.ok(".envrc", "direnv loads it"),
        Some(_) => doctor.problem(".envrc", "direnv does not load it yet", "direnv allow"),
        None => {
            let text = "direnv does not find it";
            doctor.note(".envrc", text, "\"direnv status\" says why");
        }
    }
}

fn ports(doctor: &mut Doctor) {
    let config = doctor.config;
    let mut wanted: Vec<(String, IpAddr, u16)> = Vec::new();
    if let Port::Fixed(port) = config.port {
        wanted.push(("mcp_port".into(), config.bind, port));
    }
    for process in &config.processes {
        if let Some(PortWish::Fixed(port)) = process.port {
            let whose = format!("port of {}", process.name);
            wanted.push((whose.clone(), Ipv4Addr::LOCALHOST.into(), port));
            wanted.push((whose, Ipv6Addr::LOCALHOST.into(), port));
        }
        for address in &process.listen {
            if let Ok(Listen::Tcp(address)) = parse_listen(address) {
                let whose = format!("listen of {}", process.name);
                wanted.push((whose, address.ip(), address.port()));
            }
        }
    }
    let mut said: Set<u16> = Set::default();
    for (whose, ip, port) in &wanted {
        if let Some((pid, command)) = proc::port_holder(*ip, *port)
            && !is_ours(doctor, pid)
            && said.add(*port)
        {
            let text = format_args!("{port} ({whose}) is in use by pid {pid} ({command})");
            doctor.problem("ports", text, format!("kill {pid}, or choose another port"));
        }
    }
    let (first, last) = host::ephemeral_ports().unwrap_or((u16::MAX, u16::MAX));
    for (whose, _, port) in wanted {
        if (first..=last).contains(&port) && !host::is_reserved(port) && said.add(port) {
            let text = format_args!(
                "{port} ({whose}) is one that the kernel gives to whoever asks for any ({first} to {last})"
            );
            let fix = format_args!(
                "choose one below {first}, or sysctl net.ipv4.ip_local_reserved_ports={port}"
            );
            doctor.note("ports", text, fix);
        }
    }
    doctor.ok_unless_said("ports", "free, or ours");
}

/// The daemon's own, or a process that it runs.
fn is_ours(doctor: &Doctor, pid: i32) -> bool {
    let daemon = doctor.daemon.as_ref().map(|d| d.pid);
    let marked = || proc::marker(pid).is_some_and(|m| m.starts_with(&doctor.project.dir.marker()));
    daemon == Some(pid) || marked()
}
