//! Pure: no system call, no thread, no clock.
//!
//! The actions of keys and of the mouse.

mod mouse;
mod orders;

pub(in crate::tui) use orders::is_to_start;

use super::news::FEW;
use super::{Ask, ESCAPE, Effect, Entry, Field, Link, Model, Overlay, REST, View};
use crate::tui::input::{Key, Typed};
use crate::tui::layout::Room;
use crate::tui::output::{MOST_LINES, Search};
use crate::tui::status::Fault;

/// The most bytes that go to the clipboard: some terminals drop more.
const MOST_COPIED: usize = 74_000;
/// Rows that a notch of the wheel scrolls by.
const NOTCH: i64 = 3;
/// A line that is typed in is no longer than this.
const LONGEST_FIELD: usize = 1_000;

impl Model {
    pub(super) fn typed(&mut self, typed: Typed) {
        match typed {
            Typed::Key(key) => self.key(key),
            Typed::Mouse(click, x, y) if self.screen.look.mouse && !self.screen.plain => {
                self.mouse(click, x, y);
            }
            Typed::Mouse(..) => {}
            Typed::Paste(text) => {
                if let Some(field) = &mut self.dialog.field {
                    let line = text.chars().filter(|c| !c.is_control());
                    line.for_each(|c| field.insert(c));
                }
            }
        }
    }

    fn key(&mut self, key: Key) {
        // Whatever else is open, these work.
        match key {
            Key::Ctrl('c') => return self.effect(Effect::Leave(0)),
            Key::Ctrl('z') => return self.effect(Effect::Suspend),
            Key::Ctrl('l') => return self.effect(Effect::Repaint),
            // Esc and the next key came together; with nothing open it was Alt, which we do not know.
            Key::Alt(c) if c == 'q' || self.is_something_open() => {
                self.key(Key::Esc);
                return self.key(Key::Char(c));
            }
            Key::Alt(_) => return,
            _ => {}
        }
        if let Link::TooOld(_) = self.server.link {
            return self.effect(Effect::Leave(1));
        }
        if self.dialog.message.as_ref().is_some_and(|m| m.bad) {
            self.dialog.message = None;
        }
        if self.dialog.field.is_some() {
            return self.key_in_field(key);
        }
        if let Some(question) = self.dialog.question.take() {
            match key {
                Key::Char('y') => self.order(question.ask),
                Key::Esc => self.dialog.closed = Some(self.clock.now),
                // Only y does it; whoever meant another key types it again.
                _ => {}
            }
            return;
        }
        if key == Key::Char('q') {
            return self.effect(Effect::Leave(0));
        }
        if self.dialog.overlay.is_some() {
            return self.key_in_overlay(key);
        }
        self.key_in_panels(key);
    }

    fn key_in_panels(&mut self, key: Key) {
        let size = self.output_size();
        let page = size.rows.saturating_sub(1).max(1) as i64;
        let half = (size.rows / 2).max(1) as i64;
        match key {
            Key::Char('j') | Key::Down if self.screen.plain => self.scroll(1),
            Key::Char('k') | Key::Up if self.screen.plain => self.scroll(-1),
            Key::Char('j') | Key::Down => self.select_by(1),
            Key::Char('k') | Key::Up => self.select_by(-1),
            Key::Enter => self.refresh(),
            Key::Char('r') => self.restart(),
            Key::Char('R') => self.restart_all(),
            Key::Char('s') => self.start_or_stop(),
            Key::Char('S') => self.start_daemon(),
            Key::Char('u') if self.may(true) => self.order(Ask::Reload { dry: true }),
            Key::Char('c') => {
                self.log.output.clear();
                self.log.drag = None;
            }
            Key::Char('w') => {
                if let Some(name) = self.selected_name().filter(|_| self.can(true)) {
                    self.order(Ask::Why(name));
                }
            }
            Key::Char('e') => self.errors(),
            Key::Char('b') => self.change_view(|view| {
                view.builds = !view.builds;
                view.index = -1;
            }),
            Key::Char('[') => self.change_view(|view| view.index = view.index.saturating_sub(1)),
            Key::Char(']') if self.log.view.index < -1 => self.change_view(|view| view.index += 1),
            Key::Char('/') => self.field(Entry::Search, ""),
            Key::Char('n') => self.hit(true),
            Key::Char('N') => self.hit(false),
            Key::Char('&') => {
                let text = self.log.view.pattern.clone().unwrap_or_default();
                self.field(Entry::Filter, &text);
            }
            Key::Char('p') => {
                let text = self.list.filter.clone();
                self.field(Entry::Names, &text);
            }
            Key::Char('f' | 'G') | Key::End => {
                self.log.wants_oldest = false;
                self.log.output.follow();
            }
            Key::Char('g') | Key::Home => self.oldest(),
            Key::PageUp => self.scroll(-page),
            Key::PageDown => self.scroll(page),
            Key::Ctrl('u') => self.scroll(-half),
            Key::Ctrl('d') => self.scroll(half),
            Key::Left | Key::Right if !self.log.output.wrap => {
                let step = (size.columns / 2).max(1);
                let shift = &mut self.log.output.shift;
                *shift = match key {
                    Key::Left => shift.saturating_sub(step),
                    _ => (*shift + step).min(100_000),
                };
            }
            Key::Char('l') => {
                let output = &mut self.log.output;
                (output.wrap, output.shift) = (!output.wrap, 0);
            }
            Key::Char('t') => self.screen.times = !self.screen.times,
            Key::Char('o') => {
                let text = self.log.output.whole();
                self.effect(Effect::Page(text));
            }
            Key::Char('z') => self.set_plain(!self.screen.plain),
            Key::Char('y') => self.copy(),
            Key::Char('m') => {
                let ours = &mut self.screen.look.mouse;
                *ours = !*ours;
                let (ours, word) = (*ours, if *ours { "ours" } else { "the terminal's" });
                self.say(format!("the mouse is {word}"), false);
                self.effect(Effect::Mouse(ours && !self.screen.plain));
            }
            Key::Char('?') | Key::F1 => self.open(Overlay::Help),
            Key::Tab if self.layout().room == Room::Bare => self.open(Overlay::Details),
            Key::Esc => self.escape(),
            _ => {}
        }
    }

    fn key_in_overlay(&mut self, key: Key) {
        let page = i64::from(self.layout().whole.h.saturating_sub(4).max(1));
        match key {
            Key::Esc | Key::Tab => return self.close(),
            Key::Char('?') | Key::F1 if self.dialog.overlay == Some(Overlay::Help) => {
                return self.close();
            }
            Key::Char('?') | Key::F1 => return self.open(Overlay::Help),
            Key::Char('y') => return self.copy_overlay(),
            Key::Char('w') if matches!(self.dialog.overlay, Some(Overlay::Card { .. })) => {
                return self.close();
            }
            _ => {}
        }
        let by = match key {
            Key::Char('j') | Key::Down => 1,
            Key::Char('k') | Key::Up => -1,
            Key::PageDown | Key::Ctrl('d') => page,
            Key::PageUp | Key::Ctrl('u') => -page,
            Key::Home | Key::Char('g') => i64::MIN,
            Key::End | Key::Char('G') => i64::MAX,
            _ => 0,
        };
        if let Some(Overlay::Errors { list, selected, .. }) = &mut self.dialog.overlay {
            match key {
                Key::Char('e') => return self.close(),
                Key::Enter => {
                    let chosen = list.get(*selected).cloned();
                    return self.edit(chosen);
                }
                _ => {}
            }
            let last = list.len().saturating_sub(1);
            *selected = moved(*selected, by).min(last);
            return;
        }
        // The picture bounds it: how many rows there are is known there.
        self.dialog.scroll =
            moved(self.dialog.scroll, by).min(self.overlay_rows().saturating_sub(1));
    }

    fn key_in_field(&mut self, key: Key) {
        let Some(field) = &mut self.dialog.field else {
            return;
        };
        match key {
            Key::Char(c) => field.insert(c),
            Key::Backspace if field.text.is_empty() => self.dialog.field = None,
            Key::Backspace => field.remove_before(),
            Key::Delete => field.remove_after(),
            Key::Left => field.cursor = field.before(),
            Key::Right => field.cursor = field.after(),
            Key::Home | Key::Ctrl('a') => field.cursor = 0,
            Key::End | Key::Ctrl('e') => field.cursor = field.text.len(),
            Key::Ctrl('u') => {
                field.text.clear();
                field.cursor = 0;
            }
            Key::Esc => {
                self.dialog.field = None;
                self.dialog.closed = Some(self.clock.now);
            }
            Key::Enter => {
                if let Some(field) = self.dialog.field.take() {
                    self.entered(field);
                }
            }
            _ => {}
        }
    }

    fn entered(&mut self, field: Field) {
        let text = field.text;
        match field.what {
            Entry::Search if text.is_empty() => {
                self.log.output.set_search(None, self.output_size())
            }
            Entry::Search => match Search::new(&text) {
                Ok(search) => {
                    let size = self.output_size();
                    self.log.output.set_search(Some(search), size);
                    let found = self.log.output.search().map_or(0, |s| s.position().1);
                    if found == 0 {
                        self.say(format!("no line matches {text:?}"), false);
                    }
                }
                Err(why) => self.say(why, true),
            },
            Entry::Filter => {
                if let Err(why) = Search::new(&text) {
                    return self.say(why, true);
                }
                self.change_view(|view| view.pattern = (!text.is_empty()).then_some(text));
            }
            Entry::Names => {
                self.list.filter = text;
                self.keep_selection();
            }
        }
    }

    fn field(&mut self, what: Entry, text: &str) {
        self.dialog.field = Some(Field {
            what,
            text: text.into(),
            cursor: text.len(),
        });
    }

    fn is_something_open(&self) -> bool {
        let (dialog, log) = (&self.dialog, &self.log);
        dialog.overlay.is_some()
            || dialog.field.is_some()
            || dialog.question.is_some()
            || self.screen.plain
            || log.output.search().is_some()
            || log.view.pattern.is_some()
            || !self.list.filter.is_empty()
            || log.output.paused().is_some()
            || log.view.builds
            || log.view.index < -1
    }

    /// Closes what is open, one thing at a time.
    fn escape(&mut self) {
        let recently = |at| self.clock.now.since(at) < ESCAPE;
        if self.screen.plain {
            self.set_plain(false);
        } else if self.log.output.search().is_some() {
            self.log.output.set_search(None, self.output_size());
        } else if self.log.view.pattern.is_some() {
            self.change_view(|view| view.pattern = None);
        } else if !self.list.filter.is_empty() {
            self.list.filter.clear();
            self.keep_selection();
        } else if self.log.output.paused().is_some() {
            self.log.output.follow();
        } else if self.log.view.builds || self.log.view.index != -1 {
            self.change_view(|view| (view.builds, view.index) = (false, -1));
        } else if self.dialog.closed.is_some_and(recently) {
            return;
        } else {
            return self.effect(Effect::Leave(0));
        }
        self.dialog.closed = Some(self.clock.now);
    }

    pub(super) fn open(&mut self, overlay: Overlay) {
        self.dialog.overlay = Some(overlay);
        self.dialog.scroll = 0;
    }

    fn close(&mut self) {
        self.dialog.overlay = None;
        self.dialog.scroll = 0;
        self.dialog.closed = Some(self.clock.now);
    }

    fn set_plain(&mut self, plain: bool) {
        self.screen.plain = plain;
        let ours = self.screen.look.mouse && !plain;
        self.effect(Effect::Mouse(ours));
        self.effect(Effect::Repaint);
    }

    /// The selection is one of the list, or there is none.
    pub(super) fn keep_selection(&mut self) {
        let names: Vec<String> = self.listed().iter().map(|p| p.name.clone()).collect();
        let place = |name: &String| names.iter().position(|n| n == name);
        let at = self.list.selected.as_ref().and_then(place);
        match at {
            Some(at) => self.list.place = at,
            None => {
                let at = self.list.place.min(names.len().saturating_sub(1));
                let name = names.into_iter().nth(at);
                self.list.place = at;
                // Its log stays while a filter of names has no hit.
                if name.is_some() || self.processes().is_empty() {
                    self.list.selected = name;
                    self.show_selected();
                }
            }
        }
    }

    fn select_by(&mut self, by: i64) {
        let names: Vec<String> = self.listed().iter().map(|p| p.name.clone()).collect();
        if names.is_empty() {
            return;
        }
        let here = self.list.selected.as_ref();
        let at = here.and_then(|name| names.iter().position(|n| n == name));
        let last = names.len() - 1;
        let to = match (at, by > 0) {
            (Some(at), true) if at == last => 0,
            (Some(0), false) => last,
            (Some(at), true) => at + 1,
            (Some(at), false) => at - 1,
            (None, _) => 0,
        };
        self.select(to);
    }

    fn select(&mut self, at: usize) {
        let name = self.listed().get(at).map(|p| p.name.clone());
        if let Some(name) = name.filter(|name| self.list.selected.as_ref() != Some(name)) {
            self.list.selected = Some(name);
            self.list.place = at;
            self.list.switch = Some(self.clock.now.after(REST));
        }
    }

    fn selected_name(&self) -> Option<String> {
        self.selected().map(|p| p.name.clone())
    }

    /// The log of the process that is selected.
    pub(super) fn show_selected(&mut self) {
        self.list.switch = None;
        let Some(process) = self.list.selected.clone() else {
            return;
        };
        if process == self.log.view.process {
            return;
        }
        let view = View {
            process,
            builds: self.log.view.builds,
            index: -1,
            pattern: None,
            lines: FEW,
        };
        self.show(view);
    }

    fn show(&mut self, view: View) {
        let log = &mut self.log;
        log.generation += 1;
        log.output.reset();
        log.came = false;
        log.trouble = None;
        log.more = false;
        log.drag = None;
        log.wants_oldest = false;
        log.view = view.clone();
        let generation = log.generation;
        self.effect(Effect::Show(view, generation));
    }

    fn change_view(&mut self, change: impl FnOnce(&mut View)) {
        let mut view = self.log.view.clone();
        if view.process.is_empty() {
            return;
        }
        change(&mut view);
        view.lines = FEW;
        self.show(view);
    }

    /// The same log once more, from its newest lines.
    pub(super) fn read_again(&mut self) {
        self.change_view(|_| {});
    }

    fn refresh(&mut self) {
        self.effect(Effect::Ask(Ask::Status));
        if self.list.switch.is_some() {
            return self.show_selected();
        }
        self.change_view(|view| {
            view.pattern = None;
            view.index = -1;
        });
    }

    fn scroll(&mut self, by: i64) {
        let size = self.output_size();
        self.log.wants_oldest = false;
        self.log.output.scroll(by, size);
        if by < 0 && self.log.output.at_oldest(size) {
            self.read_more();
        }
    }

    fn oldest(&mut self) {
        let size = self.output_size();
        self.log.output.to_oldest(size);
        self.log.wants_oldest = self.read_more() || !self.log.came;
    }

    /// The oldest line that was read is seen: all that can be held is read now, once.
    pub(super) fn read_more(&mut self) -> bool {
        let live = self.server.link == Link::Live;
        if !live || !self.log.more || self.log.view.lines >= MOST_LINES {
            return false;
        }
        self.log.more = false;
        let mut view = self.log.view.clone();
        view.lines = MOST_LINES;
        self.log.view.lines = MOST_LINES;
        // The text on the screen stays until the answer replaces it.
        self.log.generation += 1;
        let generation = self.log.generation;
        self.effect(Effect::Show(view, generation));
        true
    }

    fn hit(&mut self, older: bool) {
        let size = self.output_size();
        if self.log.output.search().is_none() {
            return self.say("nothing is searched: / does", false);
        }
        if !self.log.output.next_hit(older, size) {
            let which = if older { "older" } else { "newer" };
            self.say(format!("no {which} hit"), false);
        }
    }

    fn copy(&mut self) {
        let size = self.output_size();
        let output = &self.log.output;
        let hit = output.search().and_then(Search::at);
        let text = match (self.log.drag, hit) {
            (Some((from, to)), _) => output.copied(from.min(to)..=from.max(to)),
            (None, Some(id)) => output.copied(std::iter::once(id)),
            (None, None) => {
                let mut ids: Vec<u64> = output.seen(size).iter().map(|row| row.id).collect();
                ids.dedup();
                output.copied(ids.into_iter())
            }
        };
        self.send_copy(text);
    }

    fn copy_overlay(&mut self) {
        let text = match &self.dialog.overlay {
            Some(Overlay::Card { lines, .. }) => lines.join("\n") + "\n",
            Some(Overlay::Errors { list, .. }) => list.iter().map(|f| f.words() + "\n").collect(),
            Some(Overlay::Help | Overlay::Details) | None => String::new(),
        };
        self.send_copy(text);
    }

    fn send_copy(&mut self, mut text: String) {
        if text.is_empty() {
            return self.say("nothing to copy", false);
        }
        let whole = text.len();
        text.truncate(text.floor_char_boundary(MOST_COPIED));
        let n = text.len();
        let of = if n < whole {
            format!(" of {whole}")
        } else {
            String::new()
        };
        self.say(format!("sent {n}{of} bytes to the clipboard"), false);
        self.effect(Effect::Copy(text));
    }
}

fn moved(at: usize, by: i64) -> usize {
    let to = (at as i64).saturating_add(by);
    usize::try_from(to).unwrap_or(0)
}

impl Field {
    fn insert(&mut self, c: char) {
        if self.text.len() < LONGEST_FIELD {
            self.text.insert(self.cursor, c);
            self.cursor += c.len_utf8();
        }
    }

    fn before(&self) -> usize {
        self.text[..self.cursor]
            .char_indices()
            .last()
            .map_or(0, |(at, _)| at)
    }

    fn after(&self) -> usize {
        let next = self.text[self.cursor..].chars().next();
        self.cursor + next.map_or(0, char::len_utf8)
    }

    fn remove_before(&mut self) {
        let at = self.before();
        if at < self.cursor {
            self.text.remove(at);
            self.cursor = at;
        }
    }

    fn remove_after(&mut self) {
        if self.cursor < self.text.len() {
            self.text.remove(self.cursor);
        }
    }
}

impl Fault {
    /// `src/main.rs:3:5 mismatched types`
    pub fn words(&self) -> String {
        let mut words = String::new();
        if let Some(file) = &self.file {
            words.push_str(file);
            for number in [self.line, self.column].into_iter().flatten() {
                words.push_str(&format!(":{number}"));
            }
            words.push(' ');
        }
        if self.warning {
            words.push_str("warning: ");
        }
        words.push_str(self.message.lines().next().unwrap_or_default());
        words
    }
}
