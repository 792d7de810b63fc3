//! Whose files a project is made of: a table, combinations at random, and folders and names that are exchanged while
//! bpm works with them. Nothing of a stranger is executed.

use std::os::unix::fs::{chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::common::{Ended, Project, all_attacks};
use crate::trust::{
    ATTACKER, TOUCHES, VICTIM, as_user, as_user_with, give, is_root, mode, open_way,
};

/// How the `.mcp-run` is found in its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File,
    /// A link of that user.
    Link(u32),
    /// One of two names.
    HardLink,
}
use Entry::{File, HardLink, Link};

/// A user, the entry, the file, its folder and the folder above: owners and modes.
#[derive(Debug, Clone, Copy)]
struct Case {
    us: u32,
    entry: Entry,
    file: (u32, u32),
    folder: (u32, u32),
    above: (u32, u32),
}

const V: u32 = VICTIM;
const A: u32 = ATTACKER;
const FINE: (u32, u32) = (0, 0o755);

impl Case {
    fn of(us: u32, entry: Entry, file: (u32, u32), folder: (u32, u32), above: (u32, u32)) -> Self {
        Self {
            us,
            entry,
            file,
            folder,
            above,
        }
    }

    /// The rules of mcp-run(5), once more.
    fn is_fine(self) -> bool {
        let ours = |uid| uid == self.us || uid == 0;
        let others = |mode: u32| mode & if self.us == 0 { 0o022 } else { 0o002 } != 0;
        let folder = |(uid, mode): (u32, u32)| ours(uid) && (!others(mode) || mode & 0o1000 != 0);
        let entry = match self.entry {
            File => true,
            Link(uid) => ours(uid),
            HardLink => !others(self.folder.1),
        };
        entry
            && ours(self.file.0)
            && !others(self.file.1)
            && folder(self.folder)
            && (self.us != 0 || folder(self.above))
    }

    /// Makes it, and has bpm read it.
    fn check(self, project: &Project, name: &str) -> Ended {
        let above = project.root.join(name);
        let (folder, elsewhere) = (above.join("p"), project.root.join(format!("{name}-file")));
        std::fs::create_dir_all(&folder).unwrap();
        let entry = folder.join(".mcp-run");
        std::fs::write(&elsewhere, TOUCHES).unwrap();
        match self.entry {
            File => std::fs::rename(&elsewhere, &entry).unwrap(),
            HardLink => std::fs::hard_link(&elsewhere, &entry).unwrap(),
            Link(uid) => {
                symlink(&elsewhere, &entry).unwrap();
                lchown(&entry, Some(uid), Some(uid)).unwrap();
            }
        }
        for (path, (uid, bits)) in [
            (&entry, self.file),
            (&folder, self.folder),
            (&above, self.above),
        ] {
            chown(path, Some(uid), Some(uid)).unwrap();
            mode(path, bits);
        }
        as_user(project, self.us, &folder, &["check"])
    }
}

fn open_project() -> Project {
    let project = Project::empty();
    open_way(&project.root);
    project
}

#[test]
fn project_is_used_by_owners_and_modes() {
    if !is_root() {
        return;
    }
    let project = open_project();
    let table: &[(Case, &str)] = &[
        // An ordinary user.
        (Case::of(V, File, (V, 0o644), (V, 0o755), FINE), ""),
        (Case::of(V, File, (V, 0o664), (V, 0o775), FINE), ""),
        (Case::of(V, File, (0, 0o644), (V, 0o755), FINE), ""),
        (Case::of(V, File, (V, 0o644), (0, 0o1777), FINE), ""),
        (Case::of(V, File, (V, 0o644), (V, 0o755), (0, 0o1777)), ""),
        (Case::of(V, File, (V, 0o644), (V, 0o755), (A, 0o755)), ""),
        (Case::of(V, Link(V), (V, 0o644), (V, 0o755), FINE), ""),
        (Case::of(V, Link(0), (0, 0o644), (V, 0o755), FINE), ""),
        (Case::of(V, HardLink, (V, 0o644), (V, 0o755), FINE), ""),
        (
            Case::of(V, File, (A, 0o644), (0, 0o1777), FINE),
            "it belongs to uid 4343",
        ),
        (
            Case::of(V, File, (A, 0o644), (V, 0o755), FINE),
            "it belongs to uid 4343",
        ),
        (
            Case::of(V, File, (A, 0o444), (A, 0o755), FINE),
            "it belongs to uid 4343",
        ),
        (
            Case::of(V, File, (V, 0o666), (V, 0o755), FINE),
            "others may write it (mode 666)",
        ),
        (
            Case::of(V, File, (0, 0o646), (V, 0o755), FINE),
            "others may write it (mode 646)",
        ),
        (
            Case::of(V, File, (V, 0o644), (A, 0o755), FINE),
            "belongs to uid 4343",
        ),
        (
            Case::of(V, File, (V, 0o644), (A, 0o1777), FINE),
            "belongs to uid 4343",
        ),
        (
            Case::of(V, File, (V, 0o644), (V, 0o777), FINE),
            "(mode 777)",
        ),
        (
            Case::of(V, Link(A), (V, 0o644), (0, 0o1777), FINE),
            "it belongs to uid 4343",
        ),
        (
            Case::of(V, Link(V), (A, 0o644), (V, 0o755), FINE),
            "it belongs to uid 4343",
        ),
        (
            Case::of(V, HardLink, (V, 0o644), (0, 0o1777), FINE),
            "hard links",
        ),
        // Root, for whom a group's rights and the folders above count as well.
        (Case::of(0, File, (0, 0o644), (0, 0o755), FINE), ""),
        (Case::of(0, File, (0, 0o644), (0, 0o1777), FINE), ""),
        (
            Case::of(0, Link(0), (0, 0o600), (0, 0o700), (0, 0o1777)),
            "",
        ),
        (
            Case::of(0, File, (V, 0o644), (0, 0o755), FINE),
            "it belongs to uid 4242",
        ),
        (
            Case::of(0, File, (0, 0o664), (0, 0o755), FINE),
            "others may write it (mode 664)",
        ),
        (
            Case::of(0, File, (0, 0o644), (0, 0o775), FINE),
            "(mode 775)",
        ),
        (
            Case::of(0, File, (0, 0o644), (V, 0o700), FINE),
            "belongs to uid 4242",
        ),
        (
            Case::of(0, Link(A), (0, 0o644), (0, 0o755), FINE),
            "it belongs to uid 4343",
        ),
        (
            Case::of(0, HardLink, (0, 0o644), (0, 0o1777), FINE),
            "hard links",
        ),
        (
            Case::of(0, File, (0, 0o644), (0, 0o755), (A, 0o755)),
            "belongs to uid 4343",
        ),
        (
            Case::of(0, File, (0, 0o644), (0, 0o755), (0, 0o777)),
            "(mode 777)",
        ),
    ];
    for (at, (case, why)) in table.iter().enumerate() {
        let ended = case.check(&project, &format!("c{at}"));
        assert_eq!(case.is_fine(), why.is_empty(), "{case:?}");
        let as_expected = match why.is_empty() {
            true => ended.code == Some(0),
            false => ended.code == Some(1) && ended.err.contains(why),
        };
        assert!(as_expected, "{case:?}: {ended:?}");
    }
}

#[test]
fn project_at_random_is_used_by_owners_and_modes() {
    if !is_root() {
        return;
    }
    let project = open_project();
    let seconds = std::env::var("BPM_FUZZ_SECONDS").ok();
    let seconds: u64 = seconds.and_then(|s| s.parse().ok()).unwrap_or(0);
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed = seed.as_nanos() as u64 | 1;
    let mut state = seed;
    let mut pick = |from: &[u32]| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        from[(state >> 33) as usize % from.len()]
    };
    let files = [0o644, 0o644, 0o604, 0o664, 0o666, 0o646, 0o755];
    let folders = [0o755, 0o755, 0o705, 0o775, 0o777, 0o1777, 0o1775, 0o757];
    let (began, mut fine, mut rounds) = (Instant::now(), 0, 0);
    while rounds < 60 || began.elapsed() < Duration::from_secs(seconds) {
        let us = pick(&[0, V]);
        let uids = [0, us, us, V, A];
        let entry = match pick(&[0, 0, 1, 2]) {
            0 => File,
            1 => Link(pick(&uids)),
            _ => HardLink,
        };
        let case = Case::of(
            us,
            entry,
            (pick(&uids), pick(&files)),
            (pick(&uids), pick(&folders)),
            (pick(&uids), pick(&folders)),
        );
        let ended = case.check(&project, "case");
        let code = i32::from(!case.is_fine());
        assert_eq!(ended.code, Some(code), "{case:?} {ended:?}, seed {seed}");
        fine += i32::from(case.is_fine());
        rounds += 1;
        std::fs::remove_dir_all(project.root.join("case")).unwrap();
        let _ = std::fs::remove_file(project.root.join("case-file"));
    }
    println!("{rounds} combinations, {fine} of them fine");
}

/// A world-writable folder with a stranger's `.mcp-run`, and one of the victim's below it.
fn below_a_strangers(sticky: u32) -> (Project, PathBuf) {
    let project = Project::new(TOUCHES);
    give(&project.root.join(".mcp-run"), A);
    mode(&project.root, sticky);
    open_way(&project.root);
    let mine = project.root.join("mine");
    std::fs::create_dir(&mine).unwrap();
    give(&mine, V);
    (project, mine)
}

#[test]
fn strangers_mcp_run_above_is_refused_on_every_way_to_it() {
    if !is_root() {
        return;
    }
    for bits in [0o1777, 0o777] {
        let (project, mine) = below_a_strangers(bits);
        let beside = |name: &str| project.root.parent().unwrap().join(name);
        let (link, above) = (beside("link"), beside("above"));
        symlink(&mine, &link).unwrap();
        symlink(&project.root, &above).unwrap();
        let above = above.to_str().unwrap();
        let through = mine.join("../mine");
        for uid in [V, 0] {
            for folder in [&mine, &link, &through] {
                for args in [
                    &["up"][..],
                    &["-d"],
                    &["-C", "../mine/..", "up"],
                    &["-C", above, "up"],
                ] {
                    as_user(&project, uid, folder, args)
                        .exits(1)
                        .says(&["cannot use", "it belongs to uid 4343"]);
                }
            }
        }
        assert!(!project.root.join("executed").exists() && !mine.join("executed").exists());
    }
}

#[test]
fn entries_that_are_no_plain_file_hold_up_nobody() {
    if !is_root() {
        return;
    }
    let (project, mine) = below_a_strangers(0o1777);
    let entry = project.root.join(".mcp-run");
    let refused = |folder: bool| {
        for uid in [V, 0] {
            as_user(&project, uid, &mine, &["up"])
                .exits(1)
                .says(&["it belongs to uid 4343"]);
            // What executes nothing goes on.
            as_user(&project, uid, &mine, &["status"]).exits(3);
        }
        match folder {
            true => std::fs::remove_dir(&entry).unwrap(),
            false => std::fs::remove_file(&entry).unwrap(),
        }
    };
    std::fs::remove_file(&entry).unwrap();
    nix::unistd::mkfifo(&entry, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    give(&entry, A);
    refused(false);
    std::fs::create_dir(&entry).unwrap();
    give(&entry, A);
    refused(true);
    symlink("/dev/zero", &entry).unwrap();
    lchown(&entry, Some(A), Some(A)).unwrap();
    refused(false);
}

#[test]
fn list_of_trusted_folders_counts_if_nobody_else_may_write_it() {
    if !is_root() {
        return;
    }
    let (project, mine) = below_a_strangers(0o1777);
    let home = project.root.parent().unwrap().join("given");
    std::fs::create_dir(&home).unwrap();
    let list = home.join("trust");
    std::fs::write(&list, format!("{}\n", project.root.display())).unwrap();
    for (folder, file, fine) in [
        ((A, 0o755), (A, 0o644), false),
        ((V, 0o755), (A, 0o644), false),
        ((A, 0o755), (V, 0o644), false),
        ((V, 0o777), (V, 0o644), false),
        ((V, 0o755), (V, 0o666), false),
        ((V, 0o755), (V, 0o644), true),
    ] {
        give(&home, folder.0);
        mode(&home, folder.1);
        give(&list, file.0);
        mode(&list, file.1);
        let ended = as_user_with(&project, &home, V, &mine, &["check"]);
        let code = i32::from(!fine);
        assert_eq!(ended.code, Some(code), "{folder:?} {file:?}: {ended:?}");
        let listed = as_user_with(&project, &home, V, &mine, &["trust", "--list"]).exits(code);
        assert_eq!(listed.out.is_empty(), !fine, "{listed:?}");
        if !fine {
            listed.says(&["cannot use", "/given/trust\""]);
        }
    }
}

/// A folder of the victim's and one of the attacker's below a folder of the attacker's, where each may take the other's
/// name. Both have a `server`: the attacker's makes a file `executed`, the victim's one `served`.
fn exchangeable(project: &Project) -> (PathBuf, PathBuf) {
    open_way(&project.root);
    mode(&project.root, 0o1777);
    let above = project.root.join("above");
    let (mine, evil) = (above.join("mine"), above.join("evil"));
    for (folder, uid, made) in [(&mine, V, "served"), (&evil, A, "executed")] {
        std::fs::create_dir_all(folder).unwrap();
        let (config, server) = (folder.join(".mcp-run"), folder.join("server"));
        std::fs::write(&config, "[process.x]\ncommand = [\"./server\"]\n").unwrap();
        let made = project.root.join(made);
        let script = format!("#!/bin/sh\ntouch {}\nexec sleep 1000\n", made.display());
        std::fs::write(&server, script).unwrap();
        mode(&server, 0o755);
        for path in [&config, &server, folder] {
            give(path, uid);
        }
    }
    give(&above, A);
    mode(&above, 0o777);
    (mine, evil)
}

fn exchange(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
}

#[test]
fn folder_that_took_the_place_of_a_project_executes_nothing() {
    if !is_root() {
        return;
    }
    let project = Project::empty();
    let (mine, evil) = exchangeable(&project);
    let path = mine.to_str().unwrap();
    let victim = |args: &[&str]| as_user(&project, V, &project.root, args);
    victim(&["-C", path, "up"]).exits(0);
    assert!(project.root.join("served").exists());
    exchange(&mine, &evil);
    let refused = victim(&["-C", path, "restart", "x"]).exits(1);
    let said = refused.out.clone() + &refused.err;
    assert!(said.contains("belongs to uid 4343"), "{refused:?}");
    let refused = victim(&["-C", path, "reload"]).exits(1);
    refused.says(&["it belongs to uid 4343"]);
    exchange(&mine, &evil);
    victim(&["-C", path, "restart", "x"]).exits(0);
    victim(&["-C", path, "stop"]).exits(0);
    assert!(!project.root.join("executed").exists());
}

#[test]
fn folder_exchanged_between_check_and_use_executes_nothing() {
    if !is_root() {
        return;
    }
    let project = Project::empty();
    let (mine, evil) = exchangeable(&project);
    let path = mine.to_str().unwrap();
    let victim = |args: &[&str]| as_user(&project, V, &project.root, args);
    let rounds = if all_attacks() { 200 } else { 6 };
    let (mut started, mut refused) = (0, 0);
    for _ in 0..rounds {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    exchange(&mine, &evil);
                    std::thread::yield_now();
                }
            });
            let ended = victim(&["-C", path, "up", "--timeout", "2"]);
            match ended.code {
                Some(0) => started += 1,
                Some(_) => refused += 1,
                None => panic!("{ended:?}"),
            }
            over.store(true, Ordering::Relaxed);
        });
        let stopped = victim(&["-C", path, "stop", "--force"]);
        assert!(matches!(stopped.code, Some(0 | 3)), "{stopped:?}");
        assert!(!project.root.join("executed").exists());
    }
    println!("{rounds} rounds, {started} started, {refused} refused");
}

#[test]
fn user_is_a_mistake_where_bpm_is_not_root() {
    if !is_root() {
        return;
    }
    let project = Project::new("[process.x]\ncommand = [\"true\"]\nuser = \"nobody\"\n");
    open_way(&project.root);
    mode(&project.root.join(".mcp-run"), 0o644);
    project.cli(["check"]).exits(0);
    let said = as_user(&project, VICTIM, &project.root, &["check"]).exits(1);
    let mistake = ".mcp-run:3:8: \"user\" in [process.x]: only root can become another user";
    assert!(said.err.starts_with(mistake), "{said:?}");
}

#[test]
fn accounts_that_are_not_there_are_mistakes() {
    if !is_root() {
        return;
    }
    let project = Project::new(
        "[process.x]\ncommand = [\"true\"]\nuser = \"nobody-here\"\n\
         [process.y]\ncommand = [\"true\"]\nuser = 0\ngroup = \"none-here\"\n",
    );
    let said = project.cli(["check"]).exits(1);
    for mistake in [
        ".mcp-run:3:8: \"user\" in [process.x]: there is no user \"nobody-here\"\n",
        ".mcp-run:7:9: \"group\" in [process.y]: there is no group \"none-here\"\n",
    ] {
        assert!(said.err.contains(mistake), "{said:?}");
    }
    let program = "[program:a]\ncommand = true\nuser = nobody-here\n";
    project.file("supervisord.conf", program);
    let from = ["init", "--force", "--from", "supervisord.conf"];
    let said = project.cli(from).exits(0);
    let left =
        "supervisord.conf:3: user = \"nobody-here\": \"user\" in [process.a]: there is no user";
    assert!(said.err.contains(left), "{said:?}");
    project.cli(["check"]).exits(0);
}
