//! What is written to the terminal, and that nothing depends on its being read.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::Project;
use crate::pseudo::Pseudo;
use crate::tmux::bpm_tui;

const FLOOD: &str = "[process.flood]\ncommand = [\"FIXTURE\", \"rate\", \"20000\", \"1000\"]\n";

fn flood() -> (Project, Pseudo) {
    let mut project = Project::new(FLOOD);
    project.up();
    project.line("flood", "line");
    let pseudo = Pseudo::new(&project, bpm_tui(), &[], (80, 24));
    (project, pseudo)
}

#[test]
fn a_terminal_that_stops_reading_costs_nothing_and_can_be_left() {
    let (_project, mut pseudo) = flood();
    let begun = pseudo.begun;
    pseudo.read_until(0, "follow", begun);
    // Its buffer is full after a while, and stays so.
    std::thread::sleep(Duration::from_secs(8));
    let rss = pseudo.rss();
    assert!(rss < 30 << 20, "{rss}");
    pseudo.keys("jkq");
    let (took, code) = pseudo.end_within(Duration::from_secs(5)).expect("q leaves");
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[test]
fn term_ends_it_while_the_terminal_does_not_read() {
    let (_project, mut pseudo) = flood();
    let begun = pseudo.begun;
    pseudo.read_until(0, "follow", begun);
    std::thread::sleep(Duration::from_secs(8));
    kill(Pid::from_raw(pseudo.child.id() as i32), Signal::SIGTERM).unwrap();
    let (took, code) = pseudo
        .end_within(Duration::from_secs(5))
        .expect("TERM ends it");
    assert_eq!(code, None, "it is the signal's");
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[test]
fn a_terminal_that_is_gone_ends_it() {
    let mut project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    project.up();
    let mut pseudo = Pseudo::new(&project, bpm_tui(), &[], (80, 24));
    let begun = pseudo.begun;
    pseudo.read_until(0, "follow", begun);
    pseudo.hang_up();
    assert!(pseudo.end_within(Duration::from_secs(5)).is_some());
}

#[test]
fn little_is_written_at_rest_and_not_much_in_a_flood() {
    let (_project, mut pseudo) = flood();
    let begun = pseudo.begun;
    pseudo.read_until(0, "follow", begun);
    pseudo.read_for(Duration::from_secs(1));
    let bytes = pseudo.read_for(Duration::from_secs(4)) / 4;
    assert!(bytes < 20_000, "{bytes} bytes a second in a flood");
    let nap: String = (0..10)
        .map(|n| format!("[process.nap{n}]\ncommand = [\"sleep\", \"1000\"]\n"))
        .collect();
    let mut project = Project::new(&nap);
    project.up();
    let mut pseudo = Pseudo::new(&project, bpm_tui(), &[], (80, 24));
    let begun = pseudo.begun;
    pseudo.read_until(0, "follow", begun);
    pseudo.read_for(Duration::from_secs(2));
    let bytes = pseudo.read_for(Duration::from_secs(5)) / 5;
    assert!(bytes < 700, "{bytes} bytes a second at rest");
}

#[test]
fn nothing_is_written_for_nothing() {
    // Without a project and a server: it tries, and gives up.
    let project = Project::empty();
    let mut pseudo = Pseudo::new(&project, bpm_tui(), &["unix:/nowhere"], (80, 24));
    let begun = Instant::now();
    pseudo.read_until(0, "connecting 1/5", begun);
    pseudo.read_until(0, "(5 tries)", begun);
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(3) && took < Duration::from_secs(6),
        "{took:?}"
    );
    let (_, code) = pseudo
        .end_within(Duration::from_secs(5))
        .expect("it gives up");
    assert_eq!(code, Some(1));
}

#[test]
fn keys_that_come_together_are_taken_one_by_one() {
    let mut project = Project::new(
        "[process.a]\ncommand = [\"sleep\", \"1000\"]\n[process.b]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    project.up();
    let mut pseudo = Pseudo::new(&project, bpm_tui(), &[], (80, 24));
    let begun = pseudo.begun;
    pseudo.read_until(0, "follow", begun);
    let mark = pseudo.mark();
    pseudo.keys("\x1b[B/some\x1b[200~thing\nelse\x1b[201~\r");
    pseudo.read_until(mark, "/0 hits", Instant::now());
    pseudo.keys("\x1b[200~q\x1b[201~");
    pseudo.read_for(Duration::from_millis(300));
    assert!(
        pseudo.child.try_wait().unwrap().is_none(),
        "a paste is no key"
    );
    pseudo.keys("q");
    pseudo.read_for(Duration::from_millis(300));
    assert!(pseudo.end_within(Duration::from_secs(5)).is_some());
}
