//! Builds: release first, dev on restart, and a failed one leaves everything as it was.

use std::fs;

use crate::common::{Project, murder};
use serde_json::{Value, json};

const RUST: &str = "[process.app]\ntype = \"rust\"\n";

/// A rust process under the fake cargo that says `one`.
fn rust(config: &str) -> Project {
    let mut project = Project::new(config);
    project.fake_cargo();
    project.source("echo one; exec sleep 1000");
    project
}

fn restart(project: &Project) -> crate::common::Answer {
    project.call("restart", json!({"process": "app"}))
}

#[test]
fn the_first_build_is_for_release_and_a_restart_for_dev() {
    let mut project = rust(RUST);
    project.serve();
    let first = project.running("app");
    let status = project.status("app");
    assert_eq!(status["mode"], "release");
    assert_eq!(
        (&status["build"]["ok"], &status["build"]["mode"]),
        (&json!(true), &json!("release"))
    );
    assert!(project.read("cargo-calls").contains("--release"));

    project.source("echo two; exec sleep 1000");
    let done = restart(&project).ok();
    assert_eq!(done["ok"], true, "{done}");
    assert_eq!(done["mode"], "dev");
    assert_eq!(done["previous_pid"], first);
    assert_eq!(done["build"]["ok"], true);
    assert_eq!(done["build"]["errors"], json!([]));
    assert_ne!(done["pid"], first);
    assert!(done["gap_seconds"].is_number(), "{done}");
    assert!(
        done["release_in_seconds"].as_f64().unwrap() > 10_000.0,
        "{done}"
    );
    project.says("app", &["two"]);

    let status = project.call("get_status", json!({})).ok();
    assert_eq!(status["mode"], "dev");
    assert_eq!(status["processes"][0]["pid"], done["pid"]);
    let back = project
        .call("restart", json!({"process": "app", "mode": "release"}))
        .ok();
    assert_eq!(back["mode"], "release");
    let log = project.lines("search_build_log", json!({"process": "app"}));
    assert!(log.iter().any(|l| l.contains("Compiling app")), "{log:?}");
}

#[test]
fn a_failed_build_leaves_the_old_run() {
    let mut project = rust(RUST);
    project.serve();
    let pid = project.running("app");

    project.file("src/broken", "mismatched types");
    let error = restart(&project).error();
    for part in [
        "E0308",
        "mismatched types",
        "src/main.rs:3:5",
        "still serves",
        &pid.to_string(),
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let status = project.status("app");
    assert_eq!(status["state"], "running");
    assert_eq!(status["pid"], pid);
    assert_eq!(status["stale"], true);
    assert_eq!(status["build"]["ok"], false);
    let first = &status["build"]["errors"][0];
    assert_eq!(first["file"], "src/main.rs");
    assert_eq!((&first["line"], &first["column"]), (&json!(3), &json!(5)));
    assert!(
        first["message"]
            .as_str()
            .unwrap()
            .contains("mismatched types")
    );
    let log = project.lines(
        "search_build_log",
        json!({"process": "app", "pattern": "E0308"}),
    );
    assert!(!log.is_empty());

    project.remove("src/broken");
    project.source("echo mended; exec sleep 1000");
    restart(&project).ok();
    let status = project.status("app");
    assert_eq!(status["stale"], false);
    assert_ne!(status["pid"], pid);
    project.says("app", &["mended"]);
}

#[test]
fn a_second_restart_during_a_build_is_answered_too() {
    let mut project = rust(RUST);
    project.serve();
    let pid = project.running("app");
    let gate = project.gate();
    let url = project.descriptor()["url"].as_str().unwrap().to_string();
    let ask = |url: String| {
        std::thread::spawn(move || {
            crate::common::Http::to(&url)
                .call("restart", json!({"process": "app"}))
                .ok()
        })
    };
    let first = ask(url.clone());
    project.status_when("app", |s| s["build"]["state"] == "running");
    project.source("echo two; exec sleep 1000");
    let second = ask(url);
    // The old run serves while both wait.
    let status = project.status("app");
    assert_eq!(
        (&status["state"], &status["pid"]),
        (&json!("running"), &json!(pid))
    );
    // One build goes on, and one more comes after it.
    gate.open();
    gate.open();
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert_eq!((&first["ok"], &second["ok"]), (&json!(true), &json!(true)));
    assert_eq!(second["pid"], project.running("app"));
    project.says("app", &["two"]);
    gate.remove();
}

#[test]
fn two_restarts_each_get_the_errors_of_their_own_build() {
    let mut project = rust(RUST);
    project.serve();
    project.running("app");
    project.file("src/broken", "mismatched types");
    let gate = project.gate();
    let url = project.descriptor()["url"].as_str().unwrap().to_string();
    let ask = |url: String| {
        std::thread::spawn(move || {
            crate::common::Http::to(&url)
                .call("restart", json!({"process": "app"}))
                .error()
        })
    };
    let first = ask(url.clone());
    project.status_when("app", |s| s["build"]["state"] == "running");
    let second = ask(url);
    // The second build begins with the end of the first.
    project.status("app");
    gate.open();
    gate.open();
    for (told, build) in [(first, "build 2 failed"), (second, "build 3 failed")] {
        let told = told.join().unwrap();
        for part in [build, "src/main.rs:3:5", "mismatched types", "error[E0308]"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    gate.remove();
}

#[test]
fn a_call_that_takes_too_long_says_how_to_wait() {
    let mut project = rust(RUST);
    project.serve();
    let pid = project.running("app");
    let gate = project.gate();
    let args = json!({"process": "app", "timeout_seconds": 0.05});
    let late = project.call("restart", args);
    assert!(late.text.contains("wait"), "{}", late.text);
    let late = late.ok();
    assert_eq!(late["timed_out"], true);
    assert_eq!(late["pid"], pid);
    // It goes on by itself.
    gate.open();
    project.status_when("app", |s| s["restarts"] == 1 && s["state"] == "running");
    gate.remove();
}

#[test]
fn a_failed_first_build_is_tried_again() {
    let mut project =
        rust("release_crash_backoff_initial_seconds = 0.2\n[process.app]\ntype = \"rust\"\n");
    project.file("src/broken", "expected expression");
    project.serve();
    let status = project.status_when("app", |s| s["state"] == "failed");
    assert_eq!(status["pid"], Value::Null);
    assert_eq!(status["build"]["ok"], false);
    // The second try is a state of its own, not the failure of the first.
    project.status_when("app", |s| s["state"] == "failed" && s["build"]["id"] != 1);
    project.remove("src/broken");
    project.running("app");
    let events = project.call("get_status", json!({"events_since": 0})).ok()["events"].to_string();
    assert!(events.contains("failed: build failed"), "{events}");
    assert!(!events.contains("building: "), "{events}");
}

#[test]
fn a_stop_ends_a_build() {
    let mut project = rust(RUST);
    let gate = project.gate();
    project.serve();
    project.status_when("app", |s| s["state"] == "building");
    let done = project.call("stop", json!({"process": "app"})).ok();
    assert_eq!(done["ok"], true, "{done}");
    assert_eq!(project.status("app")["state"], "stopped");
    assert!(
        project.inhabitants().is_empty(),
        "{:?}",
        project.inhabitants()
    );
    gate.remove();
    project.call("start", json!({"process": "app"})).ok();
    project.says("app", &["one"]);
}

#[test]
fn a_build_that_takes_too_long_is_killed() {
    let mut project = rust("[process.app]\ntype = \"rust\"\nbuild_timeout_seconds = 0.2\n");
    let _gate = project.gate();
    project.serve();
    let status = project.status_when("app", |s| s["state"] == "failed");
    let reason = status["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("0.2"), "{status}");
    project.call("stop", json!({"process": "app"})).ok();
    assert!(
        project.inhabitants().is_empty(),
        "{:?}",
        project.inhabitants()
    );
}

#[test]
fn run_of_a_build_is_a_copy_with_the_environment_of_cargo_run() {
    let mut project = rust(RUST);
    project.source("echo argv $0; echo manifest $CARGO_MANIFEST_DIR; exec sleep 1000");
    project.serve();
    let pid = project.running("app");
    let root = project.root.display().to_string();
    project.line("app", &format!("manifest {root}"));
    // The next build may write in place: it can't touch what runs.
    project.file("target/release/app", "#!/bin/sh\nexit 1\n");
    assert_eq!(project.running("app"), pid);
    murder(pid);
    project.status_when("app", |s| s["restarts"] == 1 && s["state"] == "running");
}

#[test]
fn an_idle_project_goes_back_to_release() {
    // A second without a call.
    let mut project = rust("dev_timeout_hours = 0.0003\n[process.app]\ntype = \"rust\"\n");
    project.serve();
    project.running("app");
    restart(&project).ok();
    // Looking at the calls of cargo is no activity; asking for the status would be.
    crate::common::eventually(|| {
        let calls = project.read("cargo-calls");
        let last = calls.lines().last().unwrap_or_default();
        if last.contains("--release") && calls.lines().count() == 3 {
            Ok(())
        } else {
            Err(calls)
        }
    });
    project.status_when("app", |s| s["mode"] == "release" && s["state"] == "running");
}

#[test]
fn a_build_of_ones_own() {
    let mut project = Project::new(
        r#"
[process.app]
command = "cat made; exec sleep 1000"
build = "echo building; echo dev >made"
build_release = ["sh", "-c", "echo release >made"]
"#,
    );
    project.serve();
    project.running("app");
    project.says("app", &["release"]);
    restart(&project).ok();
    project.says("app", &["dev"]);
    assert_eq!(
        project.lines("search_build_log", json!({"process": "app"})),
        ["building"]
    );
    // Without a build what is there is started anew.
    project.file("made", "by hand\n");
    let args = json!({"process": "app", "build": false});
    assert_eq!(project.call("restart", args).ok()["build"], Value::Null);
    project.says("app", &["by hand"]);
}

#[test]
fn cargo_missing_is_said() {
    let mut project = Project::new(
        "[process.app]\ntype = \"rust\"\n[process.nap]\ncommand = [\"/bin/sleep\", \"1000\"]\n",
    );
    project.env("PATH", "/nonexistent");
    project.serve();
    let status = project.status_when("app", |s| s["state"] == "failed");
    assert!(
        status["reason"]
            .as_str()
            .unwrap_or_default()
            .contains("cargo"),
        "{status}"
    );
    let error = restart(&project).error();
    assert!(error.contains("cargo"), "{error}");
    project.running("nap");
}

#[test]
fn direnv_gives_the_environment_or_says_why_not() {
    let mut project =
        Project::new("[process.app]\ncommand = \"echo from $FROM_ENVRC; exec sleep 1000\"\n");
    project.file(".envrc", "export FROM_ENVRC=envrc\n");
    project.program(
        "fake/direnv",
        r#"#!/bin/sh
if [ -e blocked ]; then
  echo "direnv: error $2/.envrc is blocked. Run \`direnv allow\` to approve its content" >&2
  exit 1
fi
[ "$1" = exec ] || exit 2
shift 2
FROM_ENVRC=$(cat value) exec "$@"
"#,
    );
    project.file("value", "one");
    project.path_first("fake");
    project.serve();
    project.running("app");
    project.says("app", &["from one"]);
    // Anew at each start.
    project.file("value", "two");
    restart(&project).ok();
    project.says("app", &["from two"]);
    project.file("blocked", "");
    let error = restart(&project).error();
    assert!(error.contains("direnv allow"), "{error}");
}

#[test]
fn direnv_missing_is_said() {
    let mut project = Project::new("[process.app]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
    project.file(".envrc", "");
    project.env("PATH", "/nonexistent");
    project.serve();
    let error = project.call("start", json!({"process": "app"})).error();
    assert!(error.contains("direnv"), "{error}");
}

#[test]
fn the_real_cargo_builds_and_fails() {
    let mut project = Project::new(RUST);
    let source = |text: &str| {
        format!("fn main() {{\n    {text}\n    loop {{\n        std::thread::park();\n    }}\n}}\n")
    };
    project.file(
        "Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
    );
    project.file("src/main.rs", &source("println!(\"one\");"));
    project.serve();
    let pid = project.running("app");
    project.says("app", &["one"]);
    assert!(project.root.join("target/release/app").exists());

    project.file("src/main.rs", &source("let n: u32 = \"no number\";"));
    let error = restart(&project).error();
    for part in [
        "E0308",
        "mismatched types",
        "src/main.rs:2:18",
        "still serves",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    assert_eq!(project.running("app"), pid);

    project.file("src/main.rs", &source("println!(\"two\");"));
    restart(&project).ok();
    project.says("app", &["two"]);
}

#[test]
fn two_binaries_and_none_named_are_listed() {
    let mut project = Project::new(RUST);
    project.file(
        "Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
    );
    project.file("src/bin/here.rs", "fn main() {}");
    project.file("src/bin/there.rs", "fn main() {}");
    project.serve();
    let status = project.status_when("app", |s| s["state"] == "failed");
    let reason = status["reason"].as_str().unwrap();
    assert!(
        reason.contains("here") && reason.contains("there"),
        "{reason}"
    );
}

/// The copies of the binary that there are.
fn copies(project: &Project) -> usize {
    let folder = project.state_folder().unwrap().join("bin/app");
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn few_copies_are_kept_and_what_runs_is_one() {
    let mut project = Project::new(RUST);
    project.fake_cargo();
    project.source("echo v0; exec sleep 1000");
    for life in 0..2 {
        project.serve();
        project.running("app");
        for n in 1..=4 {
            project.source(&format!("echo v{life}{n}; exec sleep 1000"));
            project.call("restart", json!({"process": "app"})).ok();
            project.says("app", &[format!("v{life}{n}")]);
            // Besides what runs: the newest of the other mode, and the one before.
            assert!(copies(&project) <= 3, "{}", copies(&project));
        }
        project.signal(nix::sys::signal::Signal::SIGTERM);
        project.ended();
    }
    assert!(copies(&project) <= 3);
}

#[test]
fn a_binary_that_somebody_removed_is_built_once_more() {
    let mut project = Project::new(&format!(
        "release_crash_backoff_initial_seconds = 0\n{RUST}"
    ));
    project.fake_cargo();
    project.source("echo v1; exec sleep 1000");
    project.serve();
    let old = project.running("app");
    fs::remove_dir_all(project.state_folder().unwrap().join("bin")).unwrap();
    murder(old);
    let status = project.status_when("app", |s| s["state"] == "running" && s["pid"] != old);
    assert_eq!(
        (&status["restarts"], &status["crashes"]),
        (&json!(1), &json!(1))
    );
    // Whoever asks for a start is answered by the one that follows.
    fs::remove_dir_all(project.state_folder().unwrap().join("bin")).unwrap();
    project.call("stop", json!({"process": "app"})).ok();
    project.call("start", json!({"process": "app"})).ok();
    let again = json!({"process": "app", "mode": "release", "build": false});
    fs::remove_dir_all(project.state_folder().unwrap().join("bin")).unwrap();
    project.call("restart", again).ok();
}

#[test]
fn binary_finds_the_other_executables_of_its_build_beside_itself() {
    let mut project = rust(RUST);
    project.source("exec \"$(dirname \"$0\")/worker\"");
    project.program(
        "target/release/worker",
        "#!/bin/sh\necho helped; exec sleep 1000\n",
    );
    project.serve();
    project.running("app");
    assert_eq!(project.line("app", "helped"), "helped");
}

#[test]
fn binary_of_another_user_can_be_reached_by_it() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let mut project = rust("[process.app]\ntype = \"rust\"\nuser = \"nobody\"\n");
    project.source("id -un; \"$(dirname \"$0\")/worker\"; exec sleep 1000");
    for folder in project.root.ancestors().take(2) {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(folder, open).unwrap();
    }
    project.serve();
    project.running("app");
    assert_eq!(project.line("app", "nobody"), "nobody");
    // What the build makes beside it is there for its next start, and the copy is that user's.
    let copy = project.root.join("target/release/.bpm/app/1/app");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&copy).unwrap());
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(owner, nobody.uid.as_raw());
}
