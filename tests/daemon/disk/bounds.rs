//! What a log takes of the disk is what the configuration says, whatever a process prints.

use std::fs;

use serde_json::json;

use super::files::{folder, said, search, segments, usage, wrote};
use crate::common::{Project, eventually};

#[test]
fn a_run_of_twenty_budgets_stays_within_one() {
    const BUDGET: u64 = 4 << 20;
    const LINES: u64 = 20 * BUDGET / 120;
    let mut project = Project::new(&format!(
        "log_disk = \"4M\"\nlog_bytes = \"64K\"\n[process.p]\ncommand = [\"FIXTURE\", \"flood\", \"{}\", \"took\"]\n",
        LINES * 120
    ));
    project.up();
    let folder = folder(&project, "p");
    let mut most = 0;
    eventually(|| {
        most = most.max(usage(&folder));
        assert!(most <= BUDGET, "{most}");
        project.read("took").trim().parse::<f64>()
    });
    wrote(&project, "p", LINES);
    assert!(most > BUDGET / 2, "{most}: most of the budget is used");
    // What is left has no gap, and its beginning is known to be gone.
    let kept = segments(&project, "p", "");
    assert!(kept.windows(2).all(|w| w[0].number + 1 == w[1].number));
    let bytes: usize = kept.iter().map(|s| s.bytes().len()).sum();
    let found = search(&project, "p", json!({"tail": 1}));
    let lines = found["matches"].as_u64().unwrap();
    assert!(lines >= bytes as u64 / 120, "{lines} of {bytes} bytes");
    assert_eq!(lines + found["dropped"].as_u64().unwrap(), LINES);
    project.cli(["stop"]).exits(0);
}

#[test]
fn many_runs_of_many_daemons_stay_within_it() {
    const BUDGET: u64 = 128 << 10;
    // An end that was asked for by nobody, three times for each daemon.
    let mut project = Project::new(
        "log_disk = \"128K\"\nrelease_crash_backoff_initial_seconds = 0\n[process.p]\n\
         command = \"seq 500; [ $((BPM_RUN % 4)) = 0 ] || exit 1; echo good; exec FIXTURE nap\"\n\
         build = \"seq 2000\"\n",
    );
    let mut first = 1;
    for daemon in 1..=12 {
        project.up();
        said(&project, "p", 4 * daemon, "good");
        let folder = folder(&project, "p");
        assert!(
            usage(&folder) <= BUDGET,
            "{:?}",
            fs::read_dir(&folder).unwrap().collect::<Vec<_>>()
        );
        let runs = segments(&project, "p", "");
        assert!(runs[0].run >= first, "only the oldest go");
        first = runs[0].run;
        let newest = search(&project, "p", json!({"tail": 1}));
        assert_eq!(newest["run"].as_u64(), Some(runs.last().unwrap().run));
        assert!(!segments(&project, "p", "b").is_empty());
        project.cli(["stop"]).exits(0);
    }
    assert!(first > 1, "the oldest went");
}

#[test]
fn a_budget_that_shrinks_counts_at_once() {
    let config = |disk: &str| {
        format!(
            "log_disk = {disk:?}\n[process.p]\ncommand = \"FIXTURE flood 3000000; exec FIXTURE nap\"\n\
             build = \"seq 20000\"\n"
        )
    };
    let mut project = Project::new(&config("16M"));
    project.up();
    wrote(&project, "p", 25_000);
    project.call("restart", json!({"process": "p"})).ok();
    wrote(&project, "p", 50_000);
    let folder = folder(&project, "p");
    assert!(usage(&folder) > 6_000_000);
    // Nobody writes, or builds, any more.
    project.config(&config("4M"));
    project.call("reload", json!({})).ok();
    assert!(usage(&folder) <= 4 << 20, "{}", usage(&folder));
    project.cli(["stop"]).exits(0);
    project.config(&config("256K"));
    project.cli(["logs", "p", "-n", "1"]).exits(0);
    assert!(
        usage(&folder) > 1 << 20,
        "who only reads takes nothing away"
    );
    project.config(&config("256K").replace("FIXTURE flood 3000000; ", ""));
    project.up();
    assert!(usage(&folder) <= 256 << 10, "{}", usage(&folder));
    project.cli(["stop"]).exits(0);
}

#[test]
fn a_budget_smaller_than_a_read_is_a_bound_too() {
    for budget in [16 << 10, 64 << 10] {
        let mut project = Project::new(&format!(
            "log_disk = {budget}\n[process.p]\ncommand = [\"FIXTURE\", \"flood\", \"3000000\", \"took\"]\n"
        ));
        project.up();
        let folder = folder(&project, "p");
        eventually(|| {
            let used = usage(&folder);
            assert!(used <= budget, "{used} of {budget}");
            project.read("took").trim().parse::<f64>()
        });
        project.cli(["stop"]).exits(0);
        assert!(usage(&folder) <= budget);
    }
}
