use super::*;
use crate::log::block::testing::Random;

const RUN: RunKey = RunKey {
    unit: 4,
    generation: 7,
};

fn key(kind: CheckKind) -> CheckKey {
    CheckKey { run: RUN, kind }
}

fn named(kind: CheckKind, number: u64) -> Attempt {
    let key = key(kind);
    Attempt { key, number }
}

fn at(millis: u64) -> Mono {
    Mono::from_nanos(millis * 1_000_000)
}

fn timing(interval: u64, timeout: u64, failures: u32) -> Timing {
    Timing {
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        failures,
    }
}

fn tcp_at(address: &str) -> Target {
    Target::Connect(Connect {
        addresses: vec![address.parse().unwrap()],
        get: None,
        own: None,
        before: None,
    })
}

fn tcp() -> Target {
    tcp_at("127.0.0.1:80")
}

fn command() -> Target {
    Target::Command(vec!["check".into()])
}

fn step(schedule: &mut Schedule, now: u64) -> Vec<Action> {
    let mut out = Vec::new();
    schedule.step(at(now), &mut out);
    out
}

fn answer(s: &mut Schedule, kind: CheckKind, attempt: u64, good: bool, now: u64) -> Vec<Action> {
    let mut out = Vec::new();
    let result = if good {
        Ok("yes".into())
    } else {
        Err("no".into())
    };
    s.answer(named(kind, attempt), result, at(now), &mut out);
    out
}

fn notified(s: &mut Schedule, fields: &[(&str, &str)], now: u64) -> Vec<Action> {
    let mut out = Vec::new();
    let pair = |(n, v): &(&str, &str)| (n.to_string(), v.to_string());
    let fields = fields.iter().map(pair).collect();
    let notice = NotifyMessage { pid: 1, fields };
    s.notified(RUN, &notice, at(now), &mut out);
    out
}

fn told(kind: CheckKind, good: bool, saw: &str) -> Action {
    Action::Tell {
        key: key(kind),
        good,
        saw: saw.into(),
    }
}

#[test]
fn readiness_is_checked_soon_then_slower_and_never_again() {
    let mut s = Schedule::default();
    assert_eq!(s.next_deadline(), None);
    s.watch(key(CheckKind::Ready), tcp(), timing(500, 10_000, 1), at(0));
    let mut now = 0;
    let mut pauses = Vec::new();
    for attempt in 1..=9 {
        let asked = step(&mut s, now);
        assert!(matches!(asked[..], [Action::Connect { attempt: a, .. }] if a.number == attempt));
        assert_eq!(s.next_deadline(), None, "never beside itself");
        assert!(answer(&mut s, CheckKind::Ready, attempt, false, now + 1).is_empty());
        let next = s.next_deadline().unwrap().as_nanos() / 1_000_000;
        pauses.push(next - now);
        now = next;
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 500, 500, 500]);
    assert_eq!(s.words(RUN).as_deref(), Some("no"));
    step(&mut s, now);
    assert_eq!(
        answer(&mut s, CheckKind::Ready, 10, true, now),
        [told(CheckKind::Ready, true, "yes")]
    );
    assert_eq!(s.next_deadline(), None);
    assert!(step(&mut s, now + 100_000).is_empty());
    assert!(
        answer(&mut s, CheckKind::Ready, 10, true, now).is_empty(),
        "told once"
    );
    assert_eq!(s.words(RUN), None);
}

#[test]
fn health_turns_after_some_failures_in_a_row_and_back_with_one_success() {
    let mut s = Schedule::default();
    s.watch(key(CheckKind::Health), tcp(), timing(100, 30, 3), at(0));
    assert_eq!(
        s.next_deadline(),
        Some(at(100)),
        "not at once: it has just been good"
    );
    let mut said = Vec::new();
    for (n, good) in [true, false, false, true, false, false, false, false, true]
        .into_iter()
        .enumerate()
    {
        let now = 100 * (n as u64 + 1);
        assert_eq!(step(&mut s, now).len(), 1);
        said.push(answer(
            &mut s,
            CheckKind::Health,
            n as u64 + 1,
            good,
            now + 5,
        ));
    }
    let is = |good, saw| vec![told(CheckKind::Health, good, saw)];
    let none = Vec::new;
    assert_eq!(
        said,
        [
            is(true, "yes"),
            none(),
            none(),
            none(),
            none(),
            none(),
            is(false, "no"),
            none(),
            is(true, "yes")
        ]
    );
}

#[test]
fn late_command_is_killed_counts_at_once_and_holds_up_its_successor() {
    let mut s = Schedule::default();
    s.watch(key(CheckKind::Health), command(), timing(100, 30, 1), at(0));
    let out = step(&mut s, 100);
    assert!(matches!(out[..], [Action::Run { attempt: a, .. }] if a.number == 1));
    assert_eq!(s.next_deadline(), Some(at(130)));
    let kill = Action::Cancel(named(CheckKind::Health, 1));
    let late = told(CheckKind::Health, false, "no end within 0.0s, killed");
    assert_eq!(step(&mut s, 130), [kill, late]);
    assert_eq!(s.next_deadline(), None, "it is not gone yet");
    assert!(step(&mut s, 10_000).is_empty());
    assert!(
        answer(&mut s, CheckKind::Health, 1, false, 10_000).is_empty(),
        "counted already"
    );
    assert_eq!(s.next_deadline(), Some(at(10_000)));
    let out = step(&mut s, 10_000);
    assert!(matches!(out[..], [Action::Run { attempt: a, .. }] if a.number == 2));
    assert!(
        answer(&mut s, CheckKind::Health, 1, true, 10_001).is_empty(),
        "an answer of before"
    );
    assert_eq!(
        answer(&mut s, CheckKind::Health, 2, true, 10_002),
        [told(CheckKind::Health, true, "yes")]
    );
}

#[test]
fn forgotten_attempts_are_cancelled() {
    let mut s = Schedule::default();
    s.watch(key(CheckKind::Ready), command(), timing(100, 30, 1), at(0));
    s.watch(key(CheckKind::Health), tcp(), timing(0, 30, 1), at(0));
    step(&mut s, 0);
    let mut out = Vec::new();
    s.forget(RUN, &mut out);
    assert_eq!(
        out,
        [
            Action::Cancel(named(CheckKind::Ready, 1)),
            Action::Cancel(named(CheckKind::Health, 2))
        ]
    );
    assert_eq!((s.next_deadline(), s.words(RUN)), (None, None));
    // The command of before ends; a check that replaced its check takes no notice.
    s.watch(key(CheckKind::Ready), command(), timing(100, 30, 1), at(0));
    step(&mut s, 1);
    assert!(answer(&mut s, CheckKind::Ready, 1, true, 1).is_empty());
    assert_eq!(answer(&mut s, CheckKind::Ready, 3, true, 1).len(), 1);
}

#[test]
fn line_is_waited_for_once() {
    let mut s = Schedule::default();
    s.watch(
        key(CheckKind::Ready),
        Target::Line("up".into()),
        timing(100, 30, 1),
        at(0),
    );
    let out = step(&mut s, 0);
    assert!(matches!(out[..], [Action::Follow { attempt: a, .. }] if a.number == 1));
    assert_eq!(s.next_deadline(), None);
    assert!(answer(&mut s, CheckKind::Ready, 1, false, 5).is_empty());
    assert_eq!(s.next_deadline(), None, "a pattern that is none stays none");
}

#[test]
fn delay_passes_at_its_time() {
    let mut s = Schedule::default();
    let delay = Target::Delay(Duration::from_secs(2));
    s.watch(key(CheckKind::Ready), delay, timing(500, 30, 1), at(0));
    assert_eq!(s.next_deadline(), Some(at(2_000)));
    assert!(step(&mut s, 1_999).is_empty());
    assert_eq!(
        step(&mut s, 2_000),
        [told(CheckKind::Ready, true, "2.0s are over")]
    );
    assert_eq!(s.next_deadline(), None);
}

#[test]
fn run_reports_its_own_readiness() {
    let mut s = Schedule::default();
    s.watch(
        key(CheckKind::Ready),
        Target::Notify,
        timing(500, 30, 1),
        at(0),
    );
    assert_eq!(s.next_deadline(), None);
    assert!(notified(&mut s, &[("MAINPID", "7")], 1).is_empty());
    assert_eq!(s.words(RUN).as_deref(), Some(ONLY_MAINPID));
    assert!(notified(&mut s, &[("STATUS", "warming up")], 1).is_empty());
    assert_eq!(s.words(RUN).as_deref(), Some("warming up"));
    assert!(notified(&mut s, &[("READY", "0")], 1).is_empty());
    assert_eq!(
        notified(&mut s, &[("READY", "1"), ("STATUS", "serving")], 2),
        [told(CheckKind::Ready, true, "serving")]
    );
    assert!(notified(&mut s, &[("READY", "1")], 3).is_empty());
    assert_eq!(s.words(RUN).as_deref(), Some("serving"));
    assert!(notified(&mut s, &[("RELOADING", "1")], 4).is_empty());
    assert_eq!(s.words(RUN).as_deref(), Some(RELOADS));
    assert!(notified(&mut s, &[("READY", "1")], 5).is_empty());
    assert_eq!(s.words(RUN), None);
}

#[test]
fn watchdog_fails_by_silence_or_by_trigger() {
    let mut s = Schedule::default();
    let watch = |s: &mut Schedule, now| {
        s.watch(
            key(CheckKind::Health),
            Target::Notify,
            timing(100, 30, 3),
            at(now),
        );
    };
    watch(&mut s, 0);
    assert_eq!(
        notified(&mut s, &[("WATCHDOG", "1")], 50),
        [told(CheckKind::Health, true, "WATCHDOG=1")]
    );
    assert_eq!(s.next_deadline(), Some(at(150)));
    assert!(step(&mut s, 150).is_empty());
    assert!(step(&mut s, 250).is_empty());
    assert!(
        notified(&mut s, &[("WATCHDOG", "1")], 260).is_empty(),
        "still healthy"
    );
    for now in [360, 460] {
        assert!(step(&mut s, now).is_empty());
    }
    assert_eq!(
        step(&mut s, 560),
        [told(CheckKind::Health, false, "no WATCHDOG=1 within 0.1s")]
    );
    watch(&mut s, 600);
    assert_eq!(
        notified(&mut s, &[("WATCHDOG", "trigger")], 601),
        [told(CheckKind::Health, false, "WATCHDOG=trigger")]
    );
}

#[test]
fn main_pid_is_ignored_and_said_so() {
    let notice = |name: &str| NotifyMessage {
        pid: 1,
        fields: vec![(name.into(), "12".into())],
    };
    assert!(
        ignored(&notice("MAINPID"))
            .unwrap()
            .contains("\"12\" is ignored")
    );
    assert_eq!(ignored(&notice("READY")), None);
}

#[test]
fn targets_are_expanded_and_checked() {
    let expand = |text: &str| config::expand(text, |n| (n == "PORT").then(|| "81".into()));
    let of = |probe: &Probe| Target::of(probe, &expand);
    let connect = tcp_at("127.0.0.1:81");
    assert_eq!(of(&Probe::Tcp("127.0.0.1:${PORT}".into())), Ok(connect));
    let both = ["127.0.0.1:81", "[::1]:81"].map(|a| a.parse().unwrap());
    let get = |url| config::parse_http(url).unwrap();
    let url = "http://localhost:${PORT}/".to_string();
    for (probe, get, own) in [
        (Probe::Port, None, Some(81)),
        (Probe::Http(url), Some(get("http://localhost:81/")), None),
    ] {
        let both = Target::Connect(Connect {
            addresses: both.to_vec(),
            get,
            own,
            before: None,
        });
        assert_eq!(of(&probe), Ok(both));
    }
    assert_eq!(
        of(&Probe::Command(vec!["nc".into(), "${PORT}".into()])),
        Ok(Target::Command(vec!["nc".into(), "81".into()]))
    );
    for bad in [
        Probe::Tcp("127.0.0.1:${NOPE}".into()),
        Probe::Tcp("${PORT}".into()),
        Probe::Http("https://127.0.0.1/".into()),
        Probe::Command(vec!["${NOPE}".into()]),
    ] {
        assert!(of(&bad).is_err(), "{bad:?}");
    }
}

/// In any order of answers, deadlines and ends a check has one attempt under way, each attempt that
/// began is ended or cancelled, and only changes are told.
#[test]
fn random_histories_hold_the_invariants() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut dice = |n: u64| random.next() % n;
    for _ in 0..2_000 {
        let mut s = Schedule::default();
        let kind = [CheckKind::Ready, CheckKind::Health][dice(2) as usize];
        let target = [tcp(), command()][dice(2) as usize].clone();
        let is_command = target == command();
        s.watch(
            key(kind),
            target,
            timing(1 + dice(50), 1 + dice(50), 1 + dice(3) as u32),
            at(0),
        );
        let (mut now, mut open, mut last, mut killed) = (0, None, None, false);
        for _ in 0..60 {
            now += dice(30);
            let out = match (open, dice(3)) {
                (Some(attempt), 0) => {
                    open = None;
                    killed = false;
                    answer(&mut s, kind, attempt, dice(2) == 0, now)
                }
                (_, 1) => answer(&mut s, kind, dice(5) + 1_000, true, now),
                _ => step(&mut s, now),
            };
            for action in out {
                match action {
                    Action::Connect { attempt, .. } | Action::Run { attempt, .. } => {
                        assert_eq!(open.replace(attempt.number), None, "two at once");
                    }
                    Action::Cancel(attempt) => {
                        assert!(is_command && open == Some(attempt.number) && !killed);
                        killed = true;
                    }
                    Action::Tell { good, .. } => {
                        assert_ne!(last.replace(good), Some(good), "told twice");
                    }
                    Action::Follow { .. } => panic!("{action:?}"),
                }
            }
            let over = kind == CheckKind::Ready && last == Some(true);
            let waits = s.next_deadline().is_some() || open.is_some();
            assert!(over || waits, "nobody would ask again");
        }
        let mut out = Vec::new();
        s.forget(RUN, &mut out);
        assert_eq!(!out.is_empty(), open.is_some() && !killed);
    }
}
