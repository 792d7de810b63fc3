//! stub
#![allow(missing_docs)]
use crate::os::poll::{Mailbox, Waker};
use crate::search::Stream;
use crate::tape::Tape;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
#[derive(Debug)]
pub struct Pump {
    w: Arc<Waker>,
}
impl Pump {
    pub fn start(
        tape: Arc<Tape>,
        run: u64,
        stdout: OwnedFd,
        stderr: OwnedFd,
        on_drained: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Self> {
        let mb = Mailbox::new()?;
        let w = mb.waker(0);
        std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || {
                let mut fds = [
                    Some((Stream::Stdout, stdout)),
                    Some((Stream::Stderr, stderr)),
                ];
                let mut d = Some(on_drained);
                let mut t = Vec::new();
                while fds.iter().any(Option::is_some) || d.is_some() {
                    let mut p = vec![PollFd::new(mb.as_fd(), PollFlags::POLLIN)];
                    for f in fds.iter().flatten() {
                        p.push(PollFd::new(f.1.as_fd(), PollFlags::POLLIN));
                    }
                    let _ = poll(&mut p, PollTimeout::NONE);
                    drop(p);
                    mb.take(&mut t);
                    for f in &mut fds {
                        loop {
                            match f {
                                Some((s, fd)) => match tape.read_from(run, *s, fd.as_fd()) {
                                    Ok(0) => *f = None,
                                    Ok(_) => {}
                                    Err(_) => break,
                                },
                                None => break,
                            }
                        }
                    }
                    if !t.is_empty()
                        && let Some(d) = d.take()
                    {
                        d();
                    }
                }
            })?;
        Ok(Self { w })
    }
    pub fn leader_exited(&self) {
        self.w.wake();
    }
}
