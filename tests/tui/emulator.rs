//! As much of a terminal as is needed to read what is drawn: a screen of characters.

/// See the module.
pub struct Emulator {
    rows: Vec<Vec<char>>,
    at: (usize, usize),
    half: Vec<u8>,
}

impl Emulator {
    pub fn new(w: u16, h: u16) -> Self {
        Self {
            rows: vec![vec![' '; usize::from(w)]; usize::from(h)],
            at: (0, 0),
            half: Vec::new(),
        }
    }

    /// Takes bytes as they come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.half.extend_from_slice(bytes);
        let text = match std::str::from_utf8(&self.half) {
            Ok(text) => text.to_owned(),
            Err(e) => String::from_utf8_lossy(&self.half[..e.valid_up_to()]).into_owned(),
        };
        let used = self.characters(&text);
        self.half.drain(..used);
    }

    /// How many bytes were whole.
    fn characters(&mut self, text: &str) -> usize {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(body) = rest.strip_prefix("\u{1b}[") {
                let Some(end) = body.find(|c: char| ('@'..='~').contains(&c)) else {
                    break;
                };
                self.sequence(&body[..end], body.as_bytes()[end]);
                rest = &body[end + 1..];
                continue;
            }
            if rest == "\u{1b}" {
                break;
            }
            rest = &rest[c.len_utf8()..];
            let (x, y) = self.at;
            if let Some(cell) = self.rows.get_mut(y).and_then(|row| row.get_mut(x)) {
                *cell = c;
            }
            self.at.0 = x + bpm::tui::cell::width(c);
        }
        text.len() - rest.len()
    }

    fn sequence(&mut self, body: &str, end: u8) {
        let mut numbers = body
            .split(';')
            .map(|n| n.parse::<usize>().unwrap_or(1).max(1));
        let (first, second) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
        match end {
            b'H' => self.at = (second - 1, first - 1),
            b'G' => self.at.0 = first - 1,
            b'C' => self.at.0 += first,
            b'K' => {
                let x = self.at.0;
                self.rows[self.at.1]
                    .iter_mut()
                    .skip(x)
                    .for_each(|c| *c = ' ');
            }
            b'J' => self.rows.iter_mut().flatten().for_each(|c| *c = ' '),
            _ => {}
        }
    }

    /// What is seen.
    pub fn text(&self) -> String {
        let lines = self.rows.iter().map(|row| row.iter().collect::<String>());
        lines.collect::<Vec<_>>().join("\n")
    }
}
