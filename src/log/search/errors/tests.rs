use std::sync::Arc;

use super::*;
use crate::log::block::{Block, Chunk};

fn find_errors(slices: &[StreamSlice], max: usize, expired: &mut dyn FnMut() -> bool) -> Errors {
    let mut finder = Finder::default();
    finder.page(slices, expired);
    finder.finish(max)
}

#[test]
fn lines_that_look_like_errors_are_found() {
    use Severity::{Error, Warning};
    for (line, level) in [
        ("ERROR db: connection refused", Some(Error)),
        ("2026-11-21T05:00:00Z error: no", Some(Error)),
        ("TypeError: x is not a function", Some(Error)),
        ("java.lang.NullPointerException: no", Some(Error)),
        ("[warn] disk almost full", Some(Warning)),
        ("DeprecationWarning: use y", Some(Warning)),
        ("thread 'main' panicked at src/main.rs:2:5:", Some(Error)),
        (r#"{"level":"error","msg":"x"}"#, Some(Error)),
        ("E1234: request failed", Some(Error)),
        ("WARN request failed", Some(Warning)),
        ("INFO the last error was handled", None),
        (r#"{"level":"info","msg":"no error"}"#, None),
        ("test result: ok. 5 passed; 0 failed; 0 ignored", None),
        ("finished with 0 errors, no warnings", None),
        ("errors=0 failed: 0", None),
        ("errors=3", Some(Error)),
        (
            "GET /errors/404 error_rate=0.1 src/error.rs std::error::Error",
            Some(Error),
        ),
        ("GET /errors/404 error_rate=0.1 src/error.rs", None),
        ("listening on 8080", None),
        ("", None),
    ] {
        assert_eq!(severity(line), level, "{line}");
    }
}

#[test]
fn shape_masks_what_changes() {
    for (one, other) in [
        (
            "error: request 17 failed after 20ms",
            "error: request 9123 failed after 3ms",
        ),
        (
            "2026-11-21T05:00:01.123Z ERROR x",
            "2027-01-02T15:10:41.9Z ERROR x",
        ),
        ("error at 0x7ffe12ab", "error at 0x55d00001"),
        ("peer 10.0.0.1:8080 error", "peer 192.168.17.255:1 error"),
        (
            "id 550e8400-e29b-41d4-a716-446655440000 error",
            "id 16fd2706-8baf-433b-82eb-8c7fada847da error",
        ),
        ("commit 3f2a9bc error", "commit 90e1d07 error"),
        (
            "id 550e8400-beef-41d4-faff-446655440000 error",
            "id f6fd2706-8baf-433b-82eb-efacdebaefac error",
        ),
        ("error after 3.5s", "error after 12s"),
        ("error at 0x7f", "error at 0xdeadbeef"),
        ("error in req-V1StGXR8", "error in req-9k2m4x7q1"),
        (
            "error in 01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "error in 01BX5ZZKBKACTAV9WEVGEMMVRZ",
        ),
    ] {
        assert_eq!(shape(one), shape(other));
    }
    assert_ne!(
        shape("error: no such file: a"),
        shape("error: no such file: b")
    );
    assert!(shape(&"é1 ".repeat(1_000)).len() < SHAPE + 20);
}

fn slice(stream: Stream, first: u64, text: &str) -> StreamSlice {
    let chunk = Chunk {
        first,
        at: Wall(first as i64),
        end: text.len() as u32,
        lines: text.lines().count() as u32,
    };
    let block = Block::new(text.as_bytes().to_vec(), vec![chunk]);
    StreamSlice::new(1, stream, vec![Arc::new(block)])
}

#[test]
fn stacks_belong_to_their_error_and_shapes_are_counted() {
    let out = "ok\nerror: request 1 failed\nok\nwarning: slow\nerror: request 22 failed\n";
    let err = "Traceback (most recent call last):\n  File \"a.py\", line 3, in x\n    y()\nValueError: bad 7\n\
            thread 'main' panicked at src/main.rs:2:5:\nindex out of bounds\nnote: run with `RUST_BACKTRACE=1`\n\
            Error: cannot start\n    at main (a.js:1:2)\n    at run (b.js:3:4)\nfine\n";
    let slices = [
        slice(Stream::Stdout, 10, out),
        slice(Stream::Stderr, 100, err),
    ];
    let found = find_errors(&slices, 10, &mut || false);
    let seen: Vec<_> = found
        .groups
        .iter()
        .map(|g| (g.count, g.level, g.seq, &*g.sample))
        .collect();
    assert_eq!(
        seen,
        [
            (2, Severity::Error, 11, "error: request 1 failed"),
            (
                1,
                Severity::Error,
                100,
                "Traceback (most recent call last):\n  File \"a.py\", line 3, in x\n    y()\nValueError: bad 7"
            ),
            (
                1,
                Severity::Error,
                104,
                "thread 'main' panicked at src/main.rs:2:5:\nindex out of bounds\nnote: run with `RUST_BACKTRACE=1`"
            ),
            (
                1,
                Severity::Error,
                107,
                "Error: cannot start\n    at main (a.js:1:2)\n    at run (b.js:3:4)"
            ),
            (1, Severity::Warning, 13, "warning: slow"),
        ]
    );
    assert_eq!(found.searched, 16);
    let few = find_errors(&slices, 2, &mut || false);
    assert_eq!((few.groups.len(), few.more_groups), (2, 3));
}

#[test]
fn stacks_of_each_language_are_one_event() {
    for (text, samples) in [
        (
            "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\npanic({0x45e200?, 0x4b8f28?})\n\t/go/src/runtime/panic.go:884 +0x213\nmain.(*Shop).serve(...)\n\t/app/main.go:8\ncreated by main.main in goroutine 1\n\t/app/main.go:4 +0x1d\n\ngoroutine 7 [select]:\nmain.wait()\n\t/app/main.go:9\nexit status 2\nserving (again)\n",
            &[
                "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\npanic({0x45e200?, 0x4b8f28?})\n\t/go/src/runtime/panic.go:884 +0x213\nmain.(*Shop).serve(...)\n\t/app/main.go:8\ncreated by main.main in goroutine 1\n\t/app/main.go:4 +0x1d\n\ngoroutine 7 [select]:\nmain.wait()\n\t/app/main.go:9",
            ][..],
        ),
        (
            "panic: nil map\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x45e5b8]\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:5 +0x18\n\nERROR other\n",
            &[
                "panic: nil map\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x45e5b8]\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:5 +0x18",
                "ERROR other",
            ],
        ),
        (
            "/app/x.js:3\n    throw new TypeError(\"bad\");\n    ^\n\nTypeError: bad\n    at Object.<anonymous> (/app/x.js:3:9)\n\nNode.js v20.1.0\n",
            &["TypeError: bad\n    at Object.<anonymous> (/app/x.js:3:9)"],
        ),
        (
            "Traceback (most recent call last):\n  File \"a.py\", line 2, in f\nValueError: bad 5\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"a.py\", line 5, in g\nKeyError: 'k'\n\nERROR other\n",
            &[
                "Traceback (most recent call last):\n  File \"a.py\", line 2, in f\nValueError: bad 5\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"a.py\", line 5, in g\nKeyError: 'k'",
                "ERROR other",
            ],
        ),
        (
            "Exception in thread \"main\" java.lang.RuntimeException: boom\n\tat a.Main.run(Main.java:12)\nCaused by: java.lang.IllegalStateException: inner\n\tat a.Main.inner(Main.java:20)\n\t... 2 more\n",
            &[
                "Exception in thread \"main\" java.lang.RuntimeException: boom\n\tat a.Main.run(Main.java:12)\nCaused by: java.lang.IllegalStateException: inner\n\tat a.Main.inner(Main.java:20)\n\t... 2 more",
            ],
        ),
        (
            "error: one\n\nerror: other\n    ^\n",
            &["error: one", "error: other\n    ^"],
        ),
    ] {
        let found = find_errors(&[slice(Stream::Stderr, 1, text)], 10, &mut || false);
        let seen: Vec<_> = found.groups.iter().map(|g| &*g.sample).collect();
        assert_eq!(seen, samples);
        assert_eq!(found.searched, text.lines().count() as u64);
    }
}

#[test]
fn log_of_nothing_but_new_errors_is_bounded() {
    let word = |n: usize| -> String {
        let commands = [n / 676, n / 26 % 26, n % 26].map(|l| (b'g' + (l % 20) as u8) as char);
        commands.iter().chain([&'x'; 3]).collect()
    };
    let text: String = (0..5_000)
        .map(|n| format!("error: {} {}\n", word(n), word(n / 7)))
        .collect();
    let found = find_errors(&[slice(Stream::Stderr, 1, &text)], usize::MAX, &mut || {
        false
    });
    assert_eq!(found.groups.len(), MOST_GROUPS);
    let counted: u64 = found.groups.iter().map(|g| g.count).sum();
    assert_eq!(counted + found.others, 5_000);
    let stopped = find_errors(&[slice(Stream::Stderr, 1, &text)], 5, &mut || true);
    assert!(stopped.stopped_early && stopped.groups.is_empty());
}

#[test]
fn stack_goes_on_in_the_next_page() {
    let text = "Error: bad\n    at a (x.js:1:2)\n    at b (x.js:3:4)\nfine\n";
    let mut finder = Finder::default();
    for (first, line) in (1..).zip(text.split_inclusive('\n')) {
        assert!(finder.page(&[slice(Stream::Stdout, first, line)], &mut || false));
    }
    let found = finder.finish(10);
    assert_eq!(found.groups.len(), 1);
    assert_eq!(found.groups[0].sample, text.trim_end_matches("\nfine\n"));
    assert_eq!(found.searched, 4);
}
