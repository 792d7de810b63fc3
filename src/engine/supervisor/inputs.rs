//! All that can come in, one after the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::base::clock::Mono;
use crate::engine::handle::{Command, Notice, ReplySlot, Request};
use crate::os::inbox::Inbox;
use crate::os::poll::{self, Until};
use crate::os::reap::Signals;

/// One thing that came in.
#[derive(Debug)]
pub(super) enum Input {
    Signal(Signal),
    /// Somebody asks for something.
    Command(Request, ReplySlot),
    /// A thread of the engine noticed something.
    Notice(Notice),
    /// A descriptor can be read.
    Readable(Source),
    /// Time went by. It is the last one of all that came together.
    Time(Mono),
}

/// A signal to bpm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Children ended: any number of them.
    Child,
    /// TERM, INT or the HUP of a terminal; `again`: not the first one, or QUIT.
    Stop { again: bool },
    /// Any other HUP.
    Reload,
    /// USR2.
    Upgrade,
    /// One that would end bpm if it were not taken.
    Other(i32),
}

/// The part that a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Presence,
    Direnv,
    Hooks,
    Notify,
    Files,
    Upgrade,
    /// Runs that were taken over.
    Adopted,
}

/// Where inputs come from, and those that were not handled yet.
pub(super) struct Inputs {
    signals: Signals,
    inbox: Arc<Inbox<Command>>,
    waiting: VecDeque<Input>,
    /// HUP is a terminal that went away.
    hangs_up: bool,
    stopped_before: bool,
    was_quit: bool,
}

impl Inputs {
    /// Takes over the signals of this process.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub(super) fn new(inbox: Arc<Inbox<Command>>, hangs_up: bool) -> io::Result<Self> {
        Ok(Self {
            signals: Signals::new()?,
            inbox,
            waiting: VecDeque::new(),
            hangs_up,
            stopped_before: false,
            was_quit: false,
        })
    }

    /// QUIT came.
    pub(super) fn was_quit(&self) -> bool {
        self.was_quit
    }

    /// Something has come that was not handled yet: waits for nothing.
    ///
    /// # Errors
    /// The system refuses to wait for descriptors.
    pub(super) fn has_come(&mut self) -> io::Result<bool> {
        self.wait(&[], Some(Mono::now()))?;
        let is_news = |input: &Input| !matches!(input, Input::Time(_));
        Ok(self.waiting.iter().any(is_news))
    }

    /// The same of orders.
    ///
    /// # Errors
    /// The system refuses to wait for descriptors.
    pub(super) fn has_order(&mut self) -> io::Result<bool> {
        self.wait(&[], Some(Mono::now()))?;
        let is_order = |input: &Input| matches!(input, Input::Command(..));
        Ok(self.waiting.iter().any(is_order))
    }

    /// The next one that has come.
    pub(super) fn next(&mut self) -> Option<Input> {
        self.waiting.pop_front()
    }

    /// Waits in one poll(2) until something comes or that time has come; for ever where there is none.
    ///
    /// # Errors
    /// The system refuses to wait for descriptors.
    pub(super) fn wait(
        &mut self,
        sources: &[(BorrowedFd<'_>, Until, Source)],
        until: Option<Mono>,
    ) -> io::Result<()> {
        let own = [
            self.signals.as_fd(),
            self.signals.others(),
            self.inbox.as_fd(),
        ];
        let own = own.map(|fd| (fd, Until::Readable));
        let fds = sources.iter().map(|(fd, until, _)| (*fd, *until));
        let fds: Vec<_> = fds.chain(own).collect();
        let left = until.map(|at| at.since(Mono::now()));
        let ready = poll::wait(&fds, left)?;
        self.take_signals();
        let mut commands = Vec::new();
        self.inbox.take(&mut commands);
        self.waiting
            .extend(commands.into_iter().map(|command| match command {
                Command::Request(request, slot) => Input::Command(request, slot),
                Command::Notice(notice) => Input::Notice(notice),
            }));
        let sources = sources.iter().zip(ready).filter(|(_, ready)| *ready);
        let mut sources: Vec<Source> = sources.map(|((.., source), _)| *source).collect();
        // Each reads all of its descriptors.
        sources.dedup();
        self.waiting
            .extend(sources.into_iter().map(Input::Readable));
        self.waiting.push_back(Input::Time(Mono::now()));
        Ok(())
    }

    /// Ends of children come first: what has ended by itself did not end for an order that came meanwhile.
    fn take_signals(&mut self) {
        let caught = self.signals.take();
        let others = caught.others;
        let hangs_up = caught.hup && self.hangs_up;
        let stop = caught.term || caught.int || caught.quit || hangs_up;
        let again = self.stopped_before || caught.quit;
        self.was_quit |= caught.quit;
        self.stopped_before |= stop;
        let signals = [
            (caught.child, Signal::Child),
            (stop, Signal::Stop { again }),
            (caught.hup && !hangs_up, Signal::Reload),
            (caught.usr2, Signal::Upgrade),
        ];
        let caught = signals.into_iter().filter(|(came, _)| *came);
        self.waiting
            .extend(caught.map(|(_, signal)| Input::Signal(signal)));
        self.waiting.extend(
            others
                .into_iter()
                .map(|number| Input::Signal(Signal::Other(number))),
        );
    }
}
