use super::*;
use serde_json::json;

/// SHA-256 (FIPS 180-4) in base64, as `Content-Security-Policy` wants it.
fn sha256(text: &str) -> String {
    let primes: Vec<u64> = (2u64..)
        .filter(|n| (2..*n).all(|d| n % d != 0))
        .take(64)
        .collect();
    // The first 32 bits of the fractional part of a root.
    let fraction = |root: f64| ((root - root.floor()) * 2f64.powi(32)) as u32;
    let k: Vec<u32> = primes
        .iter()
        .map(|p| fraction((*p as f64).cbrt()))
        .collect();
    let mut h: Vec<u32> = primes[..8]
        .iter()
        .map(|p| fraction((*p as f64).sqrt()))
        .collect();
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0x80);
    while bytes.len() % 64 != 56 {
        bytes.push(0);
    }
    bytes.extend_from_slice(&(text.len() as u64 * 8).to_be_bytes());
    for block in bytes.chunks(64) {
        let mut w: Vec<u32> = block
            .chunks(4)
            .map(|b| u32::from_be_bytes(b.try_into().unwrap()))
            .collect();
        for i in 16..64 {
            let (a, b) = (w[i - 15], w[i - 2]);
            let a = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let b = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            w.push(
                w[i - 16]
                    .wrapping_add(a)
                    .wrapping_add(w[i - 7])
                    .wrapping_add(b),
            );
        }
        let mut v = h.clone();
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let ch = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7]
                .wrapping_add(s1)
                .wrapping_add(ch)
                .wrapping_add(k[i])
                .wrapping_add(w[i]);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let maj = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(s0.wrapping_add(maj));
        }
        for (sum, v) in h.iter_mut().zip(v) {
            *sum = sum.wrapping_add(v);
        }
    }
    let digest: Vec<u8> = h.iter().flat_map(|word| word.to_be_bytes()).collect();
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in digest.chunks(3) {
        let bits =
            group.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            match i <= group.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

fn data() -> Value {
    json!({
        "project": "shop", "mode": "dev", "release_in_seconds": 10_680.0,
        "daemon": {"version": "0.2.0", "pid": 6035, "uptime_seconds": 7200.0, "rss_bytes": 3_000_000},
        "processes": [
            {"name": "api", "state": "running", "wanted": true, "mode": "dev", "pid": 4711, "ready": true,
             "uptime_seconds": 11_520.0, "restarts": 2, "cpu_percent": 12.25, "rss_bytes": 48_200_000,
             "ports": [8080, 9090], "url": "http://127.0.0.1:8080", "stale": true,
             "build": {"state": "failed", "errors": [
                {"file": "src/main.rs", "line": 7, "column": 5, "message": "E0308: mismatched types"}]}},
            {"name": "worker", "state": "crashed", "wanted": true, "mode": "release", "restarts": 0, "ports": [],
             "exit": {"code": 3}, "next_start_in_seconds": 12.0},
            {"name": "db", "state": "stopped", "wanted": false, "mode": "release", "restarts": 0, "ports": []},
        ],
        "events": [{"seq": 1, "time": "2026-11-21T02:46:50.123Z", "process": "api", "kind": "state", "text": "running"}],
    })
}

#[test]
fn sha256_is_that_of_the_standard() {
    assert_eq!(
        sha256("abc"),
        "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
    );
    assert_eq!(sha256(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

#[test]
fn policy_has_the_hashes_of_style_and_script() {
    for (what, text) in [("style-src", STYLE), ("script-src", SCRIPT)] {
        let wanted = format!("{what} 'sha256-{}';", sha256(text));
        assert!(POLICY.contains(&wanted), "page.rs needs: {wanted}");
    }
    let page = document(&data());
    assert!(page.contains(&format!("<style>{STYLE}</style>")));
    assert!(page.contains(&format!("<script>{SCRIPT}</script>")));
    assert_eq!(page.matches("<script").count(), 1);
    assert!(!page.contains(" style=") && !page.contains(" onclick=") && !page.contains("{{"));
}

#[test]
fn page_shows_everything_without_a_script() {
    let page = document(&data());
    for part in [
        "<title>\u{2717}2 shop - bpm</title>",
        "dev mode, release in 2h58m; bpm 0.2.0, pid 6035, up 2h00m, 2.9M",
        "<h2>What is wrong</h2>",
        "<li>api: src/main.rs:7:5: E0308: mismatched types</li>",
        "<li>worker: crashed: exit code 3; next start in 12s</li>",
        "<tr data-p=\"api\" data-up><td><span class=\"good\"><span aria-hidden=\"true\">\u{25b6}</span> running</span>",
        "* stale",
        "<a href=\"http://127.0.0.1:8080\" rel=\"noreferrer\">8080</a>",
        "<tr data-p=\"db\"><td><span class=\"off\">",
        "<time datetime=\"2026-11-21T02:46:50.123Z\">02:46:50</time> <b>api</b> <span>running</span>",
        "<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(page.contains(&part(&data())));
}

#[test]
fn names_and_lines_are_text() {
    let evil = "</title><script>alert(1)</script>\" onx='&\u{202e}\u{1b}[31m";
    let mut data = data();
    data["project"] = evil.into();
    data["processes"][0]["name"] = evil.into();
    data["processes"][0]["mode"] = evil.into();
    data["processes"][0]["state"] = evil.into();
    data["processes"][0]["url"] = "http://\"><b>:1".into();
    data["processes"][1]["reason"] = evil.into();
    data["daemon"]["version"] = evil.into();
    for field in ["time", "process", "text"] {
        data["events"][0][field] = evil.into();
    }
    let page = document(&data);
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("<b>").count(), 4, "three names and an event");
    assert!(!page.contains("onx='") && !page.contains('\u{202e}') && !page.contains('\u{1b}'));
    assert!(page.contains("\\u{202e}\\u{1b}[31m"));
}

#[test]
fn locked_page_has_no_datum() {
    let page = locked();
    assert!(page.contains("<title>bpm</title>") && page.contains("<body data-locked>"));
    assert!(page.contains("id=\"token\" class=\"bar\"><label>"));
    assert!(document(&data()).contains("id=\"token\" class=\"bar\" hidden><label>"));
    assert!(!page.contains("<tr"));
}

#[test]
fn warnings_of_bpm_itself_are_wrong_and_nothing_is_hidden() {
    let data = json!({"project": "shop", "mode": "dev", "daemon": {}, "processes": [], "events": [],
        "warnings": ["cannot write <daemon.json>: no\u{202e} space\u{2028}left\u{e0041}"]});
    let part = part(&data);
    let shown =
        r"<li>bpm: cannot write &lt;daemon.json&gt;: no\u{202e} space\u{2028}left\u{e0041}</li>";
    assert!(
        part.contains("<h2>What is wrong</h2>") && part.contains(shown),
        "{part}"
    );
}

#[test]
fn missing_values_and_builds_under_way_are_marked_for_the_style() {
    let building = json!({"name": "app", "state": "building", "mode": "dev", "restarts": 0,
        "build": {"state": "running", "seconds": 2.0}});
    let mut data = json!({"project": "shop", "mode": "dev", "daemon": {}, "processes": [building], "events": []});
    let shown = part(&data);
    for part in [
        "<h2>Under way</h2><ul><li>app: building, for 2.0s</li></ul>",
        "<td class=\"\" data-k=\"mode\">dev</td><td class=\"n no\" data-k=\"pid\">-</td>",
        "<td class=\"n\" data-k=\"restarts\">0</td>",
        "<td class=\"n no\" data-k=\"mem\"><span data-mem=\"\">-</span></td>",
        "<td class=\" no\" data-k=\"ports\">-</td>",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    data["processes"][0]["healthy"] = false.into();
    assert!(part(&data).contains("<h2>What is wrong</h2><ul class=\"is\">"));
}
