//! Pure: no system call, no thread, no clock.
//!
//! The input of a terminal: keys, the mouse, pasted text.

/// A key, or what is like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// A letter with Ctrl.
    Ctrl(char),
    /// Esc, and right after it a character; or that with Alt: terminals send the same for both.
    Alt(char),
    /// Return.
    Enter,
    /// Tabulator.
    Tab,
    /// The character before the cursor goes.
    Backspace,
    /// The character under the cursor goes.
    Delete,
    /// Escape.
    Esc,
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// An arrow.
    Left,
    /// An arrow.
    Right,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// Help.
    F1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Click {
    /// The left button went down.
    Press,
    /// The mouse moved with it down.
    Drag,
    /// It went up.
    Release,
    /// The wheel: up.
    WheelUp,
    /// The wheel: down.
    WheelDown,
}

/// Something that was typed or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// A key.
    Key(Key),
    /// The mouse, at a column and a row from 0.
    Mouse(Click, u16, u16),
    /// Text from the clipboard.
    Paste(String),
}

/// Pasted text beyond this is dropped: it goes into one line.
const LONGEST_PASTE: usize = 4 << 10;
const PASTE_END: &[u8] = b"\x1b[201~";

/// Takes the bytes apart as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    pasted: Option<Vec<u8>>,
    /// The first byte is the key Esc: a terminal sends what belongs to it in one go.
    lone: bool,
}

/// The beginning of some bytes.
enum Next {
    /// So many bytes are this; None: nothing that we know.
    Is(usize, Option<Typed>),
    /// The beginning of something.
    Half,
}

impl Decoder {
    /// More bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let goes_on = matches!(bytes, [b'[' | b'O', ..]);
        self.lone |= self.bytes == [0x1b] && !goes_on && !bytes.is_empty();
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes wait that may be the beginning of a sequence, or all there is.
    pub fn is_half(&self) -> bool {
        !self.bytes.is_empty() && self.pasted.is_none()
    }

    /// Takes the input as far as it is whole. `over`: nothing more came for a while, so a lone ESC is
    /// the key.
    pub fn take(&mut self, over: bool, into: &mut Vec<Typed>) {
        let mut at = 0;
        while at < self.bytes.len() {
            if let Some(pasted) = &mut self.pasted {
                let rest = &self.bytes[at..];
                let end = memchr::memmem::find(rest, PASTE_END);
                // Its end may be cut in two.
                let whole = end.unwrap_or(rest.len().saturating_sub(PASTE_END.len() - 1));
                let room = LONGEST_PASTE.saturating_sub(pasted.len());
                pasted.extend_from_slice(&rest[..whole.min(room)]);
                at += whole;
                if end.is_none() {
                    break;
                }
                at += PASTE_END.len();
                let text = self.pasted.take().unwrap_or_default();
                into.push(Typed::Paste(String::from_utf8_lossy(&text).into_owned()));
                continue;
            }
            if std::mem::take(&mut self.lone) {
                at += 1;
                into.push(Typed::Key(Key::Esc));
                continue;
            }
            match next(&self.bytes[at..], over) {
                Next::Is(length, typed) => {
                    at += length;
                    into.extend(typed);
                    if self.bytes[..at].ends_with(b"\x1b[200~") {
                        self.pasted = Some(Vec::new());
                    }
                }
                Next::Half => break,
            }
        }
        self.bytes.drain(..at);
    }
}

fn next(bytes: &[u8], over: bool) -> Next {
    let key = |length, key| Next::Is(length, Some(Typed::Key(key)));
    match bytes {
        [0x1b] if !over => Next::Half,
        [0x1b] | [0x1b, 0x1b, ..] => key(1, Key::Esc),
        [0x1b, b'[' | b'O'] if !over => Next::Half,
        [0x1b, b'O', letter @ (b'A'..=b'Z' | b'a'..=b'z'), ..] => {
            Next::Is(3, named(*letter).map(Typed::Key))
        }
        [0x1b, b'[', b'[', letter, ..] => {
            // The Linux console's function keys.
            Next::Is(4, (*letter == b'A').then_some(Typed::Key(Key::F1)))
        }
        [0x1b, b'[', b'[', ..] if !over => Next::Half,
        [0x1b, b'[', rest @ ..] => sequence(rest, over),
        [0x1b, c @ b' '..=b'~', ..] => key(2, Key::Alt(char::from(*c))),
        [0x1b, _, ..] => key(1, Key::Esc),
        [b'\r' | b'\n', ..] => key(1, Key::Enter),
        [b'\t', ..] => key(1, Key::Tab),
        [0x08 | 0x7f, ..] => key(1, Key::Backspace),
        [c @ 1..=26, ..] => key(1, Key::Ctrl(char::from(c + b'a' - 1))),
        [c @ b' '..=b'~', ..] => key(1, Key::Char(char::from(*c))),
        [0..=31, ..] | [] => Next::Is(1, None),
        [first, ..] => {
            let length = match first {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                _ => return Next::Is(1, None),
            };
            let Some(whole) = bytes.get(..length) else {
                return if over { Next::Is(1, None) } else { Next::Half };
            };
            let c = std::str::from_utf8(whole)
                .ok()
                .and_then(|s| s.chars().next());
            match c.filter(|c| !c.is_control()) {
                Some(c) => key(length, Key::Char(c)),
                None => Next::Is(1, None),
            }
        }
    }
}

/// The sequence that follows CSI.
fn sequence(rest: &[u8], over: bool) -> Next {
    let body = rest
        .iter()
        .take_while(|b| (0x20..=0x3f).contains(*b))
        .count();
    let Some(last) = rest.get(body) else {
        // Longer than any key: whatever it is, it must not eat what is typed after it.
        return match over || body > 32 {
            true => Next::Is(2 + body, None),
            false => Next::Half,
        };
    };
    let length = 3 + body;
    let text = std::str::from_utf8(&rest[..body]).unwrap_or_default();
    if let Some(numbers) = text.strip_prefix('<') {
        return Next::Is(length, mouse(numbers, *last == b'M'));
    }
    let first = text.split(';').next().unwrap_or_default();
    let key = match (last, first) {
        (b'~', "1" | "7") => Some(Key::Home),
        (b'~', "3") => Some(Key::Delete),
        (b'~', "4" | "8") => Some(Key::End),
        (b'~', "5") => Some(Key::PageUp),
        (b'~', "6") => Some(Key::PageDown),
        (b'~', "11") => Some(Key::F1),
        (letter, _) => named(*letter),
    };
    Next::Is(length, key.map(Typed::Key))
}

fn named(letter: u8) -> Option<Key> {
    Some(match letter {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        b'F' => Key::End,
        b'P' => Key::F1,
        b'M' => Key::Enter,
        _ => return None,
    })
}

/// `button;column;row`, as SGR 1006 has it.
fn mouse(numbers: &str, down: bool) -> Option<Typed> {
    let mut numbers = numbers.split(';').map(|n| n.parse::<u16>().ok());
    let (button, x, y) = (numbers.next()??, numbers.next()??, numbers.next()??);
    // Shift, Alt and Ctrl do not matter.
    let click = match (button & !28, down) {
        (0, true) => Click::Press,
        (0, false) => Click::Release,
        (32, _) => Click::Drag,
        (64, _) => Click::WheelUp,
        (65, _) => Click::WheelDown,
        _ => return None,
    };
    Some(Typed::Mouse(
        click,
        x.saturating_sub(1),
        y.saturating_sub(1),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Vec<Typed> {
        let mut all = Vec::new();
        let mut decoder = Decoder::default();
        decoder.feed(bytes);
        decoder.take(true, &mut all);
        // Byte by byte it is the same, but for Alt.
        let (mut one_by_one, mut decoder) = (Vec::new(), Decoder::default());
        for byte in bytes {
            decoder.feed(&[*byte]);
            decoder.take(false, &mut one_by_one);
        }
        decoder.take(true, &mut one_by_one);
        if !all.iter().any(|t| matches!(t, Typed::Key(Key::Alt(_)))) {
            assert_eq!(all, one_by_one, "{bytes:?}");
        }
        all
    }

    #[test]
    fn keys_are_known_in_all_their_forms() {
        for (bytes, key) in [
            (&b"j"[..], Key::Char('j')),
            ("ä".as_bytes(), Key::Char('ä')),
            ("日".as_bytes(), Key::Char('日')),
            (b"\x03", Key::Ctrl('c')),
            (b"\r", Key::Enter),
            (b"\x1b", Key::Esc),
            (b"\x7f", Key::Backspace),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[1;5C", Key::Right),
            (b"\x1b[H", Key::Home),
            (b"\x1b[1~", Key::Home),
            (b"\x1b[4~", Key::End),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1bOP", Key::F1),
            (b"\x1b[11~", Key::F1),
            (b"\x1b[[A", Key::F1),
        ] {
            assert_eq!(typed(bytes), [Typed::Key(key)], "{bytes:?}");
        }
    }

    #[test]
    fn the_mouse_and_pastes_are_taken_apart() {
        assert_eq!(typed(b"\x1b[<0;10;5M"), [Typed::Mouse(Click::Press, 9, 4)]);
        assert_eq!(typed(b"\x1b[<0;1;1m"), [Typed::Mouse(Click::Release, 0, 0)]);
        assert_eq!(
            typed(b"\x1b[<65;1;1M"),
            [Typed::Mouse(Click::WheelDown, 0, 0)]
        );
        assert_eq!(
            typed(b"\x1b[200~q\x1b[Aq\x1b[201~j"),
            [Typed::Paste("q\x1b[Aq".into()), Typed::Key(Key::Char('j'))]
        );
    }

    #[test]
    fn a_key_right_after_esc_is_a_key() {
        let (mut all, mut decoder) = (Vec::new(), Decoder::default());
        decoder.feed(b"\x1b");
        decoder.take(false, &mut all);
        decoder.feed(b"q");
        decoder.take(false, &mut all);
        assert_eq!(all, [Typed::Key(Key::Esc), Typed::Key(Key::Char('q'))]);
    }

    #[test]
    fn what_is_no_key_eats_none() {
        assert_eq!(typed(b"\x1b[?1;2cj"), [Typed::Key(Key::Char('j'))]);
        assert_eq!(typed(b"\xff\x00j"), [Typed::Key(Key::Char('j'))]);
        assert_eq!(typed(b"\x1bx"), [Typed::Key(Key::Alt('x'))]);
        assert_eq!(
            typed(b"\x1b\x1b"),
            [Typed::Key(Key::Esc), Typed::Key(Key::Esc)]
        );
    }
}
