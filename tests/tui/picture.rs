//! Pictures as text, at all sizes.

use std::fs;
use std::path::Path;

use bpm::tui::cell::{Color, Grid, Style};
use bpm::tui::input::{Key, Typed};
use bpm::tui::model::{Answer, Ask, Batch, Effect, Input, Link, Look, Model, Told};
use bpm::tui::painter::{Depth, Painter};
use bpm::tui::picture::picture;
use serde_json::{Value, json};

use crate::scenes::{self, clock, look, tell};

const SIZES: [(u16, u16); 5] = [(200, 60), (120, 40), (80, 24), (40, 12), (19, 4)];

fn golden(name: &str, shown: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/tui/golden/{name}.txt"));
    if std::env::var_os("BPM_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, shown).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == shown,
        "{name} is another picture now (BPM_GOLDEN=1 keeps it):\n{shown}\nbefore:\n{expected}"
    );
}

fn drawn(model: &mut Model, w: u16, h: u16) -> Grid {
    let at = model.clock;
    model.update(Input::Size(w, h), at);
    picture(model)
}

/// The picture of a scene at every size.
fn everywhere(name: &str, model: &mut Model) {
    for (w, h) in SIZES {
        golden(&format!("{name}-{w}x{h}"), &drawn(model, w, h).text());
    }
}

fn key(model: &mut Model, key: Key) {
    let at = model.clock;
    model.update(Input::Typed(Typed::Key(key)), at);
}

#[test]
fn a_live_project_is_drawn() {
    everywhere("live", &mut scenes::live(look()));
}

#[test]
fn connecting_is_drawn() {
    let mut model = scenes::new(look());
    tell(&mut model, Told::Link(Link::Trying(3)), 0);
    everywhere("connecting", &mut model);
}

#[test]
fn a_lost_server_is_drawn() {
    let mut model = scenes::live(look());
    let (since, again) = (clock(12).now, clock(27).now);
    tell(&mut model, Told::Link(Link::Gone { since, again }), 24);
    everywhere("gone", &mut model);
}

#[test]
fn a_stopped_server_is_drawn() {
    let mut model = scenes::live(look());
    let at = scenes::NOW - 228_000;
    let by = Some("bpm stop".into());
    tell(&mut model, Told::Link(Link::Stopped { at, by }), 20);
    golden("stopped-80x24", &drawn(&mut model, 80, 24).text());
}

#[test]
fn no_process_is_drawn() {
    let mut model = scenes::new(look());
    tell(&mut model, Told::Link(Link::Live), 0);
    tell(&mut model, Told::Status(scenes::status(&[])), 0);
    everywhere("none", &mut model);
}

#[test]
fn a_failed_build_and_its_errors_are_drawn() {
    let mut model = scenes::live(look());
    key(&mut model, Key::Char('e'));
    everywhere("errors", &mut model);
}

#[test]
fn the_help_is_drawn() {
    let mut model = scenes::live(look());
    let at = model.clock;
    model.update(
        Input::Note("api: not restarted: build failed\n  see e".into(), true),
        at,
    );
    key(&mut model, Key::Char('?'));
    everywhere("help", &mut model);
}

#[test]
fn five_hundred_processes_are_drawn() {
    let mut model = scenes::many(look());
    (0..300).for_each(|_| key(&mut model, Key::Down));
    everywhere("many", &mut model);
    let shown = drawn(&mut model, 80, 24).text();
    assert!(shown.contains("300"), "the selection is seen");
}

#[test]
fn wide_characters_are_drawn() {
    let mut model = scenes::wide(look());
    everywhere("wide", &mut model);
    key(&mut model, Key::Char('l'));
    golden("wide-wrapped-80x24", &drawn(&mut model, 80, 24).text());
}

#[test]
fn ascii_is_ascii() {
    let mut model = scenes::live(Look {
        ascii: true,
        ..look()
    });
    for (w, h) in SIZES {
        let shown = drawn(&mut model, w, h).text();
        assert!(shown.is_ascii(), "{shown}");
    }
    golden("ascii-80x24", &drawn(&mut model, 80, 24).text());
}

#[test]
fn plain_mode_is_lines_alone() {
    let mut model = scenes::live(look());
    key(&mut model, Key::Char('z'));
    let shown = drawn(&mut model, 80, 24).text();
    golden("plain-80x24", &shown);
    assert!(shown.starts_with("listening on 8080\n"));
}

#[test]
fn no_color_has_none() {
    let mut model = scenes::live(look());
    let mut painter = Painter::new(Depth::None);
    let bytes = painter.paint(drawn(&mut model, 80, 24));
    for sequence in bytes.split("\x1b[").skip(1) {
        let Some((codes, _)) = sequence.split_once('m') else {
            continue;
        };
        if codes.bytes().all(|b| b.is_ascii_digit() || b == b';') {
            let plain = ["", "1", "4", "7"];
            assert!(
                codes.split(';').all(|code| plain.contains(&code)),
                "{codes:?}"
            );
        }
    }
}

#[test]
fn only_the_selection_has_a_background() {
    let mut model = scenes::live(look());
    let grid = drawn(&mut model, 120, 40);
    let colored = (0..40).flat_map(|y| grid.row(y).to_vec());
    assert!(
        colored
            .into_iter()
            .all(|cell| cell.style.bg == Color::Default)
    );
}

#[test]
fn the_selection_has_no_other_colors() {
    let selected = |grid: &Grid, y: u16, columns: std::ops::Range<usize>| {
        let row = grid.row(y);
        row[columns]
            .iter()
            .all(|cell| cell.style == Style::SELECTED)
    };
    let mut model = scenes::live(look());
    key(&mut model, Key::Down);
    let grid = drawn(&mut model, 80, 24);
    let at = |grid: &Grid, words: &str| {
        let shown = grid.text();
        let y = shown.lines().position(|line| line.contains(words));
        y.unwrap_or_else(|| panic!("{words} is not in\n{shown}")) as u16
    };
    assert!(selected(&grid, at(&grid, "›✗ worker"), 3..29));
    key(&mut model, Key::Up);
    key(&mut model, Key::Char('e'));
    let grid = drawn(&mut model, 80, 24);
    assert!(selected(&grid, at(&grid, "src/main.rs:3:5"), 5..75));
}

#[test]
fn every_mark_has_its_word() {
    let mut model = scenes::live(look());
    for (w, h) in [(200, 60), (120, 40)] {
        let shown = drawn(&mut model, w, h).text();
        for (mark, word) in [
            ("✗ worker", "crashed, code 3, in 12s"),
            ("■ db-migrations", "stopped"),
            ("◌ search", "building"),
            ("▶ web‹", "not ready"),
        ] {
            let line = shown.lines().find(|l| l.contains(mark));
            assert!(
                line.is_some_and(|l| l.contains(word)),
                "{mark}: {word} in\n{shown}"
            );
        }
    }
}

#[test]
fn the_first_picture_is_small() {
    for (w, h, most) in [(80, 24, 6_000), (200, 60, 24_000)] {
        let mut model = scenes::live(look());
        let text = "x".repeat(200);
        let full = (10..80).map(|n| scenes::line(n, &text)).collect();
        let told = scenes::lines(&model, full, 0);
        tell(&mut model, told, 12);
        let bytes = Painter::new(Depth::Indexed).paint(drawn(&mut model, w, h));
        assert!(bytes.len() <= most, "{w}x{h}: {} bytes", bytes.len());
    }
}

#[test]
fn rows_say_when_a_process_is_started_again() {
    let mut model = scenes::new(look());
    tell(&mut model, Told::Link(Link::Live), 0);
    let failed = |name: &str| {
        json!({"name": name, "state": "failed", "next_start_in_seconds": 1.0,
            "build": {"id": 1, "state": "failed", "ok": false, "errors": []}})
    };
    let status = scenes::status(&[failed("app"), failed("gateway")]);
    tell(&mut model, Told::Status(status), 0);
    let shown = drawn(&mut model, 80, 24).text();
    assert!(shown.contains("›✗ app build failed, in 1s"), "{shown}");
    assert!(shown.contains(" ✗ gateway  build ✗, in 1s"), "{shown}");
}

#[test]
fn a_message_is_shown_where_the_figures_of_the_daemon_were() {
    let mut model = scenes::live(look());
    let at = model.clock;
    let words =
        "api: not restarted: build 14 failed after 0.0s: exit code 1; hint: bpm logs --build api";
    model.update(Input::Note(words.into(), true), at);
    let shown = drawn(&mut model, 80, 24).text();
    for row in [
        "│ ● live   shop              │",
        "│ api: not restarted: build  │",
        "│ 14 failed after 0.0s: exit │",
        "│ code 1; hint: bpm logs…    │",
    ] {
        assert!(shown.contains(row), "{row} is not in\n{shown}");
    }
    let shown = drawn(&mut model, 120, 40).text();
    assert!(shown.contains("--build api "), "{shown}");
}

#[test]
fn errors_of_status_and_build_log_are_listed_once() {
    let mut model = scenes::live(look());
    let mut api = scenes::api();
    api["build"]["errors"][0]["message"] =
        json!("E0308: mismatched types:\nerror[E0308]: mismatched types");
    tell(&mut model, Told::Status(scenes::status(&[api])), 12);
    key(&mut model, Key::Char('e'));
    let answer = Answer {
        ask: Ask::Faults("api".into()),
        text: "error[E0308]: mismatched types\n  --> src/main.rs:3:5\n\
               warning: unused variable\n  --> src/main.rs:4:1\n"
            .into(),
        data: Value::Null,
        failed: false,
    };
    tell(&mut model, Told::Answer(answer), 12);
    let shown = drawn(&mut model, 80, 24).text();
    assert_eq!(shown.matches("src/main.rs:3:5").count(), 1, "{shown}");
    assert!(
        shown.contains("Build of api: 2 errors, 1 warning"),
        "{shown}"
    );
}

#[test]
fn the_oldest_line_is_seen_though_it_was_wanted_before_any_came() {
    let mut model = scenes::new(look());
    tell(&mut model, Told::Link(Link::Live), 0);
    tell(
        &mut model,
        Told::Status(scenes::status(&[scenes::api()])),
        0,
    );
    key(&mut model, Key::Char('g'));
    model.take_effects();
    let lines = |from: u64| (from..=1_000).map(|n| scenes::line(n, &format!("line {n}")));
    let told = scenes::lines(&model, lines(501).collect(), 0);
    tell(&mut model, told, 0);
    let asked = model
        .take_effects()
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Show(view, generation) => Some((view.lines, generation)),
            _ => None,
        });
    let (10_000, generation) = asked.expect("more lines are asked for") else {
        panic!("{asked:?}")
    };
    let batch = Batch {
        generation,
        whole: true,
        lines: lines(1).collect(),
        lost: 0,
    };
    tell(&mut model, Told::Lines(batch), 0);
    let shown = drawn(&mut model, 80, 24).text();
    assert!(shown.contains("│ line 1 "), "{shown}");
}

#[test]
fn the_last_line_steers_no_terminal() {
    let mut model = scenes::new(look());
    tell(&mut model, Told::Link(Link::Live), 0);
    let mut status = scenes::status(&[scenes::api()]);
    status.project = Some("sh\u{1b}]0;evil\u{7}op\u{202e}".into());
    tell(&mut model, Told::Status(status), 0);
    assert_eq!(
        model.farewell(),
        "sh\\u{1b}]0;evil\\u{7}op\\u{202e}: 1 running; bpm runs on (pid 6035)"
    );
    let shown = drawn(&mut model, 80, 24).text();
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown}");
}

#[test]
fn details_say_why_a_log_is_not_written() {
    let mut model = scenes::new(look());
    tell(&mut model, Told::Link(Link::Live), 0);
    let mut api = scenes::api();
    api["log_trouble"] = json!(
        "cannot write /home/somebody/.local/state/bpm/shop-6407d173/logs/api/000001-00.log: No space left on device"
    );
    tell(&mut model, Told::Status(scenes::status(&[api])), 0);
    let told = scenes::lines(&model, Vec::new(), 0);
    tell(&mut model, told, 0);
    let shown = drawn(&mut model, 80, 24).text();
    let words = "log can't be written: No space left on device";
    assert_eq!(shown.matches(words).count(), 2, "{shown}");
}
