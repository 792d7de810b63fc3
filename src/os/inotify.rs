//! inotify(7): the kernel tells which folders had a file written, made, moved or removed. [`Inotify`] tells
//! what it was, of any number of folders; [`PathWatch`] only that there was something, and does without
//! inotify where none is to be had.

#![allow(unsafe_code)]

mod paths;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{self as kernel, AddWatchFlags, InitFlags, InotifyEvent};

use crate::base::error::Error;

pub use paths::PathWatch;

/// One watched folder, as the kernel numbers it. A number is not used again for a long time.
pub type Mark = kernel::WatchDescriptor;

/// Something happened to what is in a watched folder, or to that folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub mark: Mark,
    pub kind: Kind,
    /// The name in the folder; empty where the folder itself is meant.
    pub name: OsString,
    /// The name is that of a folder.
    pub is_folder: bool,
}

/// The kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It was open for writing and is closed.
    Written,
    /// Its contents or its length changed; told only of folders that were widened.
    Wrote,
    /// Its times, mode, owner or number of names changed.
    Touched,
    /// It is new.
    Made,
    /// It came from elsewhere; the number is that of the [`Kind::MovedOut`] just
    /// before, if that was watched too.
    MovedIn(u32),
    /// It went elsewhere.
    MovedOut(u32),
    /// It is no more.
    Removed,
    /// The folder itself was moved; told only of those watched with [`Scope::Itself`].
    SelfMoved,
    /// The folder is no longer watched: it was removed, unmounted, or let go.
    Gone,
    /// The kernel's queue was full: events are lost, of any folder.
    Lost,
}

/// How much of a folder is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Its entries.
    Contents,
    /// And where it goes.
    Itself,
    /// Names that appear, and no more.
    Names,
}

/// Why a folder is not watched.
#[derive(Debug)]
pub enum Refusal {
    /// It is none, or none any more.
    NoFolder,
    /// The user has as many watches as may be; the error says which limit that is, and what to do.
    Limit(Error),
    /// Anything else.
    Other(io::Error),
}

/// What an earlier program of this process opened.
fn instance(fd: OwnedFd) -> kernel::Inotify {
    // SAFETY: the descriptor is owned, and goes over to what is made of it.
    unsafe { kernel::Inotify::from_raw_fd(fd.into_raw_fd()) }
}

/// Events of any number of folders, through one descriptor that can be waited for.
#[derive(Debug)]
pub struct Inotify {
    inner: kernel::Inotify,
}

impl Inotify {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The user has as many instances as may be, or we as many descriptors; with what to do about it.
    pub fn new() -> Result<Self, Error> {
        match open() {
            Ok(inner) => Ok(Self { inner }),
            // Too many open files of ours say EMFILE as well, but that limit is raised to the highest (fds).
            Err(Errno::EMFILE) => Err(limit_reached("max_user_instances")),
            Err(e) => Err(Error::system("watch files", e.into())),
        }
    }

    /// One that an earlier program of this process opened, with its watches and the events that nobody has read.
    pub fn inherited(fd: OwnedFd) -> Self {
        let inner = instance(fd);
        Self { inner }
    }

    /// Watches a folder, never through a link in its last name. One that is watched already keeps its mark.
    pub fn add(&self, folder: &Path, scope: Scope) -> Result<Mark, Refusal> {
        self.add_with(folder, mask(scope))
    }

    fn add_with(&self, folder: &Path, mask: AddWatchFlags) -> Result<Mark, Refusal> {
        match self.inner.add_watch(folder, mask) {
            Ok(mark) => Ok(mark),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Err(Refusal::NoFolder),
            Err(Errno::ENOSPC) => Err(Refusal::Limit(limit_reached("max_user_watches"))),
            Err(e) => Err(Refusal::Other(e.into())),
        }
    }

    /// Has a folder tell writes as well, which may be many; it is watched from now on if it was not.
    pub fn widen(&self, folder: &Path) -> Result<Mark, Refusal> {
        let more = AddWatchFlags::from_bits_retain(libc::IN_MODIFY | libc::IN_MASK_ADD);
        self.add_with(folder, mask(Scope::Contents) | more)
    }

    /// Lets a folder go; [`Kind::Gone`] follows. Nothing happens where it is gone already.
    pub fn remove(&self, mark: Mark) {
        let _ = self.inner.rm_watch(mark);
    }

    /// Some of the events there are (4 KiB of them); none when there is none for now.
    pub fn read(&self) -> Result<Vec<Event>, Error> {
        match self.inner.read_events() {
            Ok(events) => Ok(events.into_iter().filter_map(event).collect()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Vec::new()),
            Err(e) => Err(Error::system("read what files changed", e.into())),
        }
    }
}

/// Whether a process has a file open for writing; None where that can't be told: the file is another user's, or its file
/// system knows no leases.
pub fn is_open_for_writing(file: &Path) -> Option<bool> {
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)
        .ok()?;
    // SAFETY: takes a number alone. The lease ends with the descriptor.
    let leased = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    match Errno::result(leased) {
        Ok(_) => Some(false),
        Err(Errno::EAGAIN) => Some(true),
        Err(_) => None,
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// An instance that neither blocks nor reaches a child.
fn open() -> nix::Result<kernel::Inotify> {
    kernel::Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
}

/// The events that are asked for: the end of writing rather than each write, and nothing that only reads.
fn mask(scope: Scope) -> AddWatchFlags {
    let contents = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_ONLYDIR
        | AddWatchFlags::IN_DONT_FOLLOW
        // A file without a name is nobody's: a write to it is no change.
        | AddWatchFlags::from_bits_retain(libc::IN_EXCL_UNLINK);
    match scope {
        Scope::Contents => contents,
        Scope::Itself => contents | AddWatchFlags::IN_MOVE_SELF,
        Scope::Names => {
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR
        }
    }
}

/// None for what we did not ask for: the folder's own attributes, and its removal (Gone follows).
fn event(raw: InotifyEvent) -> Option<Event> {
    let kinds = [
        (AddWatchFlags::IN_Q_OVERFLOW, Kind::Lost),
        (AddWatchFlags::IN_IGNORED, Kind::Gone),
        (AddWatchFlags::IN_MOVE_SELF, Kind::SelfMoved),
        (AddWatchFlags::IN_CLOSE_WRITE, Kind::Written),
        (AddWatchFlags::IN_MODIFY, Kind::Wrote),
        (AddWatchFlags::IN_ATTRIB, Kind::Touched),
        (AddWatchFlags::IN_CREATE, Kind::Made),
        (AddWatchFlags::IN_MOVED_TO, Kind::MovedIn(raw.cookie)),
        (AddWatchFlags::IN_MOVED_FROM, Kind::MovedOut(raw.cookie)),
        (AddWatchFlags::IN_DELETE, Kind::Removed),
    ];
    let (_, kind) = kinds.into_iter().find(|(bit, _)| raw.mask.contains(*bit))?;
    let of_itself = matches!(kind, Kind::Lost | Kind::Gone | Kind::SelfMoved);
    if raw.name.is_none() && !of_itself {
        return None;
    }
    Some(Event {
        mark: raw.wd,
        kind,
        name: raw.name.unwrap_or_default(),
        is_folder: raw.mask.contains(AddWatchFlags::IN_ISDIR),
    })
}

fn limit_reached(name: &str) -> Error {
    let current = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok();
    let current: Option<u64> = current.and_then(|text| text.trim().parse().ok());
    let value = current.map_or(String::new(), |n| format!(" is {n}"));
    let why = format!("the limit of this user is reached (fs.inotify.{name}{value})");
    let more = current.map_or(524_288, |n| n.saturating_mul(4).max(1_024));
    Error::cannot("watch files", why)
        .with_hint(format!("raise it: sudo sysctl fs.inotify.{name}={more}"))
}

#[cfg(test)]
mod tests {
    use super::super::poll::readable;
    use super::super::testing::Folder;
    use super::*;
    use std::time::Duration;

    fn told(inotify: &Inotify) -> Vec<(Kind, String, bool)> {
        let events = inotify.read().unwrap();
        let name = |e: &Event| e.name.to_str().unwrap().to_owned();
        events
            .iter()
            .map(|e| (e.kind, name(e), e.is_folder))
            .collect()
    }

    #[test]
    fn what_happens_in_a_folder_is_told_and_reading_is_not() {
        let folder = Folder::new("inotify");
        let inotify = Inotify::new().unwrap();
        let mark = inotify.add(folder.path(), Scope::Contents).unwrap();
        assert_eq!(inotify.add(folder.path(), Scope::Contents).unwrap(), mark);
        assert_eq!(told(&inotify), []);
        let path = folder.file("a", "text", 0o600);
        let name = |kind, name: &str, is_folder| (kind, name.to_owned(), is_folder);
        assert_eq!(
            told(&inotify),
            [
                name(Kind::Made, "a", false),
                name(Kind::Written, "a", false),
                name(Kind::Touched, "a", false)
            ]
        );
        fs::read(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(told(&inotify), []);
        fs::create_dir(folder.join("d")).unwrap();
        fs::rename(&path, folder.join("b")).unwrap();
        fs::remove_file(folder.join("b")).unwrap();
        let events = told(&inotify);
        let Kind::MovedOut(cookie) = events[1].0 else {
            panic!("{events:?}");
        };
        assert_eq!(
            events,
            [
                name(Kind::Made, "d", true),
                name(Kind::MovedOut(cookie), "a", false),
                name(Kind::MovedIn(cookie), "b", false),
                name(Kind::Removed, "b", false)
            ]
        );
        inotify.remove(mark);
        let [ready] = readable([Some(inotify.as_fd())], Some(Duration::ZERO)).unwrap();
        assert!(ready);
        assert_eq!(told(&inotify), [name(Kind::Gone, "", false)]);
        inotify.remove(mark);
    }

    #[test]
    fn only_folders_are_watched_and_no_links() {
        let folder = Folder::new("inotify-none");
        let inotify = Inotify::new().unwrap();
        std::os::unix::fs::symlink("/", folder.join("link")).unwrap();
        folder.file("file", "", 0o600);
        for name in ["link", "file", "nothing"] {
            let refused = inotify.add(&folder.join(name), Scope::Contents);
            assert!(matches!(refused, Err(Refusal::NoFolder)), "{name}");
        }
    }

    #[test]
    fn a_limit_is_named_with_what_to_do() {
        let e = limit_reached("max_user_watches");
        let text = e.to_string();
        assert!(
            text.starts_with("cannot watch files: the limit of this user is reached (fs.inotify.max_user_watches is "),
            "{text}"
        );
        let hint = e.hint().unwrap();
        assert!(
            hint.starts_with("raise it: sudo sysctl fs.inotify.max_user_watches="),
            "{hint}"
        );
    }
}
