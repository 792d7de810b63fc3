//! A reload moves what processes have from one to another: names, ports, sockets.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::load::get;
use common::{House, free_port};
use serde_json::json;

/// A process that ends, once it was told to, only when the file `go` is there.
fn slow(name: &str, more: &str) -> String {
    format!(
        "[process.{name}]\ncommand = \"trap 'until test -e go; do sleep 0.01; done; exit 0' TERM; echo up; while :; do sleep 0.01; done\"\nstop_timeout_seconds = 60\nready = {{ log = \"up\" }}\n{more}\n"
    )
}

/// Reloads; while `name` waits for the end of `old`, lets that one go.
fn reload_while_waiting(house: &House, name: &str, old: &str) -> serde_json::Value {
    std::thread::scope(|scope| {
        let http = house.http();
        let reload = scope.spawn(move || {
            let mut http = http;
            http.call("reload", json!({})).ok()
        });
        let listed = |data: &serde_json::Value| {
            let all = data["processes"].as_array().unwrap();
            all.iter().find(|p| p["name"] == name).cloned()
        };
        common::eventually(|| {
            let data = house.call("get_status", json!({})).ok();
            let waits = listed(&data).filter(|p| p["state"] == "waiting");
            let reason = waits.map(|p| p["reason"].clone());
            match reason == Some(json!(format!("waits for {old} to end"))) {
                true => Ok(()),
                false => Err(data["processes"].clone()),
            }
        });
        house.file("go", "");
        reload.join().unwrap()
    })
}

#[test]
fn a_new_name_begins_when_the_old_one_has_ended() {
    let mut house = House::new(&slow("old", ""));
    house.serve();
    house.running("old");
    house.config(&slow("new", ""));
    let done = reload_while_waiting(&house, "new", "old");
    assert_eq!(done["errors"], json!([]), "{done}");
    house.running("new");
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
    let mut house = House::new(&config(one, two));
    house.serve();
    house.running("quick");
    house.running("slow");
    house.config(&config(two, one));
    let done = reload_while_waiting(&house, "quick", "slow");
    assert_eq!(done["errors"], json!([]), "{done}");
    house.running("quick");
    house.running("slow");
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
    let mut house = House::new(&config("old"));
    house.file("version", "v1");
    house.serve();
    let before = socket(house.running("old"));
    house.config(&config("new"));
    let done = house.call("reload", json!({})).ok();
    assert_eq!(done["errors"], json!([]), "{done}");
    let pid = house.running("new");
    assert_eq!(socket(pid), before);
    assert_eq!(get(at).unwrap(), format!("v1 {pid}"));
}

#[test]
fn who_keeps_its_port_since_its_build_failed_holds_up_nobody() {
    let ports = [free_port(), free_port(), free_port()];
    let config = |a: u16, b: u16| {
        let process = |name, port, more| {
            format!(
                "[process.{name}]\ncommand = [\"sleep\", \"1000\"]\nready = {{ delay_seconds = 0.01 }}\nport = {port}\n{more}\n"
            )
        };
        process("a", a, "") + &process("b", b, "build = \"test ! -e bad\"")
    };
    let mut house = House::new(&config(ports[0], ports[1]));
    house.serve();
    house.running("a");
    let kept = house.running("b");
    house.file("bad", "");
    house.config(&config(ports[1], ports[2]));
    let done = house.call("reload", json!({})).data;
    assert!(done["errors"].to_string().contains("b: "), "{done}");
    house.running("a");
    assert_eq!(house.running("b"), kept);
}

#[test]
fn a_name_that_comes_back_while_its_process_is_leaving_begins_anew() {
    let keep = "[process.keep]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut house = House::new(&(keep.to_owned() + &slow("db", "")));
    house.serve();
    let before = house.running("db");
    house.config(keep);
    std::thread::scope(|scope| {
        let http = house.http();
        let removal = scope.spawn(move || {
            let mut http = http;
            http.call("reload", json!({})).ok()
        });
        common::eventually(|| {
            let data = house.call("get_status", json!({})).ok();
            match data["processes"].to_string().contains("\"stopping\"") {
                true => Ok(()),
                false => Err(data["processes"].clone()),
            }
        });
        let api = "[process.api]\ncommand = [\"sleep\", \"1000\"]\ndepends_on = [\"db\"]\n";
        house.config(&(keep.to_owned() + &slow("db", "") + api));
        let done = reload_while_waiting(&house, "api", "db");
        assert_eq!(done["errors"], json!([]), "{done}");
        removal.join().unwrap();
    });
    house.running("api");
    assert_ne!(house.running("db"), before);
}
