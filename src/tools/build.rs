//! A build as data and in words.

use std::fmt::Write as _;

use serde_json::Value;

use super::text::{LINE, MARGIN, clip, last_of, quoted, recent, shown};
use crate::base::clock::Mono;
use crate::base::json::{list, object, or_null, seconds};
use crate::engine::snapshot::{BuildError, BuildView};

/// Characters of the first error's text, and of each headline.
const FIRST: usize = 4_000;
const HEADLINE: usize = 300;

/// All fields of `get_status`.
pub(super) fn value(build: &BuildView, now: Mono) -> Value {
    object([
        ("id", build.id.into()),
        ("state", build.state.as_str().into()),
        ("phase", or_null(build.phase.as_deref())),
        ("mode", build.mode.as_str().into()),
        ("at", build.at.rfc3339().into()),
        ("seconds", took(build, now)),
        ("ok", or_null(build.ok)),
        ("errors", errors(build)),
    ])
}

/// The fields of the answer to an order.
pub(super) fn brief(build: &BuildView, now: Mono) -> Value {
    object([
        ("id", build.id.into()),
        ("ok", or_null(build.ok)),
        ("seconds", took(build, now)),
        ("errors", errors(build)),
    ])
}

/// How long it took, or has been taking.
fn took(build: &BuildView, now: Mono) -> Value {
    let took = build.took.or(build.began.map(|began| now.since(began)));
    or_null(took.map(seconds))
}

fn errors(build: &BuildView) -> Value {
    list(build.errors.list.iter().map(error))
}

pub(super) fn error(error: &BuildError) -> Value {
    object([
        ("file", or_null(error.file.as_deref())),
        ("line", or_null(error.line)),
        ("column", or_null(error.column)),
        ("message", clip(&error.message, LINE / 2).as_ref().into()),
    ])
}

/// `src/main.rs:3:5: E0308: mismatched types`.
pub(super) fn headline(error: &BuildError) -> String {
    let mut text = String::new();
    if let Some(file) = &error.file {
        text.push_str(file);
        for n in [error.line, error.column].into_iter().flatten() {
            let _ = write!(text, ":{n}");
        }
        text.push_str(": ");
    }
    text.push_str(&error.message);
    shown(&text, HEADLINE)
}

/// Why a build failed: the first error as the compiler printed it and the headlines of others, or the last lines
/// where no error was recognized.
pub(super) fn failure(build: &BuildView, tail: &[String], room: usize) -> String {
    let errors = &build.errors;
    let Some(first) = errors.list.first() else {
        let lines = recent(tail, room);
        return match lines.len() {
            0 => String::new(),
            n => last_of(n, "build") + &quoted(&lines),
        };
    };
    let mut text = format!("{}:\n", headline(first));
    let lines = errors.text.iter().map(|line| shown(line, LINE / 2));
    let mut used = 0;
    for line in lines {
        used += line.chars().count() + MARGIN.len() + 1;
        if used > FIRST.min(room) {
            text.push_str("[its text goes on]\n");
            break;
        }
        let _ = writeln!(text, "{MARGIN}{line}");
    }
    let others = &errors.list[1..];
    if !others.is_empty() {
        let _ = writeln!(text, "more errors, {} of {}:", others.len(), errors.count);
    }
    for error in others {
        let _ = writeln!(text, "{MARGIN}{}", headline(error));
    }
    text
}
