//! A reload moves what processes have from one to another: names, ports, sockets.

use crate::common::load::get;
use crate::common::{Project, free_port};
use serde_json::json;

/// A process that ends, once it was told to, only when the file `go` is there.
fn slow(name: &str, more: &str) -> String {
    format!(
        "[process.{name}]\ncommand = \"trap 'until test -e go; do sleep 0.01; done; exit 0' TERM; echo up; while :; do sleep 0.01; done\"\nstop_timeout_seconds = 60\nready = {{ log = \"up\" }}\n{more}\n"
    )
}

/// Reloads; while `name` waits for the end of `old`, lets that one go.
fn reload_while_waiting(project: &Project, name: &str, old: &str) -> serde_json::Value {
    std::thread::scope(|scope| {
        let http = project.http();
        let reload = scope.spawn(move || {
            let mut http = http;
            http.call("reload", json!({})).ok()
        });
        let listed = |data: &serde_json::Value| {
            let all = data["processes"].as_array().unwrap();
            all.iter().find(|p| p["name"] == name).cloned()
        };
        crate::common::eventually(|| {
            let data = project.call("get_status", json!({})).ok();
            let waits = listed(&data).filter(|p| p["state"] == "waiting");
            let reason = waits.map(|p| p["reason"].clone());
            match reason == Some(json!(format!("waits for {old} to end"))) {
                true => Ok(()),
                false => Err(data["processes"].clone()),
            }
        });
        project.file("go", "");
        reload.join().unwrap()
    })
}

#[test]
fn a_new_name_begins_when_the_old_one_has_ended() {
    let mut project = Project::new(&slow("old", ""));
    project.serve();
    project.running("old");
    project.config(&slow("new", ""));
    let done = reload_while_waiting(&project, "new", "old");
    assert_eq!(done["errors"], json!([]), "{done}");
    project.running("new");
}

#[test]
fn a_port_goes_from_one_to_another() {
    let (one, two) = (free_port(), free_port());
    let config = |a: u16, b: u16| {
        let port = |port: u16| format!("port = {port}");
        let quick = format!(
            "[process.quick]\ncommand = [\"sleep\", \"1000\"]\nready = {{ delay_seconds = 0.01 }}\n{}\n",
            port(a)
        );
        quick + &slow("slow", &port(b))
    };
    let mut project = Project::new(&config(one, two));
    project.serve();
    project.running("quick");
    project.running("slow");
    project.config(&config(two, one));
    let done = reload_while_waiting(&project, "quick", "slow");
    assert_eq!(done["errors"], json!([]), "{done}");
    project.running("quick");
    project.running("slow");
}

#[test]
fn a_held_socket_goes_to_whoever_has_its_address_now() {
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = |name: &str| {
        format!(
            "[process.{name}]\ncommand = [\"FIXTURE\", \"serve\"]\nlisten = [\"{at}\"]\nready = {{ log = \"serving\" }}\n"
        )
    };
    let socket = |pid: i32| std::fs::read_link(format!("/proc/{pid}/fd/3")).unwrap();
    let mut project = Project::new(&config("old"));
    project.file("version", "v1");
    project.serve();
    let before = socket(project.running("old"));
    project.config(&config("new"));
    let done = project.call("reload", json!({})).ok();
    assert_eq!(done["errors"], json!([]), "{done}");
    let pid = project.running("new");
    assert_eq!(socket(pid), before);
    assert_eq!(get(at).unwrap(), format!("v1 {pid}"));
}

#[test]
fn kept_port_of_a_failed_build_holds_up_nobody() {
    let ports = [free_port(), free_port(), free_port()];
    let config = |a: u16, b: u16| {
        let process = |name, port, more| {
            format!(
                "[process.{name}]\ncommand = [\"sleep\", \"1000\"]\nready = {{ delay_seconds = 0.01 }}\nport = {port}\n{more}\n"
            )
        };
        process("a", a, "") + &process("b", b, "build = \"test ! -e bad\"")
    };
    let mut project = Project::new(&config(ports[0], ports[1]));
    project.serve();
    project.running("a");
    let kept = project.running("b");
    project.file("bad", "");
    project.config(&config(ports[1], ports[2]));
    let done = project.call("reload", json!({})).data;
    assert!(done["errors"].to_string().contains("b: "), "{done}");
    project.running("a");
    assert_eq!(project.running("b"), kept);
}

#[test]
fn a_name_that_comes_back_while_its_process_is_leaving_begins_anew() {
    let keep = "[process.keep]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut project = Project::new(&(keep.to_owned() + &slow("db", "")));
    project.serve();
    let before = project.running("db");
    project.config(keep);
    std::thread::scope(|scope| {
        let http = project.http();
        let removal = scope.spawn(move || {
            let mut http = http;
            http.call("reload", json!({})).ok()
        });
        crate::common::eventually(|| {
            let data = project.call("get_status", json!({})).ok();
            match data["processes"].to_string().contains("\"stopping\"") {
                true => Ok(()),
                false => Err(data["processes"].clone()),
            }
        });
        let api = "[process.api]\ncommand = [\"sleep\", \"1000\"]\ndepends_on = [\"db\"]\n";
        project.config(&(keep.to_owned() + &slow("db", "") + api));
        let done = reload_while_waiting(&project, "api", "db");
        assert_eq!(done["errors"], json!([]), "{done}");
        removal.join().unwrap();
    });
    project.running("api");
    assert_ne!(project.running("db"), before);
}

#[test]
fn edited_env_file_is_a_change_to_reload() {
    let mut project = Project::new(
        "[process.web]\ncommand = \"echo word $WORD; exec sleep 1000\"\nenv_file = \".env\"\n\
         [process.other]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    project.file(".env", "WORD=one\n");
    project.serve();
    project.line("web", "word one");
    let other = project.running("other");
    let reload = || project.call("reload", json!({})).ok();
    assert_eq!(reload()["changed"], json!([]));
    project.file(".env", "# a comment\nWORD=one\n");
    assert_eq!(reload()["changed"], json!([]));
    project.file(".env", "WORD=two\n");
    assert_eq!(reload()["changed"], json!(["web"]));
    project.line("web", "word two");
    assert_eq!(reload()["changed"], json!([]));
    assert_eq!(project.running("other"), other);
}

#[test]
fn a_file_that_grows_without_end_changes_nothing() {
    let mut project = Project::new("[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    project.serve();
    let pid = project.running("a");
    let mut text = String::from(
        "[process.a]\ncommand = [\"sleep\", \"1000\"]\n[process.a.env]\nA0 = \"xxxxxxxxxx\"\n",
    );
    for i in 1..60 {
        text += &format!("A{i} = \"${{A{}}}${{A{}}}\"\n", i - 1, i - 1);
    }
    project.config(&text);
    project
        .cli(["check"])
        .exits(1)
        .says(&[".mcp-run:18:7: \"env.A14\" in [process.a]: longer than 128 KiB"]);
    project.cli(["reload"]).exits(1);
    assert_eq!(project.running("a"), pid);
    // The same in a file that is read at the start of a process only.
    let mut text = String::from("A0=xxxxxxxxxx\n");
    for i in 1..60 {
        text += &format!("A{i}=${{A{}}}${{A{}}}\n", i - 1, i - 1);
    }
    project.file(".env", &text);
    project.config("[process.a]\ncommand = [\"sleep\", \"1000\"]\nenv_file = \".env\"\n");
    project
        .cli(["check"])
        .exits(1)
        .says(&[".env:15:1: A14: longer than 128 KiB"]);
    project
        .cli(["reload"])
        .exits(1)
        .says(&["A14: longer than 128 KiB"]);
    project.cli(["status"]);
    project.config("[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    project.cli(["reload"]).exits(0);
    project.running("a");
}

#[test]
fn env_files_are_expanded_and_checked() {
    let mut project = Project::new(
        "[process.a]\ncommand = \"echo \\\"$URL $PW\\\"; exec sleep 1000\"\nenv_file = \".env\"\nready.log = \"x://\"\n",
    );
    project.file(
        ".env",
        "DB=db\nURL=\"x://${DB}:${NO_PORT:-5432}/${NO_NAME}\"\nPW=a$DB\nOTHER\n",
    );
    let said = project.cli(["check"]).exits(0);
    for line in [
        ".env:2:1: URL: ${NO_NAME} is not set, and replaced by nothing\n",
        ".env:3:1: PW: $DB stays as it is; ${DB} would be replaced\n",
        ".env:4:1: a name without a value: that variable stays as it is\n",
        "no mistakes; processes: a\n",
    ] {
        assert!(said.out.contains(line), "{line}: {}", said.out);
    }
    project.serve();
    project.running("a");
    assert_eq!(project.logs("a"), ["x://db:5432/ a$DB"]);
    let before = project.running("a");
    project.file(".env", "DB='d\n");
    for dry_run in [["reload", "--dry-run"].as_slice(), &["reload"]] {
        let said = project.cli(dry_run).exits(1);
        let mistake = ".env:1:4: the quote of DB is not closed";
        assert!(said.err.contains(mistake), "{said:?}");
    }
    assert_eq!(project.running("a"), before);
    project
        .cli(["check"])
        .exits(1)
        .says(&[".env:1:4: the quote of DB is not closed"]);
    project.remove(".env");
    project.cli(["check"]).exits(1).says(&[
        ".mcp-run:3:12: \"env_file\" in [process.a]: cannot read ",
        "no such file",
    ]);
    project
        .cli(["reload"])
        .exits(1)
        .says(&[".mcp-run:3:12: \"env_file\" in [process.a]: cannot read "]);
    project.cli(["restart", "a"]).exits(1).says(&[
        "cannot start a: env_file ",
        ".env: no such file",
        "the old run still serves",
    ]);
    assert_eq!(project.running("a"), before);
}

#[test]
fn reload_names_the_keys_that_wait_for_the_next_daemon() {
    const NAP: &str = "[process.nap]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut project = Project::new(NAP);
    project.serve();
    let nap = project.running("nap");
    let reload = |lines: &str| {
        project.config(&format!("{lines}\n{NAP}"));
        project.call("reload", json!({})).ok()["errors"].clone()
    };
    let told = reload("cgroup = false\npassthrough = true");
    let keys = "cgroup, passthrough take effect with: bpm daemon restart";
    assert_eq!(told, json!([keys]));
    let told = reload("cgroup = false\npassthrough = true\nheartbeat_minutes = 1");
    assert_eq!(told, json!([]));
    assert_eq!(project.running("nap"), nap);
}

#[test]
fn reload_names_those_whose_run_takes_the_new_settings() {
    let nap = |more: &str| format!("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n{more}\n");
    let mut project = Project::new(&nap(""));
    project.serve();
    let pid = project.running("nap");
    project.config(&nap("stop_timeout_seconds = 9"));
    let said = project.cli(["reload", "--dry-run"]).exits(0).out;
    assert_eq!(said, "adjusted: nap\n");
    let done = project.call("reload", json!({})).ok();
    assert_eq!(
        done,
        json!({"changed": [], "added": [], "removed": [], "unchanged": ["nap"],
               "adjusted": ["nap"], "errors": []})
    );
    assert_eq!(project.running("nap"), pid);
    assert_eq!(project.cli(["reload"]).exits(0).out, "nothing changed\n");
}
