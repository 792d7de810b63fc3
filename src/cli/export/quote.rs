//! Pure: no system call, no thread, no clock.
//!
//! Text as each engine reads it back unchanged. A variable that the engine is to fill in stands between two
//! NUL characters, which no text of ours has: [`VARIABLE`].

use std::fmt::Write;
use std::path::Path;

use super::Engine;
use crate::base::escape::in_line;

/// Before and after the name of a variable.
pub(super) const VARIABLE: char = '\0';

/// The pieces of a text: literal ones, and names of variables.
fn pieces(text: &str) -> impl Iterator<Item = (bool, &str)> {
    text.split(VARIABLE)
        .enumerate()
        .map(|(number, piece)| (number % 2 == 1, piece))
}

/// The names of the variables in a text.
pub(super) fn variables(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).filter_map(|(is_variable, piece)| is_variable.then_some(piece))
}

/// On one line, as a comment holds it; a variable as a shell writes it.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    for (is_variable, piece) in pieces(text) {
        match is_variable {
            true => out.extend(["${", piece, "}"]),
            false => out.push_str(&in_line(&piece.replace(char::is_control, " "))),
        }
    }
    out
}

/// Appends a character that all engines escape in the same way; false: it is none of those.
fn escaped(out: &mut String, c: char) -> bool {
    match c {
        '\\' | '"' => out.extend(['\\', c]),
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        _ => return false,
    }
    true
}

/// Where a word of systemd stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Word {
    /// An argument of a command: `$` is doubled there.
    Argument,
    /// A path that is executed, and `Environment=`: `$` means nothing.
    Plain,
}

/// A word for systemd. Only an argument can have variables.
pub(in crate::cli) fn systemd(text: &str, word: Word) -> String {
    let simple = |c: char| c.is_ascii_alphanumeric() || "_./:@+,=-".contains(c);
    if !text.is_empty() && text.chars().all(simple) {
        return text.into();
    }
    let mut out = String::from("\"");
    for (is_variable, piece) in pieces(text) {
        if is_variable {
            out.extend(["${", piece, "}"]);
            continue;
        }
        for c in piece.chars() {
            match c {
                '%' => out.push_str("%%"),
                '$' if word == Word::Argument => out.push_str("$$"),
                c if escaped(&mut out, c) => {}
                '\r' => out.push_str("\\r"),
                c if c.is_ascii_control() => _ = write!(out, "\\x{:02x}", u32::from(c)),
                c => out.push(c),
            }
        }
    }
    out.push('"');
    out
}

/// The rest of a line that is a text for people. Nothing is quoted there: what would begin a line of its own is written
/// out, and so is a backslash at the end, with which the next line would belong to this one.
pub(in crate::cli) fn systemd_text(text: &str) -> String {
    let text = in_line(text).replace('%', "%%");
    match text.strip_suffix('\\') {
        Some(rest) => format!("{rest}\\u{{5c}}"),
        None => text,
    }
}

/// The rest of a line that is the path of a folder. None: no unit can have it, since nothing is quoted there.
pub(super) fn systemd_folder(path: &Path) -> Option<String> {
    let text = systemd_path(path)?;
    // A backslash there takes the next line in, and blanks there are dropped.
    let is_cut = text.ends_with(|c: char| c == '\\' || c.is_whitespace());
    Some(if is_cut { text + "/." } else { text })
}

/// The same of a file's path, which ends as it must.
pub(super) fn systemd_path(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    (!text.contains(char::is_control)).then(|| text.replace('%', "%%"))
}

/// The same where `*`, `?`, `[` and a backslash would choose among files (glob(7)).
pub(super) fn systemd_glob(path: &Path) -> Option<String> {
    let text = systemd_path(path)?;
    let escape = |c: char| {
        let special = "*?[\\".contains(c).then_some('\\');
        special.into_iter().chain([c])
    };
    Some(text.chars().flat_map(escape).collect())
}

/// How a YAML text is read after YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// compose replaces variables: `$$` is a dollar sign.
    Compose,
    /// Kubernetes replaces `$(NAME)` in commands, arguments and environment values.
    Kubernetes,
    /// Nothing reads it again.
    Plain,
}

/// A text as the engine reads it where nothing replaces variables but compose.
pub(super) fn quoted(text: &str, engine: Engine) -> String {
    match engine {
        Engine::Systemd => systemd_text(text),
        Engine::Compose => yaml(text, Reader::Compose),
        Engine::Kubernetes => yaml(text, Reader::Plain),
        Engine::Nomad => hcl(text),
    }
}

/// A YAML string.
pub(super) fn yaml(text: &str, reader: Reader) -> String {
    let mut out = String::from("\"");
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            VARIABLE => {
                let name: String = rest.by_ref().take_while(|c| *c != VARIABLE).collect();
                match reader {
                    Reader::Kubernetes => out.extend(["$(", &name, ")"]),
                    Reader::Compose | Reader::Plain => out.extend(["${", &name, "}"]),
                }
            }
            '$' => {
                let read_again = match reader {
                    Reader::Compose => true,
                    Reader::Kubernetes => {
                        before == '$' || matches!(rest.peek(), Some('$' | '(' | &VARIABLE))
                    }
                    Reader::Plain => false,
                };
                out.push_str(if read_again { "$$" } else { "$" });
            }
            c if escaped(&mut out, c) => {}
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
        before = c;
    }
    out.push('"');
    out
}

/// A YAML or HCL2 list in one line, of the words of a command.
pub(super) fn list(words: &[String], engine: Engine) -> String {
    let quoted = |word: &String| match engine {
        Engine::Kubernetes => yaml(word, Reader::Kubernetes),
        Engine::Systemd | Engine::Compose | Engine::Nomad => quoted(word, engine),
    };
    let words: Vec<String> = words.iter().map(quoted).collect();
    format!("[{}]", words.join(", "))
}

/// An HCL2 string, and what Nomad makes of it as it starts a task: a variable stays for Nomad.
pub(super) fn hcl(text: &str) -> String {
    let mut out = String::from("\"");
    for (is_variable, piece) in pieces(text) {
        if is_variable {
            out.extend(["$${", piece, "}"]);
            continue;
        }
        let mut rest = piece.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '$' | '%' if rest.peek() == Some(&'{') => out.extend([c, c]),
                c if escaped(&mut out, c) => {}
                '\r' => out.push_str("\\r"),
                c if c.is_ascii_control() => _ = write!(out, "\\u{:04x}", u32::from(c)),
                c => out.push(c),
            }
        }
    }
    out.push('"');
    out
}

/// A word for a shell.
pub(super) fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn systemd_reads_words_back() {
        let argument = |text| systemd(text, Word::Argument);
        assert_eq!(argument("--port=8080"), "--port=8080");
        assert_eq!(argument(""), "\"\"");
        assert_eq!(argument("a b\"c\\d"), r#""a b\"c\\d""#);
        assert_eq!(argument("50% of $HOME"), "\"50%% of $$HOME\"");
        assert_eq!(argument("\n\t\r\u{1b}\u{7f}"), r#""\n\t\r\x1b\x7f""#);
        assert_eq!(argument(";"), "\";\"");
        assert_eq!(argument("é\u{a0}"), "\"é\u{a0}\"");
        assert_eq!(argument("t=\0KEY\0"), "\"t=${KEY}\"");
        assert_eq!(systemd("/a$b%c", Word::Plain), "\"/a$b%%c\"");
    }

    #[test]
    fn yaml_strings_hold_everything() {
        let compose = |text| yaml(text, Reader::Compose);
        let kubernetes = |text| yaml(text, Reader::Kubernetes);
        assert_eq!(compose("a$b \"q\" \\ é"), r#""a$$b \"q\" \\ é""#);
        assert_eq!(
            compose("\r\u{85}\u{2028}\u{feff}"),
            r#""\u000d\u0085\u2028\ufeff""#
        );
        assert_eq!(compose("\0TOKEN\0"), "\"${TOKEN}\"");
        for (text, written) in [
            ("$5 a$b $", "$5 a$b $"),
            ("$(X)", "$$(X)"),
            ("$$", "$$$$"),
            ("a$$$b", "a$$$$$$b"),
            ("$\0X\0", "$$$(X)"),
        ] {
            assert_eq!(kubernetes(text), format!("\"{written}\""), "{text:?}");
        }
        assert_eq!(yaml("$(X)$$", Reader::Plain), "\"$(X)$$\"");
    }

    #[test]
    fn hcl_strings_keep_their_dollars() {
        assert_eq!(
            hcl("${X} $${X} %{if} $ % $5"),
            r#""$${X} $$${X} %%{if} $ % $5""#
        );
        assert_eq!(hcl("a\n\u{1b}\"\\"), r#""a\n\u001b\"\\""#);
        assert_eq!(hcl("x\0KEY\0"), "\"x$${KEY}\"");
        assert_eq!(shell("it's"), r"'it'\''s'");
    }

    #[test]
    fn rest_of_a_line_of_systemd_stays_on_it() {
        assert_eq!(systemd_text("a b 100%"), "a b 100%%");
        assert_eq!(systemd_text("x\nUser=a"), "x\\u{a}User=a");
        assert_eq!(systemd_text(r"a\b\"), r"a\b\u{5c}");
        assert_eq!(systemd_text(r"a\\"), r"a\\u{5c}");
        let folder = |path| systemd_folder(Path::new(path));
        assert_eq!(folder("/a b/100%").as_deref(), Some("/a b/100%%"));
        assert_eq!(folder(r"/a\").as_deref(), Some(r"/a\/."));
        assert_eq!(folder("/a ").as_deref(), Some("/a /."));
        for none in ["/x\nUser=a", "/\t", "/\u{1b}[2J"] {
            assert_eq!(folder(none), None);
        }
        assert_eq!(systemd_folder(Path::new(OsStr::from_bytes(b"/\xff"))), None);
        let glob = systemd_glob(Path::new(r"/a[1]/*\x"));
        assert_eq!(glob.as_deref(), Some(r"/a\[1]/\*\\x"));
    }

    #[test]
    fn comments_stay_on_their_line() {
        assert_eq!(shown("a\nb\0X\0"), "a b${X}");
        assert!(variables("a\0X\0b\0Y\0").eq(["X", "Y"]));
    }
}
