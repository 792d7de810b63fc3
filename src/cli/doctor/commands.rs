//! Commands of which it is known that they do not stay, or say nothing, under a supervisor.

use serde_json::Value;

use crate::base::json;
use crate::config::{Command, Process};
use crate::os::files;

use super::Doctor;

/// A program, and words of its command line.
struct Habit {
    program: &'static str,
    /// It is so when one of these is there; empty: always.
    with: &'static [&'static str],
    /// It is not so when one of these is there.
    without: &'static [&'static str],
    fix: &'static str,
}

const fn habit(
    program: &'static str,
    with: &'static [&'static str],
    without: &'static [&'static str],
    fix: &'static str,
) -> Habit {
    Habit {
        program,
        with,
        without,
        fix,
    }
}

/// Programs that put themselves into the background: bpm sees them end.
#[rustfmt::skip]
const DETACH: &[Habit] = &[
    habit("nginx", &[], &["daemon off", "-t", "-T", "-v", "-V"], "add -g \"daemon off;\""),
    habit("redis-server", &["--daemonize yes"], &[], "drop --daemonize"),
    habit("valkey-server", &["--daemonize yes"], &[], "drop --daemonize"),
    habit("docker", &["run -d", "run --detach", "up -d", "up --detach"], &[], "drop -d: docker then stays in front"),
    habit("docker-compose", &["up -d", "up --detach"], &[], "drop -d"),
    habit("podman", &["run -d", "run --detach"], &[], "drop -d"),
    habit("gunicorn", &["-D", "--daemon"], &[], "drop --daemon"),
    habit("uwsgi", &["--daemonize", "--daemonize2"], &[], "drop --daemonize"),
    habit("php-fpm", &[], &["-F", "--nodaemonize", "-t"], "add --nodaemonize"),
    habit("sshd", &[], &["-D", "-t"], "add -D"),
    habit("httpd", &[], &["-DFOREGROUND", "-D FOREGROUND", "-t"], "add -DFOREGROUND"),
    habit("apache2", &[], &["-DFOREGROUND", "-D FOREGROUND", "-t"], "add -DFOREGROUND"),
    habit("apachectl", &[], &["-DFOREGROUND", "-D FOREGROUND"], "add -DFOREGROUND"),
    habit("memcached", &["-d", "--daemon"], &[], "drop -d"),
    habit("haproxy", &["-D"], &[], "replace -D by -W"),
    habit("mongod", &["--fork"], &[], "drop --fork"),
    habit("mysqld", &["--daemonize", "-D"], &[], "drop --daemonize"),
    habit("pg_ctl", &["start"], &[], "run \"postgres -D DIR\" itself"),
    habit("caddy", &["start"], &[], "replace start by run"),
    habit("supervisord", &[], &["-n", "--nodaemon"], "add --nodaemon"),
    habit("pm2", &["start"], &["--no-daemon"], "run the program itself: bpm does what pm2 does"),
    habit("celery", &["multi"], &[], "run \"celery worker\""),
    habit("nohup", &[], &[], "drop nohup: bpm outlives the terminal"),
    habit("setsid", &["--fork", "-f"], &[], "drop setsid"),
    habit("daemonize", &[], &[], "run the program itself"),
    habit("start-stop-daemon", &["--background", "-b"], &[], "run the program itself"),
];

/// Programs that end when their standard input does.
#[rustfmt::skip]
const LEAVE: &[Habit] = &[
    habit("esbuild", &["--watch", "--serve"], &["--watch=forever"], "stdin = \"open\""),
    habit("tailwindcss", &["--watch", "-w"], &["--watch=always"], "stdin = \"open\""),
    habit("@tailwindcss/cli", &["--watch", "-w"], &["--watch=always"], "stdin = \"open\""),
    habit("webpack", &["--watch-options-stdin"], &[], "stdin = \"open\""),
    habit("parcel", &["--watch-for-stdin"], &[], "stdin = \"open\""),
    habit("vitest", &[], &["--watch", "-w", "watch", "run"], "add --watch: without a terminal it runs once"),
];

/// Programs that keep what they print to a pipe until there is much of it.
#[rustfmt::skip]
const BUFFER: &[Habit] = &[
    habit("ruby", &[], &[], "$stdout.sync = true in the program"),
    habit("grep", &[], &["--line-buffered"], "add --line-buffered"),
    habit("sed", &[], &["-u", "--unbuffered"], "add -u"),
    habit("awk", &[], &["fflush"], "fflush() after each print"),
];

/// Programs that stay where a file that they are given has this line, here without blanks.
const STAY: &[(&str, &str)] = &[
    ("nginx", "daemonoff;"),
    ("supervisord", "nodaemon=true"),
    ("php-fpm", "daemonize=no"),
];

/// Programs whose arguments name containers, targets and units.
const RUN_ELSEWHERE: &[&str] = &[
    "docker",
    "docker-compose",
    "podman",
    "podman-compose",
    "kubectl",
    "make",
    "just",
    "systemctl",
];

pub(super) fn look(doctor: &mut Doctor) {
    for process in &doctor.config.processes {
        let line = line(process);
        let name = &process.name;
        if let Some(habit) = find(DETACH, &line).filter(|habit| !stays(process, habit, &line)) {
            let text = format_args!(
                "{name}: {} puts itself into the background, and bpm sees it end",
                habit.program
            );
            doctor.problem("commands", text, habit.fix);
        } else if line.ends_with('&') && !line.ends_with("&&") {
            let text =
                format_args!("{name}: the shell puts it into the background, and bpm sees it end");
            doctor.problem("commands", text, "drop the \"&\" at its end");
        }
        if !process.launch.stdin_open
            && !process.launch.tty
            && let Some(habit) = find(LEAVE, &line)
        {
            let text = format_args!(
                "{name}: {} ends when its standard input does",
                habit.program
            );
            doctor.problem("commands", text, habit.fix);
        }
        if let Some(habit) = find(BUFFER, &line) {
            let text = format_args!("{name}: {} buffers its output", habit.program);
            doctor.note("commands", text, habit.fix);
        }
        python(doctor, process, &line);
    }
    doctor.ok_unless_said("commands", "they stay in the foreground and print at once");
}

/// Whether a file that the command names keeps the program in the foreground.
fn stays(process: &Process, habit: &Habit, line: &str) -> bool {
    let Some((_, wanted)) = STAY.iter().find(|(name, _)| *name == habit.program) else {
        return false;
    };
    let files = words(line).map(|word| files::read_text(&process.cwd.join(word)));
    let mut texts = files.filter_map(Result::ok);
    texts.any(|text| {
        text.lines()
            .any(|line| words(line).collect::<String>() == *wanted)
    })
}

/// bpm sets `PYTHONUNBUFFERED`, unless the file does.
fn python(doctor: &mut Doctor, process: &Process, line: &str) {
    let is_python = words(line).any(|word| {
        let name = word.rsplit('/').next().unwrap_or(word);
        let version = name.strip_prefix("python").unwrap_or("?");
        version.chars().all(|c| c.is_ascii_digit() || c == '.')
    });
    let set = process
        .env
        .iter()
        .rev()
        .find(|(name, _)| name == "PYTHONUNBUFFERED");
    let said = set.is_some_and(|(_, value)| !value.is_empty()) || words(line).any(|w| w == "-u");
    if !is_python || said {
        return;
    }
    let name = &process.name;
    let text = match set {
        Some(_) => format!("{name}: python buffers its output, since PYTHONUNBUFFERED is empty"),
        None => {
            format!("{name}: python without -u prints at once only by bpm's PYTHONUNBUFFERED=1")
        }
    };
    doctor.note("commands", text, "add -u, or env.PYTHONUNBUFFERED = \"1\"");
}

/// All of a command in one line; of a package's script what it says.
fn line(process: &Process) -> String {
    let mut line = match &process.command {
        Some(Command::List(words)) => words.join(" "),
        Some(Command::Shell(line)) => line.trim().to_string(),
        None => String::new(),
    };
    for argument in &process.args {
        line.push(' ');
        line.push_str(argument);
    }
    script(process, &line).unwrap_or(line)
}

/// `npm run dev` -> what `dev` is in the package's file.
fn script(process: &Process, line: &str) -> Option<String> {
    let mut words = words(line);
    let runner = words.next()?;
    if !["npm", "pnpm", "yarn", "bun"].contains(&runner) {
        return None;
    }
    let name = match words.next()? {
        "run" | "run-script" => words.next()?,
        name @ ("start" | "test") => name,
        name if runner != "npm" => name,
        _ => return None,
    };
    let text = files::read_text(&process.cwd.join("package.json")).ok()?;
    let package: Value = json::parse(&text).ok()?;
    package["scripts"][name].as_str().map(String::from)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}

/// The habit of a program that this line runs.
fn find(habits: &'static [Habit], line: &str) -> Option<&'static Habit> {
    // With blanks around, so that only whole words are found.
    let padded = format!(" {} ", words(line).collect::<Vec<_>>().join(" "));
    let has = |part: &&str| {
        padded.contains(&format!(" {part} ")) || (part.contains(' ') && padded.contains(*part))
    };
    let named = |program: &str| {
        // At the beginning, or behind what runs others.
        for word in words(line).take_while(|word| !word.starts_with('-')) {
            let name = word.rsplit('/').next().unwrap_or(word);
            if word == program || name == program {
                return true;
            }
            if RUN_ELSEWHERE.contains(&name) {
                return false;
            }
        }
        false
    };
    habits.iter().find(|habit| {
        named(habit.program)
            && (habit.with.is_empty() || habit.with.iter().any(&has))
            && !habit.without.iter().any(&has)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_are_known_by_whole_words() {
        let detaches = |line| find(DETACH, line).is_some();
        assert!(detaches("nginx -c x.conf"));
        assert!(!detaches("nginx -g daemon off;"));
        assert!(!detaches("nginx -t"));
        assert!(detaches("/usr/bin/redis-server --port 1 --daemonize yes"));
        assert!(!detaches("redis-server --daemonize no"));
        assert!(detaches("docker compose up -d"));
        assert!(!detaches("docker run --rm -p 1:1 x"));
        assert!(!detaches("node nginx.js"));
        let leaves = |line| find(LEAVE, line).is_some();
        assert!(leaves("npx esbuild a.js --watch"));
        assert!(!leaves("npx esbuild a.js --watch=forever"));
        assert!(leaves("tailwindcss -i a -o b --watch"));
        assert!(!leaves("esbuild a.js"));
    }
}
