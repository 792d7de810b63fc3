#![allow(clippy::disallowed_methods)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::super::proc::stat;
use super::super::reap::{Death, End};
use super::super::testing::{Folder, alone, ended, env, eventually, inheritable, text};
use super::*;

fn launch<'a>(program: &'a str, env: &'a [(OsString, OsString)], cwd: &'a Path) -> Launch<'a> {
    Launch::new(OsStr::new(program), &[], env, cwd)
}

fn strings(of: &[&str]) -> Vec<OsString> {
    of.iter().map(OsString::from).collect()
}

/// Runs it to its end; what it wrote to standard output.
fn output(launch: &Launch<'_>) -> String {
    let child = spawn(launch).unwrap();
    let (out, err) = (text(child.stdout), text(child.stderr));
    let Death { end, .. } = ended(child.child.pid());
    assert_eq!(end, End::Code(0), "{out} {err}");
    out
}

fn shell_output(launch: &Launch<'_>, script: &str) -> String {
    let args = strings(&["-c", script, "sh"]);
    output(&Launch {
        program: OsStr::new("sh"),
        args: &args,
        ..*launch
    })
}

#[test]
fn a_child_gets_what_it_was_given() {
    let (env, folder) = (env(&[("A", "1 2")]), Folder::new("given"));
    let args = strings(&[
        "-c",
        r#"echo "$0|$*|$A|$(umask)|$(ulimit -n)|$(ulimit -c)|$(pwd)""#,
        "zero",
        "x y",
        "z",
    ]);
    let out = output(&Launch {
        program: OsStr::new("sh"),
        args: &args,
        nofile: Some(321),
        core: Some(0),
        umask: Some(0o27),
        ..launch("", &env, folder.path())
    });
    let cwd = folder.path().canonicalize().unwrap();
    assert_eq!(
        out,
        format!("zero|x y z|1 2|0027|321|0|{}\n", cwd.display())
    );
}

#[test]
fn argv0_is_not_the_program() {
    let args = strings(&["/proc/self/cmdline"]);
    let out = output(&Launch {
        argv0: Some(OsStr::new("another")),
        args: &args,
        ..launch("/bin/cat", &env(&[]), Path::new("/"))
    });
    // A multi-call binary may mind its name; then this test says so.
    assert_eq!(out, "another\0/proc/self/cmdline\0");
}

#[test]
fn a_child_has_a_session_and_three_descriptors() {
    // One that was left open over execve, as a careless library does.
    let stray = File::open("/dev/null").unwrap();
    inheritable(&stray);
    let args = strings(&["60"]);
    let child = spawn(&Launch {
        args: &args,
        ..launch("sleep", &env(&[]), Path::new("/"))
    })
    .unwrap();
    let seen = stat(child.child.pid()).unwrap().proc;
    let link =
        |fd: &str| std::fs::read_link(format!("/proc/{}/fd/{fd}", child.child.pid())).unwrap();
    let mut open: Vec<_> = std::fs::read_dir(format!("/proc/{}/fd", child.child.pid()))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    open.sort();
    assert_eq!(
        (seen.pgid, seen.sid),
        (child.child.pid(), child.child.pid())
    );
    assert_eq!(open, ["0", "1", "2"]);
    assert_eq!(link("0"), Path::new("/dev/null"));
    assert_ne!(link("1"), link("2"));
    for fd in [1, 2] {
        let info =
            std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", child.child.pid())).unwrap();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_eq!(flags & libc::O_ACCMODE, libc::O_RDWR);
        assert_eq!(flags & libc::O_NONBLOCK, 0, "a child's write may wait");
    }
    assert!(super::super::group::signal_group(
        child.child.pid(),
        libc::SIGKILL
    ));
    ended(child.child.pid());
}

#[test]
fn no_signal_is_blocked_or_ignored_in_a_child() {
    alone(
        "os::spawn::tests::no_signal_is_blocked_or_ignored_in_a_child",
        || {
            let _masked = Masked::all();
            for signal in [
                libc::SIGHUP,
                libc::SIGPIPE,
                libc::SIGCHLD - 1,
                libc::SIGRTMIN() + 2,
            ] {
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            let args = strings(&["-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]);
            let out = output(&Launch {
                args: &args,
                ..launch("grep", &env(&[]), Path::new("/"))
            });
            assert_eq!(out.lines().count(), 3);
            for line in out.lines() {
                let set = line.split_whitespace().nth(1).unwrap();
                let mut set = u64::from_str_radix(set, 16).unwrap();
                if line.starts_with("SigCgt") {
                    // grep watches for a stack overflow.
                    set &= !(1 << (libc::SIGSEGV - 1));
                }
                assert_eq!(set, 0, "{line}");
            }
            // Ours are as they were.
            assert!(
                nix::sys::signal::SigSet::thread_get_mask()
                    .unwrap()
                    .contains(nix::sys::signal::SIGTERM)
            );
        },
    );
}

#[test]
fn a_handler_of_ours_is_still_ours_after_a_start() {
    alone(
        "os::spawn::tests::a_handler_of_ours_is_still_ours_after_a_start",
        || {
            let signals = super::super::reap::Signals::new().unwrap();
            output(&launch("true", &env(&[]), Path::new("/")));
            nix::sys::signal::raise(nix::sys::signal::SIGHUP).unwrap();
            assert!(signals.take().hup);
        },
    );
}

#[test]
fn why_a_program_can_not_be_started_is_said_in_words() {
    alone(
        "os::spawn::tests::why_a_program_can_not_be_started_is_said_in_words",
        || {
            let folder = Folder::new("words");
            let root = folder.path();
            let (at, file) = (root.display(), |name: &str| {
                format!("{:?}", root.join(name))
            });
            folder.file("plain", "x", 0o644);
            folder.file("noint", "#! /no/such/python3 -u\n", 0o755);
            folder.file("windows", "#!/bin/sh\r\necho\r\n", 0o755);
            folder.file("binary", b"\x7fELF\0\0\0\0garbage", 0o755);
            folder.file("here", "#!/bin/sh\n", 0o755);
            std::fs::create_dir(folder.join("dir")).unwrap();
            nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let env = env(&[]);
            let cases = [
                (
                    "./srv",
                    Step::Program,
                    format!("no such file: \"./srv\" in {at}"),
                ),
                (
                    "plain/srv",
                    Step::Program,
                    format!("no such file: \"plain/srv\" in {at}"),
                ),
                ("/no/srv", Step::Program, "no such file: \"/no/srv\"".into()),
                (
                    "no-such-program",
                    Step::Program,
                    "no such command in PATH: \"no-such-program\"".into(),
                ),
                (
                    "here",
                    Step::Program,
                    "no such command in PATH: \"here\"; did you mean \"./here\"?".into(),
                ),
                ("", Step::Program, "the name of the program is empty".into()),
                (
                    "a\0b",
                    Step::Arguments,
                    "the name of the program has a NUL byte in it: \"a\\0b\"".into(),
                ),
                (
                    "./plain",
                    Step::Program,
                    format!("not executable: {} (see \"chmod +x\")", file("./plain")),
                ),
                (
                    "./dir",
                    Step::Program,
                    "a folder, not a program: \"./dir\"".into(),
                ),
                (
                    "./noint",
                    Step::Program,
                    format!(
                        "{} wants the interpreter \"/no/such/python3\", which does not exist",
                        file("./noint")
                    ),
                ),
                (
                    "./windows",
                    Step::Program,
                    format!(
                        "{} wants the interpreter \"/bin/sh\\r\", which does not exist",
                        file("./windows")
                    ),
                ),
                (
                    "./binary",
                    Step::Program,
                    format!("not a program for this machine: {}", file("./binary")),
                ),
                (
                    "./fifo",
                    Step::Program,
                    format!("may not execute {}: permission denied", file("./fifo")),
                ),
            ];
            let took = || {
                let began = Instant::now();
                for (program, step, words) in &cases {
                    let e = spawn(&launch(program, &env, root)).unwrap_err();
                    assert_eq!((e.step, e.to_string()), (*step, words.clone()));
                }
                began.elapsed()
            };
            // At once, unless the machine has other things to do, which it has not always.
            assert!((0..10).any(|_| took() < Duration::from_millis(500)));

            for (cwd, words) in [("no", "no such folder"), ("plain", "not a folder")] {
                let cwd = folder.join(cwd);
                let e = spawn(&launch("true", &env, &cwd)).unwrap_err();
                assert_eq!(
                    (e.step, e.to_string()),
                    (Step::Folder, format!("{words}: {cwd:?}"))
                );
            }
            let long = vec![OsString::from("x".repeat(200_000))];
            let e = spawn(&Launch {
                args: &long,
                ..launch("true", &env, root)
            })
            .unwrap_err();
            assert_eq!(
                e.to_string(),
                "arguments and environment are too long together"
            );
            let nul = strings(&["a\0"]);
            let e = spawn(&Launch {
                args: &nul,
                ..launch("true", &env, root)
            })
            .unwrap_err();
            assert_eq!(e.step, Step::Arguments);
            // Nothing is left of any of them.
            let left = unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) };
            assert_eq!((left, Errno::last()), (-1, Errno::ECHILD));
        },
    );
}

#[test]
fn without_descriptors_the_reason_is_that() {
    alone(
        "os::spawn::tests::without_descriptors_the_reason_is_that",
        || {
            use nix::sys::resource::setrlimit;
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 4, hard).unwrap();
            let e = spawn(&launch("true", &env(&[]), Path::new("/"))).unwrap_err();
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
            assert_eq!(e.step, Step::Streams);
            assert_eq!(
                e.to_string(),
                "bpm has too many files open (see \"ulimit -n\")"
            );
            output(&launch("true", &env(&[]), Path::new("/")));
        },
    );
}

#[test]
fn limits_that_stand_in_the_way_are_named() {
    alone(
        "os::spawn::tests::limits_that_stand_in_the_way_are_named",
        || {
            use nix::sys::resource::setrlimit;
            // Root has no limits.
            let _ = nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534));
            let env = env(&[]);
            let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
            let above = Launch {
                nofile: Some(hard + 1),
                ..launch("true", &env, Path::new("/"))
            };
            let e = spawn(&above).unwrap_err();
            assert_eq!(e.step, Step::Limits);
            let words = format!(
                "the limit nofile = {} is above the hard limit {hard}",
                hard + 1
            );
            assert_eq!(e.to_string(), words);

            setrlimit(Resource::RLIMIT_NPROC, 0, 0).unwrap();
            let e = spawn(&launch("true", &env, Path::new("/"))).unwrap_err();
            assert_eq!(
                (e.step, e.error.kind()),
                (Step::Process, io::ErrorKind::WouldBlock)
            );
            assert_eq!(e.to_string(), "too many processes (see \"ulimit -u\")");
        },
    );
}

#[test]
fn a_script_without_its_first_line_is_run_by_the_shell() {
    alone(
        "os::spawn::tests::a_script_without_its_first_line_is_run_by_the_shell",
        || {
            let folder = Folder::new("script");
            folder.file("script", "echo \"$0 $1\"\n", 0o755);
            let args = strings(&["one"]);
            let out = output(&Launch {
                args: &args,
                ..launch("./script", &env(&[]), folder.path())
            });
            assert_eq!(out, "./script one\n");
        },
    );
}

#[test]
fn the_path_of_the_child_is_searched() {
    alone(
        "os::spawn::tests::the_path_of_the_child_is_searched",
        || {
            let folder = Folder::new("path");
            for (name, mode) in [("a", 0o644), ("b", 0o755)] {
                std::fs::create_dir(folder.join(name)).unwrap();
                folder.file(
                    &format!("{name}/prog"),
                    format!("#!/bin/sh\necho {name}\n"),
                    mode,
                );
            }
            for (path, found) in [
                ("no:a:b", Ok("b\n")),
                ("a:no", Err(())),
                ("b/prog:b", Ok("b\n")),
            ] {
                let env = vec![(OsString::from("PATH"), OsString::from(path))];
                let launch = launch("prog", &env, folder.path());
                match found {
                    Ok(text) => assert_eq!(output(&launch), text),
                    Err(()) => {
                        let e = spawn(&launch).unwrap_err().to_string();
                        assert!(e.starts_with("not executable: "), "{e}");
                    }
                }
            }
        },
    );
}

#[test]
fn passed_descriptors_become_3_and_on() {
    // So many that some of them are in the way of others.
    let mut pipes = Vec::new();
    for i in 0..30 {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        nix::unistd::write(&write, format!("{i} ").as_bytes()).unwrap();
        pipes.push(read);
    }
    let pass: Vec<_> = pipes.iter().rev().map(AsFd::as_fd).collect();
    let env = env(&[("LISTEN_FDS", "7"), ("LISTEN_PID", "1")]);
    let out = shell_output(
        &Launch {
            pass: &pass,
            ..launch("", &env, Path::new("/"))
        },
        // Descriptors of two digits are no redirections in every shell.
        r#"[ "$LISTEN_PID" = $$ ] && for n in $(seq 3 32); do cat /proc/self/fd/$n; done; echo "$LISTEN_FDS""#,
    );
    let expected: String = (0..30).rev().map(|i| format!("{i} ")).collect();
    assert_eq!(out, format!("{expected}30\n"));
}

#[test]
fn who_writes_with_no_reader_left_waits_and_is_found_again() {
    let env = env(&[]);
    let child = spawn(&launch("yes", &env, Path::new("/"))).unwrap();
    let pid = child.child.pid();
    drop(child);
    eventually("the pipe is full", || {
        let wchan = std::fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
        let write = format!("{} 0x1 ", libc::SYS_write);
        (stat(pid)?.proc.state == 'S' && wchan.starts_with(&write)).then_some(())
    });
    let mut first = [0; 4];
    let mut pipe = File::open(format!("/proc/{pid}/fd/1")).unwrap();
    pipe.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"y\ny\n");
    assert!(super::super::group::signal_group(pid, libc::SIGTERM));
    let death = ended(pid);
    assert_eq!(
        death.end,
        End::Signal {
            number: libc::SIGTERM,
            core: false
        }
    );
}

#[test]
fn many_starts_beside_busy_threads() {
    use std::sync::atomic::AtomicBool;
    let (stop, env) = (AtomicBool::new(false), env(&[]));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let kept: Vec<Vec<u8>> = (1..50).map(|n| vec![1; n * 99]).collect();
                    assert_eq!(kept.len(), 49);
                    let _ = File::open("/proc/self/stat");
                }
            });
        }
        for i in 0..200 {
            let script = format!("echo {i}");
            assert_eq!(
                shell_output(&launch("", &env, Path::new("/")), &script),
                format!("{i}\n")
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn pids_are_written_without_allocation() {
    for pid in [1, 9, 10, 4_194_304, i32::MAX] {
        let mut slot = [0; PID_DIGITS];
        write_pid(&mut slot, pid);
        let text = String::from_utf8(slot.to_vec()).unwrap();
        assert_eq!(text.trim_end_matches('\0'), pid.to_string());
    }
}

#[test]
#[ignore = "a measurement: --ignored --nocapture"]
fn what_a_start_costs() {
    let (env, mut heap) = (env(&[]), Vec::new());
    let program = std::fs::canonicalize("/bin/true").unwrap();
    assert!(std::fs::metadata(&program).unwrap().size() > 0);
    for mib in [0_usize, 500] {
        heap.resize(mib << 20, 1_u8);
        let mut starts: Vec<Duration> = (0..500)
            .map(|_| {
                let began = Instant::now();
                let child =
                    spawn(&launch(program.to_str().unwrap(), &env, Path::new("/"))).unwrap();
                let took = began.elapsed();
                unsafe { libc::waitpid(child.child.pid(), ptr::null_mut(), 0) };
                took
            })
            .collect();
        starts.sort();
        println!("{mib} MiB: p50 {:?}, p99 {:?}", starts[250], starts[495]);
    }
    assert!(heap.iter().all(|b| *b == 1));
}

#[test]
fn a_copy_is_made_only_where_it_must() {
    let file = File::open("/dev/null").unwrap();
    let mut copies = Vec::new();
    assert_eq!(
        above(file.as_fd(), 1, &mut copies).unwrap(),
        file.as_raw_fd()
    );
    assert!(copies.is_empty());
    let high = above(file.as_fd(), 900, &mut copies).unwrap();
    assert!(high >= 900);
    assert_eq!(copies[0].as_raw_fd(), high);
}

#[test]
fn open_stdin_never_ends_and_is_held_by_the_process() {
    let env = env(&[]);
    let args = ["-c".into(), "exec cat; echo over".into()];
    let child = spawn(&Launch {
        stdin: Stdin::Open,
        ..Launch::new(OsStr::new("sh"), &args, &env, Path::new("/"))
    })
    .unwrap();
    let input = std::fs::read_link(format!("/proc/{}/fd/0", child.child.pid())).unwrap();
    assert!(input.to_string_lossy().starts_with("pipe:"), "{input:?}");
    let ours = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let held = ours.filter(|e| std::fs::read_link(e.path()).is_ok_and(|l| l == input));
    assert_eq!(held.count(), 0);
    let start = super::super::proc::start_time(child.child.pid()).unwrap();
    let wait = super::super::group::wait_gone;
    assert!(
        !wait(
            child.child.pid(),
            start,
            std::time::Duration::from_millis(200)
        )
        .unwrap()
    );
    super::super::group::signal_if(child.child.pid(), start, libc::SIGKILL);
    ended(child.child.pid());
}

#[test]
fn priority_and_oom_score_are_set_in_the_child() {
    let env = env(&[]);
    let args = [
        "-c".into(),
        "cat /proc/self/oom_score_adj; cut -d ' ' -f 19 /proc/self/stat".into(),
    ];
    let out = output(&Launch {
        nice: Some(7),
        oom_score_adj: Some(321),
        ..Launch::new(OsStr::new("sh"), &args, &env, Path::new("/"))
    });
    assert_eq!(out, "321\n7\n");
}

#[test]
fn terminal_is_the_controlling_one() {
    let pty = super::super::pty::Pty::open().unwrap();
    let env = env(&[]);
    let args = [
        "-c".into(),
        "stty size; echo here >/dev/tty; cut -d ' ' -f 6 /proc/$$/stat".into(),
    ];
    let launch = Launch::new(OsStr::new("sh"), &args, &env, Path::new("/"));
    let pid = spawn_on(pty.terminal.as_fd(), &launch).unwrap().pid();
    drop(pty.terminal);
    assert_eq!(ended(pid).end, End::Code(0));
    super::super::fds::set_nonblocking(&pty.master, false).unwrap();
    let mut text = Vec::new();
    // EIO is the end of what the terminal's other side wrote.
    let _ = std::io::Read::read_to_end(&mut File::from(pty.master), &mut text);
    assert_eq!(
        String::from_utf8(text).unwrap(),
        format!("40 120\nhere\n{pid}\n")
    );
}

#[test]
fn another_user_is_become_before_the_folder_is_entered() {
    if nix::unistd::geteuid().as_raw() != 0 {
        eprintln!("skipped: only root may");
        return;
    }
    let env = env(&[]);
    let args = ["-c".into(), "id -u; id -g; id -G".into()];
    let user = Some(User {
        uid: 4242,
        gid: 4343,
        groups: &[4343, 4444],
    });
    let base = Launch {
        user,
        ..Launch::new(OsStr::new("sh"), &args, &env, Path::new("/"))
    };
    assert_eq!(output(&base), "4242\n4343\n4343 4444\n");
    let folder = Folder::new("user");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(folder.path(), private).unwrap();
    let refused = Launch {
        cwd: folder.path(),
        ..base
    };
    assert_eq!(spawn(&refused).unwrap_err().step, Step::Folder);
    let e = spawn(&Launch {
        user: Some(User {
            uid: 1,
            gid: 1,
            groups: &[0; 70_000],
        }),
        ..base
    });
    let e = e.unwrap_err();
    assert_eq!(e.step, Step::User);
    assert!(
        e.to_string()
            .starts_with("cannot become user 1 and group 1: "),
        "{e}"
    );
}

#[test]
fn child_begins_in_its_cgroup() {
    let name = format!("spawn-{}", std::process::id());
    let groups = match super::super::cgroup::Groups::open(&name) {
        Ok(groups) => groups,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let group = groups.make("run-a-1").unwrap();
    let env = env(&[]);
    let args = ["-c".into(), "grep ^0:: /proc/self/cgroup".into()];
    let launch = Launch {
        cgroup: Some(group.path()),
        ..Launch::new(OsStr::new("sh"), &args, &env, Path::new("/"))
    };
    let out = output(&launch);
    assert!(out.ends_with(&format!("/bpm-{name}/run-a-1\n")), "{out}");
    let none = Launch {
        program: OsStr::new("./nothing"),
        ..launch
    };
    assert_eq!(spawn(&none).unwrap_err().step, Step::Program);
    assert!(group.is_empty());
    // The kernel kills what clone3(2) begins in it from then on.
    std::fs::write(group.path().join("cgroup.kill"), "1").unwrap();
    assert_eq!(output(&launch), out);
    assert_eq!(spawn(&none).unwrap_err().step, Step::Program);
    assert!(group.remove());
    groups.close();
}
