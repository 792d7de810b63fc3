//! Users and groups by name or number (passwd(5), group(5)), for `user` and `group`.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString};
use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::base::error::reason;

/// The user that a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id: of `group`, else the user's own.
    pub gid: u32,
    /// Supplementary groups, `gid` among them.
    pub groups: Vec<u32>,
    /// The variables that its login sets: `HOME`, `USER`, `LOGNAME`, `SHELL`; nothing for a number that nobody has.
    pub env: Vec<(&'static str, OsString)>,
}

impl Account {
    /// Does something with files as this user: what it may not, we do not for it, wherever a link leads.
    ///
    /// # Errors
    /// We may not become this user, or there is no thread to be had.
    pub fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, String> {
        let failed =
            |why: &dyn std::fmt::Display| format!("cannot act as user {}: {why}", self.uid);
        // These ids are a thread's own, so that no other thread of ours has them meanwhile.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                become_for_files(self)?;
                Ok::<T, io::Error>(work())
            });
            let thread = thread.map_err(|e| failed(&e))?;
            let done = thread.join().map_err(|_| failed(&"a mistake of bpm"))?;
            done.map_err(|e| failed(&e))
        })
    }

    /// Looks a user up, and a group where one is named.
    ///
    /// # Errors
    /// A sentence: there is no such user or group, or we are not root.
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err(format!(
                "\"user\" = {user:?}: only root can become another user"
            ));
        }
        let known = match user.parse::<u32>() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(user),
        };
        let failed = |e: Errno| format!("cannot look up user {user:?}: {}", reason(&e.into()));
        let known = known.map_err(failed)?;
        let gid = match group {
            Some(group) => Some(group_id(group)?),
            None => known.as_ref().map(|user| user.gid.as_raw()),
        };
        let Some(known) = known else {
            // A number needs no name, but then nobody tells its group.
            return match (user.parse(), gid) {
                (Ok(uid), Some(gid)) => Ok(Self {
                    uid,
                    gid,
                    groups: vec![gid],
                    env: Vec::new(),
                }),
                (Ok(_), None) => Err(format!(
                    "no user has the number {user}: name a \"group\" as well"
                )),
                (Err(_), _) => Err(format!("there is no user {user:?}")),
            };
        };
        let gid = gid.unwrap_or_default();
        let name = CString::new(known.name.as_str()).unwrap_or_default();
        let groups = getgrouplist(&name, Gid::from_raw(gid)).unwrap_or_default();
        Ok(Self {
            uid: known.uid.as_raw(),
            gid,
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            env: vec![
                ("HOME", known.dir.into()),
                ("USER", known.name.clone().into()),
                ("LOGNAME", known.name.into()),
                ("SHELL", known.shell.into()),
            ],
        })
    }
}

/// The number of a group, by its name or number.
///
/// # Errors
/// A sentence: there is no such group.
pub fn group_id(group: &str) -> Result<u32, String> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(format!("there is no group {group:?}")),
        Err(e) => {
            let why = reason(&e.into());
            Err(format!("cannot look up group {group:?}: {why}"))
        }
    }
}

/// Gives this thread the user's rights over files (credentials(7)).
fn become_for_files(account: &Account) -> io::Result<()> {
    let (count, groups) = (account.groups.len(), account.groups.as_ptr());
    // SAFETY: reads `count` groups. The system call and not libc's function, which would change all threads.
    Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, count, groups) })?;
    // SAFETY (both): take numbers, change this thread alone.
    unsafe { libc::setfsgid(account.gid) };
    unsafe { libc::setfsuid(account.uid) };
    // They report no failure; a number that is none changes nothing and tells the one there is.
    // SAFETY (both): as above.
    let now = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    match now == (account.uid as i32, account.gid as i32) {
        true => Ok(()),
        false => Err(Errno::EPERM.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        if !nix::unistd::geteuid().is_root() {
            let e = Account::find("root", None).unwrap_err();
            return assert!(e.contains("only root"), "{e}");
        }
        let root = Account::find("root", None).unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.env.contains(&("USER", "root".into())));
        assert_eq!(Account::find("0", None).unwrap(), root);
        let other = Account::find("424242", Some("4343")).unwrap();
        assert_eq!(
            (other.uid, other.gid, other.groups),
            (424_242, 4343, vec![4343])
        );
        let e = Account::find("424242", None).unwrap_err();
        assert_eq!(e, "no user has the number 424242: name a \"group\" as well");
        assert_eq!(
            Account::find("no-such", None).unwrap_err(),
            "there is no user \"no-such\""
        );
        assert_eq!(
            Account::find("root", Some("no-such")).unwrap_err(),
            "there is no group \"no-such\""
        );
    }
}
