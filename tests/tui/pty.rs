//! What is written to the terminal, and that nothing depends on its being read.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{PATIENCE, Project, eventually};
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

/// Waits until the terminal's buffer is full, and stays so.
fn clogged(pseudo: &Pseudo) {
    let mut full = 0;
    eventually(|| {
        full = if pseudo.takes_more() { 0 } else { full + 1 };
        if full >= 50 { Ok(()) } else { Err("not full") }
    });
}

#[test]
fn a_terminal_that_stops_reading_costs_nothing_and_can_be_left() {
    let (_project, mut pseudo) = flood();
    pseudo.shows("follow");
    clogged(&pseudo);
    let rss = pseudo.rss();
    assert!(rss < 30 << 20, "{rss}");
    pseudo.keys("jkq");
    let (_, code) = pseudo.end_within(PATIENCE).expect("q leaves");
    assert_eq!(code, Some(0));
}

#[test]
fn term_ends_it_while_the_terminal_does_not_read() {
    let (_project, mut pseudo) = flood();
    pseudo.shows("follow");
    clogged(&pseudo);
    kill(Pid::from_raw(pseudo.child.id() as i32), Signal::SIGTERM).unwrap();
    let (_, code) = pseudo.end_within(PATIENCE).expect("TERM ends it");
    assert_eq!(code, None, "it is the signal's");
}

#[test]
fn a_terminal_that_is_gone_ends_it() {
    let mut project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    project.up();
    let mut pseudo = Pseudo::new(&project, bpm_tui(), &[], (80, 24));
    pseudo.shows("follow");
    pseudo.hang_up();
    assert!(pseudo.end_within(PATIENCE).is_some());
}

/// Bytes a second, over at least that time.
fn rate(pseudo: &mut Pseudo, span: Duration) -> f64 {
    let begun = Instant::now();
    let bytes = pseudo.read_for(span);
    bytes as f64 / begun.elapsed().as_secs_f64()
}

// The bounds themselves are measured by `just bench-tui`; here each has room for a machine that is busy.
#[test]
fn little_is_written_at_rest_and_not_much_in_a_flood() {
    let (_project, mut pseudo) = flood();
    pseudo.shows("follow");
    pseudo.read_for(Duration::from_secs(1));
    let bytes = rate(&mut pseudo, Duration::from_secs(3));
    assert!(bytes < 24_000.0, "{bytes} bytes a second in a flood");
    let nap: String = (0..10)
        .map(|n| format!("[process.nap{n}]\ncommand = [\"sleep\", \"1000\"]\n"))
        .collect();
    let mut project = Project::new(&nap);
    project.up();
    let mut pseudo = Pseudo::new(&project, bpm_tui(), &[], (80, 24));
    pseudo.shows("10: 10▶");
    pseudo.read_for(Duration::from_secs(2));
    let bytes = rate(&mut pseudo, Duration::from_secs(4));
    assert!(bytes < 1_200.0, "{bytes} bytes a second at rest");
}

#[test]
fn it_tries_five_times_and_gives_up() {
    let project = Project::empty();
    let mut pseudo = Pseudo::new(&project, bpm_tui(), &["unix:/nowhere"], (80, 24));
    let begun = Instant::now();
    pseudo.read_until(0, "connecting 1/5", begun);
    pseudo.read_until(0, "(5 tries)", begun);
    // 0.1, 0.2, 0.4, 0.8 and 1.6 s lie between them.
    let took = pseudo.begun.elapsed();
    assert!(took >= Duration::from_millis(3_100), "{took:?}");
    let (_, code) = pseudo.end_within(PATIENCE).expect("it gives up");
    assert_eq!(code, Some(1));
}

#[test]
fn keys_that_come_together_are_taken_one_by_one() {
    let mut project = Project::new(
        "[process.a]\ncommand = [\"sleep\", \"1000\"]\n[process.b]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    project.up();
    let mut pseudo = Pseudo::new(&project, bpm_tui(), &[], (80, 24));
    pseudo.shows("follow");
    pseudo.keys("\x1b[B/some\x1b[200~thing\nelse\x1b[201~\r");
    pseudo.shows("/0 hits");
    // A paste is no key: it runs on, and takes the next one.
    pseudo.keys("\x1b[200~q\x1b[201~?");
    pseudo.shows("the run before");
    assert!(pseudo.child.try_wait().unwrap().is_none());
    pseudo.keys("q");
    pseudo.read_until(0, "bpm runs on", Instant::now());
    let (_, code) = pseudo.end_within(PATIENCE).expect("q leaves");
    assert_eq!(code, Some(0));
}
