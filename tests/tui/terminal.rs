//! The real binary in a real terminal.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Project, lives};
use crate::tmux::{Tmux, bpm_tui, eventually, is_there};

const TEN: &str = r#"
[process.api]
command = "echo hello from api; sleep 1000"
[process.web]
command = "echo web is up; echo trouble >&2; sleep 1000"
depends_on = ["api"]
[process.worker]
command = "echo dying; exit 3"
restart = "never"
[process.off]
command = ["sleep", "1000"]
autostart = false
"#;

fn ten() -> Project {
    Project::new(TEN)
}

fn tui(project: &Project, tmux: &Tmux, options: &str) {
    let _ = project;
    tmux.line(&format!("{} {options}", bpm_tui()));
}

#[test]
fn the_four_panels_and_the_six_keys_of_old() {
    if !is_there() {
        return;
    }
    let mut project = ten();
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    tui(&project, &tmux, "");
    tmux.sees(&[
        "Server Status",
        "Process Details",
        "Processes 1/4",
        "Output: api",
        "hello from api",
    ]);
    tmux.keys(&["Down"])
        .sees(&["Process Details: web", "Output: web", "▌trouble"]);
    tmux.keys(&["Up"])
        .sees(&["Process Details: api", "Output: api", "hello from api"]);
    tmux.keys(&["c"]).misses(&["hello from api"]);
    tmux.keys(&["Enter"]).sees(&["hello from api"]);
    tmux.keys(&["r"]).sees(&["── run 2"]);
    tmux.sees(&["api: restarted"]);
    tmux.keys(&["q"])
        .sees(&["shop: 2 running, 1 failed; bpm runs on (pid"]);
    tmux.is_restored();
    project.running("api");
}

#[test]
fn a_screen_of_any_size_shows_something() {
    if !is_there() {
        return;
    }
    let mut project = ten();
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    tui(&project, &tmux, "");
    tmux.sees(&["Server Status", "hello from api"]);
    tmux.run(&["resize-window", "-x", "40", "-y", "12"]);
    tmux.until("no frames", |screen| {
        !screen.contains('│') && screen.contains("● live") && screen.contains("hello from api")
    });
    tmux.keys(&["Tab"])
        .sees(&["Process Details: api", "last output"]);
    tmux.keys(&["Tab"]).misses(&["Process Details"]);
    tmux.run(&["resize-window", "-x", "5", "-y", "3"]);
    tmux.sees(&["too s"]);
    tmux.run(&["resize-window", "-x", "200", "-y", "60"]);
    tmux.sees(&["Server Status", "hello from api", "? help q quit"]);
    tmux.keys(&["q"]);
    tmux.is_restored();
}

/// The modes of the terminal, as the shell has them.
fn modes(tmux: &Tmux, project: &Project, name: &str) -> String {
    tmux.line(&format!("stty -a > {name}"));
    eventually(|| {
        let text = project.read(name);
        if text.contains("-cmspar") || text.contains("extproc") {
            Ok(text)
        } else {
            Err(text)
        }
    })
}

#[test]
fn every_way_out_restores_the_terminal() {
    if !is_there() {
        return;
    }
    let mut project = ten();
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    let before = modes(&tmux, &project, "before");
    let out = |name: &str, end: &dyn Fn(&Tmux)| {
        tui(&project, &tmux, "");
        tmux.sees(&["Server Status", "hello from api"]);
        assert_eq!(
            tmux.format("#{alternate_on} #{mouse_any_flag} #{cursor_flag}"),
            "1 1 0"
        );
        end(&tmux);
        tmux.is_restored();
        let after = modes(&tmux, &project, &format!("after-{name}"));
        assert_eq!(before, after, "{name}");
        tmux.line(&format!("echo over-{name}-$?"))
            .sees(&[&format!("over-{name}")]);
        tmux.line("clear");
    };
    out("q", &|tmux| {
        tmux.keys(&["q"]);
    });
    out("ctrl-c", &|tmux| {
        tmux.keys(&["C-c"]);
    });
    out("esc", &|tmux| {
        tmux.keys(&["Escape"]);
    });
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        out(signal.as_str(), &|tmux| {
            kill(Pid::from_raw(tmux.child()), signal).unwrap()
        });
    }
}

#[test]
fn a_signal_is_the_cause_of_the_end() {
    if !is_there() {
        return;
    }
    let mut project = ten();
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    tmux.line(&format!("{}; echo status $?", bpm_tui()));
    tmux.sees(&["Server Status", "hello from api"]);
    kill(Pid::from_raw(tmux.child()), Signal::SIGTERM).unwrap();
    tmux.sees(&["status 143"]);
}

#[test]
fn a_panic_is_read_on_a_screen_that_is_restored() {
    if !is_there() || !cfg!(debug_assertions) {
        return;
    }
    let mut project = ten();
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    let before = modes(&tmux, &project, "before");
    tmux.line(&format!("BPM_TUI_PANIC=1 {}; echo status $?", bpm_tui()));
    tmux.sees(&["panicked at", "forced", "status 101"]);
    tmux.is_restored();
    assert_eq!(before, modes(&tmux, &project, "after"));
}

#[test]
fn it_can_be_suspended_and_stopped_and_goes_on() {
    if !is_there() {
        return;
    }
    let mut project = ten();
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    let before = modes(&tmux, &project, "before");
    tui(&project, &tmux, "");
    tmux.sees(&["Server Status", "hello from api"]);
    tmux.keys(&["C-z"]).sees(&["Stopped"]);
    tmux.is_restored();
    assert_eq!(before, modes(&tmux, &project, "suspended"));
    tmux.line("fg")
        .sees(&["Server Status", "hello from api", "? help q quit"]);
    let pid = Pid::from_raw(tmux.child());
    kill(pid, Signal::SIGTSTP).unwrap();
    tmux.is_restored();
    tmux.line("fg").sees(&["Server Status", "hello from api"]);
    kill(pid, Signal::SIGSTOP).unwrap();
    // The shell takes the terminal back; what was drawn last may stand on it.
    tmux.sees(&["Stopped"]);
    tmux.line("fg")
        .sees(&["Server Status", "hello from api", "? help q quit"]);
    assert_eq!(
        tmux.format("#{alternate_on} #{mouse_any_flag} #{cursor_flag}"),
        "1 1 0"
    );
    tmux.keys(&["j"]).sees(&["Process Details: web"]);
    tmux.keys(&["q"]);
    tmux.is_restored();
    assert_eq!(before, modes(&tmux, &project, "after"));
}

#[test]
fn output_of_a_process_changes_nothing_but_its_lines() {
    if !is_there() {
        return;
    }
    let mut project = Project::new(
        "[process.evil]\ncommand = \"printf '\\\\033]0;evil title\\\\007\\\\033]52;c;ZXZpbA==\\\\007\\\\033[1;1Hcorner\\\\033[2J\\\\r\\\\nend\\\\n'; sleep 1000\"\n",
    );
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    tmux.run(&["set-option", "-g", "set-clipboard", "on"]);
    let title = tmux.format("#{pane_title}");
    tui(&project, &tmux, "");
    let screen = tmux.sees(&["Output: evil", "corner", "end"]);
    assert!(screen.starts_with("┌ Server Status"), "{screen}");
    assert_eq!(tmux.format("#{pane_title}"), title);
    assert_eq!(tmux.run(&["list-buffers"]), "");
    // And ours arrives, when it is asked for.
    tmux.keys(&["y"]).sees(&["bytes to the"]);
    eventually(|| {
        let buffer = tmux.run(&["show-buffer"]);
        if buffer.contains("corner") && buffer.contains("end") {
            Ok(())
        } else {
            Err(buffer)
        }
    });
    tmux.keys(&["q"]);
    tmux.is_restored();
}

#[test]
fn search_filter_plain_mode_and_runs() {
    if !is_there() {
        return;
    }
    let mut project = Project::new(
        "[process.count]\ncommand = \"for i in $(seq 1 300); do echo line $i; done; echo Done; sleep 1000\"\n\
         [process.other]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    project.up();
    project.line("count", "Done");
    let tmux = Tmux::new(&project, 80, 24);
    tui(&project, &tmux, "");
    tmux.sees(&["Output: count run 1 ── follow ── 301 lines", "Done"]);
    tmux.text("/line .*77")
        .keys(&["Enter"])
        .sees(&["3/3 hits", "line 277"]);
    tmux.keys(&["n"]).sees(&["2/3 hits", "line 177", "paused"]);
    tmux.keys(&["N"]).sees(&["3/3 hits"]);
    tmux.text("/done").keys(&["Enter"]).sees(&["1/1 hits"]);
    tmux.text("/DONE")
        .keys(&["Enter"])
        .sees(&["0/0 hits", "no line matches"]);
    tmux.keys(&["f", "Escape"]).misses(&["hits"]);
    tmux.text("&line 12.")
        .keys(&["Enter"])
        .sees(&["&line 12.", "line 120", "line 129"]);
    tmux.misses(&["line 130"]);
    tmux.keys(&["Escape"]).sees(&["Done"]);
    tmux.text("pxyz")
        .keys(&["Enter"])
        .sees(&["no name has \"xyz\"", "Processes 0/0"]);
    tmux.keys(&["p", "C-u", "Enter"]).sees(&["Processes 1/2"]);
    tmux.keys(&["g"]).sees(&["line 1\u{20}", "paused"]);
    tmux.keys(&["z"]).until("lines alone", |screen| {
        !screen.contains("Server Status") && screen.starts_with("line 1\n")
    });
    assert_eq!(tmux.format("#{mouse_any_flag}"), "0");
    tmux.keys(&["z", "f"]).sees(&["Server Status", "follow"]);
    tmux.keys(&["t"]).until("times", |screen| {
        screen.contains(":") && screen.contains(" Done")
    });
    tmux.keys(&["t", "r"])
        .sees(&["Output: count run 2 ── follow"]);
    tmux.keys(&["["]).sees(&["an earlier run (-2)", "run 1"]);
    tmux.keys(&["[", "["])
        .sees(&["this run is not kept any more"]);
    tmux.keys(&["]", "]", "]"]).sees(&["run 2 ── follow"]);
    tmux.keys(&["b"]).sees(&["Output: count build"]);
    tmux.keys(&["b", "?"]).sees(&["Keys", "the run before"]);
    tmux.keys(&["Escape", "q"]);
    tmux.is_restored();
}

#[test]
fn stop_asks_and_only_y_does() {
    if !is_there() {
        return;
    }
    let mut project = ten();
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    tui(&project, &tmux, "");
    tmux.sees(&["hello from api"]);
    tmux.keys(&["s"]).sees(&["stop api? web needs it  y/n"]);
    tmux.keys(&["x"]).misses(&["y/n"]);
    project.running("api");
    tmux.keys(&["s"]).sees(&["y/n"]);
    tmux.keys(&["y"]).sees(&["■ api", "stopped"]);
    tmux.keys(&["s"]).sees(&["▶ api"]);
    tmux.keys(&["w"]).sees(&["Why: api"]);
    tmux.keys(&["Escape", "q"]);
    tmux.is_restored();
}

#[test]
fn read_only_changes_nothing() {
    if !is_there() {
        return;
    }
    let mut project = ten();
    project.up();
    let pid = project.running("api");
    let tmux = Tmux::new(&project, 80, 24);
    tui(&project, &tmux, "--read-only");
    tmux.sees(&["hello from api"]);
    for key in ["r", "R", "s", "u", "S"] {
        tmux.keys(&[key]).sees(&["read only"]);
        tmux.keys(&["j", "k"]).misses(&["read only", "y/n"]);
    }
    tmux.keys(&["q"]);
    tmux.is_restored();
    assert_eq!(project.running("api"), pid);
}

#[test]
fn the_pager_and_the_editor_get_a_sane_terminal() {
    if !is_there() {
        return;
    }
    let mut project = Project::new("[process.app]\ntype = \"rust\"\n");
    project.fake_cargo();
    project.source("echo in the app; sleep 1000");
    project.program(
        "editor",
        "#!/bin/sh\nstty -a > edited-modes\necho \"$@\" > edited\n",
    );
    project.program(
        "pager",
        "#!/bin/sh\nstty -a < /dev/tty > paged-modes\ncat > paged\n",
    );
    let root = project.root.display().to_string();
    project
        .env("VISUAL", format!("{root}/editor"))
        .env("PAGER", format!("{root}/pager"));
    project.up();
    project.running("app");
    let tmux = Tmux::new(&project, 80, 24);
    let before = modes(&tmux, &project, "before");
    tui(&project, &tmux, "");
    tmux.sees(&["in the app"]);
    tmux.keys(&["o"]);
    eventually(|| {
        if project.read("paged").contains("in the app") {
            Ok(())
        } else {
            Err("not paged".into())
        }
    });
    assert_eq!(project.read("paged-modes"), before);
    tmux.sees(&["Server Status", "in the app"]);
    project.file("src/broken", "mismatched types");
    tmux.keys(&["r"]).sees(&["failed", "1 error (e)", "app*"]);
    tmux.keys(&["e"])
        .sees(&["src/main.rs:3:5 E0308: mismatched types"]);
    tmux.keys(&["Enter"]);
    eventually(|| {
        let edited = project.read("edited");
        if edited == "+3 ./src/main.rs\n" {
            Ok(())
        } else {
            Err(edited)
        }
    });
    assert_eq!(project.read("edited-modes"), before);
    tmux.sees(&["Server Status"]);
    tmux.keys(&["Escape", "q"]);
    tmux.is_restored();
}

#[test]
fn where_it_can_not_draw_it_says_what_can() {
    let project = ten();
    let run = |term: &str| {
        let output = project
            .command(bpm_tui())
            .env("TERM", term)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for term in ["xterm", "dumb"] {
        let (code, text) = run(term);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("hint: bpm status -w, bpm logs -f"), "{text}");
    }
    let help = project.command(bpm_tui()).arg("-h").output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("--token-file FILE"));
    let _ = fs::metadata("/proc/self");
    assert!(lives(std::process::id() as i32));
}

#[test]
fn the_colours_of_a_process_are_shown() {
    if !is_there() {
        return;
    }
    let mut project = Project::new(
        "[process.a]\ncommand = \"printf 'in \\\\033[31mred\\\\033[0m\\\\n'; sleep 1000\"\n",
    );
    project.up();
    let tmux = Tmux::new(&project, 80, 24);
    tui(&project, &tmux, "");
    tmux.sees(&["in red"]);
    let coloured = tmux.run(&["capture-pane", "-p", "-e"]);
    assert!(coloured.contains("\x1b[31mred\x1b["), "{coloured:?}");
    tmux.keys(&["q"]).sees(&["bpm runs on"]);
}
