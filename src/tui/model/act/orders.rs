//! Pure: no system call, no thread, no clock.
//!
//! Orders to the server, and errors to edit.

use crate::tui::model::{Ask, Dialect, Effect, Link, Model, Overlay};
use crate::tui::status::{Fault, Kind, Process};

impl Model {
    /// The server can do it: all but the four tools of old. Says so where it can't.
    pub(super) fn can(&mut self, more: bool) -> bool {
        if more && self.server.dialect == Dialect::FourTools {
            self.say("this server can't", true);
            return false;
        }
        if self.server.link != Link::Live {
            self.say("no connection", true);
            return false;
        }
        true
    }

    /// It can, and we may.
    pub(super) fn may(&mut self, more: bool) -> bool {
        if self.screen.look.read_only {
            self.say("read only: nothing is changed", true);
            return false;
        }
        self.can(more)
    }

    pub(super) fn order(&mut self, ask: Ask) {
        if self.dialog.orders.contains(&ask) {
            return;
        }
        let words = match &ask {
            Ask::Restart(Some(name)) => format!("{name}: restart asked"),
            Ask::Restart(None) => "restart of all asked".into(),
            Ask::Start(name) => format!("{name}: start asked"),
            Ask::Stop(name) => format!("{name}: stop asked"),
            Ask::Reload { dry: false } => "reload asked".into(),
            Ask::Reload { dry: true } | Ask::Why(_) | Ask::Faults(_) | Ask::Status => String::new(),
        };
        if !words.is_empty() {
            self.say(words, false);
        }
        self.dialog.orders.push(ask.clone());
        self.effect(Effect::Ask(ask));
    }

    pub(super) fn restart(&mut self) {
        if let Some(name) = self.selected_name().filter(|_| self.may(false)) {
            self.order(Ask::Restart(Some(name)));
        }
    }

    pub(super) fn restart_all(&mut self) {
        if self.may(true) {
            let n = self.processes().len();
            self.question(format!("restart all {n} processes?"), Ask::Restart(None));
        }
    }

    pub(super) fn start_or_stop(&mut self) {
        if !self.may(true) {
            return;
        }
        let Some(process) = self.selected() else {
            return;
        };
        let name = process.name.clone();
        if is_to_start(process) {
            return self.order(Ask::Start(name));
        }
        let needs = |p: &&Process| p.depends_on.contains(&name) && p.pid.is_some();
        let users: Vec<&str> = self
            .processes()
            .iter()
            .filter(needs)
            .map(|p| &*p.name)
            .collect();
        let also = match users.as_slice() {
            [] => String::new(),
            [one] => format!(" {one} needs it"),
            many => format!(" {} need it", many.join(", ")),
        };
        self.question(format!("stop {name}?{also}"), Ask::Stop(name));
    }

    pub(super) fn start_daemon(&mut self) {
        if self.screen.look.read_only {
            return self.say("read only: nothing is changed", true);
        }
        match self.server.link {
            Link::Live if self.server.dialect == Dialect::FourTools => {
                self.say("this server can't", true)
            }
            Link::Live => self.say("the daemon runs", false),
            _ if !self.screen.look.local => {
                self.say("only a project's own daemon can be started", true)
            }
            Link::Starting => {}
            Link::First
            | Link::Trying(_)
            | Link::Gone { .. }
            | Link::Stopped { .. }
            | Link::TooOld(_) => {
                self.effect(Effect::Start);
            }
        }
    }

    pub(super) fn errors(&mut self) {
        let Some(process) = self.selected().cloned() else {
            return;
        };
        if !self.can(true) {
            return;
        }
        let Some(build) = process.build else {
            return self.say(format!("{}: nothing was built", process.name), false);
        };
        let name = process.name;
        self.open(Overlay::Errors {
            process: name.clone(),
            list: build.errors,
            selected: 0,
            whole: false,
        });
        self.order(Ask::Faults(name));
    }

    pub(super) fn edit(&mut self, fault: Option<Fault>) {
        let Some(Fault {
            file: Some(file),
            line,
            ..
        }) = fault
        else {
            return self.say("it names no file", false);
        };
        match self.screen.look.local {
            true => self.effect(Effect::Edit(file, line.unwrap_or(1))),
            false => self.say("the project is not on this machine", true),
        }
    }
}

/// `s` starts it, rather than stopping it.
pub(in crate::tui) fn is_to_start(process: &Process) -> bool {
    match process.kind() {
        Kind::Failed => true,
        Kind::Stopped => process.state != "stopping",
        Kind::Running | Kind::Uneasy | Kind::Busy => {
            process.wanted == Some(false) && process.pid.is_none()
        }
    }
}
