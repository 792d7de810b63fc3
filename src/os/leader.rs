//! The first process of a run: a child of ours, or one that a bpm before us started and that was taken over.
//!
//! The end of a child comes by SIGCHLD and is known by reaping it. The end of another one comes by its pidfd; how it
//! ended stands in proc(5) until its parent reaps it, and is told by its pidfd after that (Linux 6.15).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::pidfd::PidFd;
use super::poll::{Until, readable};
use super::proc::{self, Proc};
use super::reap::{Child, Death, End};
use crate::base::clock::Mono;

/// A parent that has not reaped its child by then may never do it: pid 1 of many a container.
const UNREAPED: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub enum Leader {
    /// Ours to reap.
    Child(Child),
    Adopted(Adopted),
}

/// A process that is not our child.
#[derive(Debug)]
pub struct Adopted {
    process: Proc,
    fd: PidFd,
    /// When it was found to have ended; the manner is not known yet.
    ended: Option<Mono>,
}

impl Adopted {
    /// The process of that number that began then, by descriptor. None: it has ended and was reaped.
    ///
    /// # Errors
    /// ENOSYS before Linux 5.3, or where a filter refuses the call; EMFILE.
    pub fn open(pid: i32, start: u64) -> io::Result<Option<Self>> {
        let fd = PidFd::of_number(pid)?;
        // Read after the descriptor is open: the number is not given away while that process is not reaped.
        let process = proc::process(pid).filter(|p| p.start == start);
        let both = fd.zip(process);
        Ok(both.map(|(fd, process)| Self {
            process,
            fd,
            ended: None,
        }))
    }

    /// As it was when it was opened.
    pub fn process(&self) -> &Proc {
        &self.process
    }

    /// Its descriptor.
    pub fn pidfd(&self) -> &PidFd {
        &self.fd
    }

    /// To be waited for: [`take_death`] knows more then.
    pub fn fd(&self) -> (BorrowedFd<'_>, Until) {
        let until = match self.ended {
            None => Until::Readable,
            Some(_) => Until::HungUp,
        };
        (self.fd.fd(), until)
    }

    /// When [`take_death`] knows more even if nothing happens.
    pub fn deadline(&self) -> Option<Mono> {
        self.ended.map(|at| at.after(UNREAPED))
    }

    fn has_ended(&self) -> bool {
        let now = readable([Some(self.fd.fd())], Some(Duration::ZERO));
        self.ended.is_some() || matches!(now, Ok([true]))
    }

    /// How it ended. None: it lives, or its parent may still reap it.
    fn end(&mut self) -> Option<End> {
        if self.ended.is_none() {
            self.ended = self.has_ended().then(Mono::now);
        }
        let late = self.deadline()? <= Mono::now();
        // A parent may take its time: while it is not reaped, proc(5) tells its status.
        if let Some(status) = proc::status_of_dead(&self.process) {
            return Some(End::of_status(status));
        }
        match self.fd.end() {
            Ok(None) if !late => None,
            Ok(end) => Some(end.unwrap_or(End::Unknown)),
            Err(_) => Some(End::Unknown),
        }
    }
}

impl Leader {
    /// Its number, and that of its group and session.
    pub fn pid(&self) -> i32 {
        match self {
            Self::Child(child) => child.pid(),
            Self::Adopted(adopted) => adopted.process.pid,
        }
    }

    /// It was taken over.
    pub fn adopted(&self) -> Option<&Adopted> {
        match self {
            Self::Child(_) => None,
            Self::Adopted(adopted) => Some(adopted),
        }
    }

    /// It has ended, whether or not the signal of that was taken.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Child(child) => child.has_ended(),
            Self::Adopted(adopted) => adopted.has_ended(),
        }
    }

    /// Sends a signal to all of its group.
    pub fn signal_group(&self, signal: i32) {
        match self {
            Self::Child(child) => child.signal_group(signal),
            Self::Adopted(adopted) => adopted.fd.signal_group(&adopted.process, signal),
        }
    }

    /// Sends it alone the stop signal, and CONT.
    pub fn stop(&self, signal: i32) {
        match self {
            Self::Child(child) => child.stop(signal),
            Self::Adopted(adopted) => {
                adopted.process.stop(signal);
            }
        }
    }

    /// Sends all of its group the stop signal, and CONT.
    pub fn stop_group(&self, signal: i32) {
        for signal in [signal, libc::SIGCONT] {
            self.signal_group(signal);
        }
    }
}

/// The death of the leader in a slot if it has ended, and the manner is known; the slot is empty then.
pub fn take_death(slot: &mut Option<Leader>) -> Option<Death> {
    let (death, leader) = match slot.take()? {
        Leader::Child(child) => match child.reap() {
            Ok(death) => return Some(death),
            Err(child) => (None, Leader::Child(child)),
        },
        Leader::Adopted(mut adopted) => {
            let death = adopted.end().map(|end| Death::of(adopted.process.pid, end));
            (death, Leader::Adopted(adopted))
        }
    };
    if death.is_none() {
        *slot = Some(leader);
    }
    death
}

#[cfg(test)]
mod tests {
    use super::super::pidfd::testing::grandchild;
    use super::super::testing::{eventually, line, shell};
    use super::*;

    fn adopted(pid: i32) -> Option<Leader> {
        let start = proc::start_time(pid).unwrap();
        Adopted::open(pid, start).unwrap().map(Leader::Adopted)
    }

    #[test]
    fn adopted_leader_is_stopped_and_its_end_is_known() {
        let (shell, pid) = grandchild("trap 'exit 9' TERM; while :; do sleep 0.1; done");
        let mut slot = adopted(pid);
        assert_eq!(take_death(&mut slot), None);
        let leader = slot.as_ref().unwrap();
        assert_eq!(leader.pid(), pid);
        assert_eq!(leader.adopted().unwrap().deadline(), None);
        // A shell that has not set its trap yet dies of the signal.
        leader.stop(libc::SIGTERM);
        let death = eventually("it has ended", || take_death(&mut slot));
        let signal = End::Signal {
            number: libc::SIGTERM,
            core: false,
        };
        assert!(
            [End::Code(9), signal, End::Unknown].contains(&death.end),
            "{death:?}"
        );
        assert!(slot.is_none());
        drop(shell);
    }

    #[test]
    fn end_of_an_adopted_leader_that_nobody_reaps_is_known() {
        for (script, end) in [
            ("exit 7", End::Code(7)),
            ("exit 0", End::Code(0)),
            (
                "kill -KILL $(sh -c 'echo $PPID')",
                End::Signal {
                    number: libc::SIGKILL,
                    core: false,
                },
            ),
        ] {
            // Its parent does not wait for it.
            let text = format!("(sleep 0.5; {script}) & echo $!; exec sleep 61");
            let child = shell(&text, &[]);
            let pid: i32 = line(&child.stdout).parse().unwrap();
            let mut slot = adopted(pid);
            let death = eventually("it has ended", || take_death(&mut slot));
            assert_eq!(death.end, end, "{script}");
            child.child.signal_group(libc::SIGKILL);
        }
    }

    #[test]
    fn group_of_an_adopted_leader_is_signalled() {
        // Not our child, but the leader of a group with another one in it.
        let (shell, pid) = grandchild("exec setsid sh -c 'sleep 60 & sleep 61; wait'");
        let in_group = || {
            let all = proc::descendants_of(pid);
            (all.len() == 2 && all.iter().all(|p| p.pgid == pid)).then_some(all)
        };
        let below = eventually("both sleep", in_group);
        let mut slot = adopted(pid);
        slot.as_ref().unwrap().signal_group(libc::SIGKILL);
        eventually("it has ended", || take_death(&mut slot));
        for p in below {
            eventually("all have ended", || {
                let now = proc::process(p.pid).filter(|now| now.start == p.start);
                now.is_none_or(|now| now.state == 'Z').then_some(())
            });
        }
        drop(shell);
    }
}
