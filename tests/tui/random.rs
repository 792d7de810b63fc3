//! Keys, sizes and news in any order.

use bpm::tui::input::{Click, Key, Typed};
use bpm::tui::model::{Answer, Ask, Dialect, Effect, Input, Link, Told};
use bpm::tui::painter::{Depth, Painter};
use bpm::tui::picture::picture;
use serde_json::{Value, json};

use crate::scenes::{self, clock, look};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }
}

const TEXTS: [&str; 8] = [
    "",
    "plain",
    "日本語のログ",
    "\u{1b}[31mred\u{1b}[0m",
    "\u{1b}]52;c;xxxx",
    "e\u{301}\u{301}\u{301}\t\t\u{202e}x\u{0}",
    "a\rb\rc",
    "👩\u{200d}💻👩\u{200d}💻",
];

fn typed(random: &mut Random) -> Typed {
    let keys = [
        Key::Enter,
        Key::Tab,
        Key::Backspace,
        Key::Delete,
        Key::Esc,
        Key::Up,
        Key::Down,
        Key::Left,
        Key::Right,
        Key::Home,
        Key::End,
        Key::PageUp,
        Key::PageDown,
        Key::F1,
        Key::Ctrl('l'),
        Key::Alt('j'),
        Key::Alt('x'),
        Key::Ctrl('u'),
        Key::Ctrl('d'),
    ];
    match random.below(10) {
        0..5 => {
            let chars: Vec<char> = "jkrRscweb[]/nN&pfGglltozymuSyn?日(.*".chars().collect();
            Typed::Key(Key::Char(random.one(&chars)))
        }
        5..8 => Typed::Key(random.one(&keys)),
        8 => {
            let clicks = [
                Click::Press,
                Click::Drag,
                Click::Release,
                Click::WheelUp,
                Click::WheelDown,
            ];
            Typed::Mouse(
                random.one(&clicks),
                random.below(220) as u16,
                random.below(70) as u16,
            )
        }
        _ => Typed::Paste(random.one(&TEXTS).into()),
    }
}

fn processes(random: &mut Random) -> Vec<Value> {
    let states = [
        "running", "stopped", "crashed", "failed", "building", "waiting", "done", "odd", "",
    ];
    let mut all = scenes::shop();
    let keep = random.below(6) as usize;
    all.truncate(keep);
    for n in 0..random.below(30) {
        let mut process = scenes::api();
        process["name"] = json!(format!("{}{n}", random.one(&TEXTS)));
        process["state"] = json!(random.one(&states));
        for key in [
            "pid",
            "build",
            "exit",
            "cpu_percent",
            "rss_bytes",
            "uptime_seconds",
            "url",
        ] {
            if random.below(3) == 0 {
                process[key] = Value::Null;
            }
        }
        process["reason"] = json!(random.one(&TEXTS));
        process["cpu_percent"] = json!(random.one(&[0.0, 1e9, -3.0, 99.99]));
        process["next_start_in_seconds"] = json!(random.one(&[0.0, 1e30, 5.0]));
        all.push(process);
    }
    all
}

#[test]
fn nothing_that_comes_makes_it_panic() {
    let seed = std::env::var("BPM_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("BPM_SEED={seed}");
    let mut random = Random(seed);
    let mut model = scenes::new(look());
    let mut painter = Painter::new(Depth::True);
    let sizes = [
        (0, 0),
        (1, 1),
        (5, 3),
        (19, 4),
        (20, 5),
        (40, 12),
        (59, 15),
        (60, 16),
        (80, 24),
        (120, 30),
        (200, 60),
    ];
    let (mut seconds, mut seq, mut generation) = (0, 0, 0);
    for step in 0..100_000 {
        let input = match random.below(20) {
            0..12 => Input::Typed(typed(&mut random)),
            12 => {
                let (w, h) = random.one(&sizes);
                Input::Size(w, h)
            }
            13 => Input::Tick,
            14 => Input::Told(Box::new(Told::Status(scenes::status(&processes(
                &mut random,
            ))))),
            15 => {
                let again = clock(seconds + 3).now;
                let since = clock(seconds).now;
                Input::Told(Box::new(Told::Link(random.one(&[
                    Link::Live,
                    Link::Live,
                    Link::Trying(2),
                    Link::Gone { since, again },
                    Link::Stopped { at: 0, by: None },
                    Link::Starting,
                ]))))
            }
            16 => Input::Told(Box::new(Told::Server(
                random.one(&[Dialect::Bpm, Dialect::FourTools]),
                None,
            ))),
            17 => {
                let ask = random.one(&[
                    Ask::Why("api".into()),
                    Ask::Faults("api".into()),
                    Ask::Reload { dry: true },
                ]);
                Input::Told(Box::new(Told::Answer(Answer {
                    ask,
                    text: "error: x\n --> a:1:2\n".repeat(random.below(40) as usize),
                    data: json!({"changed": ["api"]}),
                    failed: random.below(2) == 0,
                })))
            }
            _ => {
                let some = (0..random.below(300)).map(|_| {
                    seq += 1;
                    let mut line = scenes::line(seq, random.one(&TEXTS));
                    line.run = seq / 500;
                    line
                });
                let some = some.collect();
                Input::Told(Box::new(scenes::lines(&model, some, random.below(3))))
            }
        };
        if random.below(4) == 0 {
            seconds += 1;
        }
        model.update(input, clock(seconds));
        for effect in model.take_effects() {
            if let Effect::Show(_, newer) = effect {
                assert!(newer > generation, "step {step}");
                generation = newer;
            }
        }
        if let Some(name) = &model.list.selected {
            let exists = model.processes().iter().any(|p| p.name == *name);
            assert!(
                exists || model.processes().is_empty() || !model.list.filter.is_empty(),
                "step {step}: {name:?}"
            );
        }
        if step % 20 == 0 {
            let (w, h) = model.screen.size;
            let grid = picture(&model);
            let size = (grid.width, grid.height);
            assert_eq!(
                size,
                if w == 0 || h == 0 { (80, 24) } else { (w, h) },
                "step {step}"
            );
            let shown = grid.text();
            assert!(
                !shown.contains(['\u{1b}', '\u{202e}', '\u{7}']),
                "step {step}"
            );
            painter.paint(grid);
        }
    }
}
