#![allow(clippy::disallowed_methods)]

use super::*;
use crate::os::poll::readable;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

/// A project, its watcher, and a time of its own: nothing here waits.
struct Scene {
    root: PathBuf,
    watcher: Watcher,
    now: Mono,
}

impl Scene {
    fn new(name: &str, files: &[&str]) -> Self {
        let unique = Mono::now().as_nanos();
        let root = fs::canonicalize(std::env::temp_dir()).unwrap();
        let root = root.join(format!("bpm-watch-{name}-{}-{unique}", std::process::id()));
        fs::create_dir(&root).unwrap();
        let watcher = Watcher::new(root.clone()).unwrap();
        let scene = Self {
            root,
            watcher,
            now: Mono::from_nanos(1 << 40),
        };
        files.iter().for_each(|file| scene.write(file));
        scene
    }

    /// One process that watches these globs; ready when this returns.
    fn watching(mut self, globs: &[&str]) -> Self {
        self.set(&[(0, globs)]);
        self
    }

    fn set(&mut self, wanted: &[(UnitId, &[&str])]) {
        let globs = |globs: &[&str]| globs.iter().map(|g| Glob::new(g).unwrap()).collect();
        let wanted = wanted.iter().map(|(id, g)| (*id, globs(g))).collect();
        assert_eq!(self.watcher.set(wanted, &[]), [""; 0]);
        assert_eq!(self.read(), [""; 0]);
        assert_eq!(self.due(), [0; 0]);
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn write(&self, path: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // By a program of its own: a child that another test forks meanwhile would have a copy of our descriptor,
        // and its close would be one more event, later.
        let mut shell = Command::new("sh");
        let written = shell.args(["-c", "printf text >\"$0\""]).arg(path).status();
        assert!(written.unwrap().success());
    }

    fn mv(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    /// As the supervisor does: reads until there is nothing to do at once.
    fn read(&mut self) -> Vec<String> {
        let mut problems = self.watcher.read(self.now);
        while self.watcher.deadline() == Some(Mono::default()) || self.is_readable() {
            problems.extend(self.watcher.read(self.now));
        }
        problems
    }

    fn is_readable(&self) -> bool {
        self.becomes_readable(Duration::ZERO)
    }

    /// For an event of a close or of a last use: a child that another test forks meanwhile has a copy of the descriptor,
    /// until it executes its program.
    fn comes_late(&self) -> bool {
        self.becomes_readable(Duration::from_secs(10))
    }

    fn becomes_readable(&self, within: Duration) -> bool {
        readable([Some(self.watcher.as_fd())], Some(within)).unwrap() == [true]
    }

    /// The processes that are due once it has been quiet for long enough, and no earlier.
    fn due(&mut self) -> Vec<UnitId> {
        assert_eq!(self.read(), [""; 0]);
        self.changes().iter().map(|c| c.unit).collect()
    }

    fn changes(&mut self) -> Vec<Change> {
        let quiet = self.now.after(QUIET);
        let early = Mono::from_nanos(quiet.as_nanos() - 1);
        assert_eq!(self.watcher.due(early), []);
        let deadline = self.watcher.deadline();
        let changes = self.watcher.due(quiet);
        assert_eq!(deadline, (!changes.is_empty()).then_some(quiet));
        assert_eq!(self.watcher.deadline(), None);
        self.now = quiet;
        changes
    }

    #[track_caller]
    fn counts(&mut self) {
        let mut due = self.due();
        while due.is_empty() && self.comes_late() {
            due = self.due();
        }
        assert_eq!(due, [0]);
    }

    #[track_caller]
    fn counts_not(&mut self) {
        assert_eq!(self.due(), [0; 0]);
    }

    fn folders(&self) -> Vec<&str> {
        let paths = self.watcher.folders.all();
        paths.map(|path| path.to_str().unwrap()).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn a_file_that_is_written_counts_and_one_that_is_read_does_not() {
    let mut scene = Scene::new("write", &["src/a.rs", "src/b.txt"]).watching(&["src/*.rs"]);
    fs::read(scene.at("src/a.rs")).unwrap();
    scene.write("src/b.txt");
    scene.write("c.rs");
    scene.counts_not();
    scene.write("src/a.rs");
    scene.counts();
    scene.counts_not();
    fs::remove_file(scene.at("src/a.rs")).unwrap();
    scene.counts();
    symlink("b.txt", scene.at("src/l.rs")).unwrap();
    scene.counts();
    fs::create_dir(scene.at("src/folder.rs")).unwrap();
    scene.counts_not();
}

#[test]
fn each_process_has_its_own_globs_and_hears_of_a_path() {
    let mut scene = Scene::new("each", &["a/x", "b/x"]);
    scene.set(&[(3, &["a"]), (5, &["b", "c"]), (7, &[]), (9, &["**"])]);
    scene.write("a/x");
    scene.write("a/y");
    let change = |unit, path: &str| Change {
        unit,
        path: path.into(),
    };
    scene.read();
    assert_eq!(scene.changes(), [change(3, "a/x"), change(9, "a/x")]);
    scene.write("b/x");
    scene.write("c");
    scene.read();
    assert_eq!(scene.changes(), [change(5, "b/x"), change(9, "b/x")]);
}

#[test]
fn it_is_due_only_when_it_has_been_quiet() {
    let mut scene = Scene::new("quiet", &["a"]).watching(&["a"]);
    let begun = scene.now;
    for _ in 0..5 {
        scene.write("a");
        scene.read();
        scene.now = scene.now.after(Duration::from_millis(200));
        assert_eq!(scene.watcher.due(scene.now), []);
    }
    let last = begun.after(Duration::from_millis(800));
    assert_eq!(scene.watcher.deadline(), Some(last.after(QUIET)));
    assert_eq!(scene.watcher.due(last.after(QUIET)).len(), 1);
}

#[test]
fn a_new_time_counts_and_a_new_mode_does_not() {
    let mut scene = Scene::new("touch", &["a"]).watching(&["a"]);
    let path = scene.at("a");
    let set = |time: std::time::SystemTime| {
        // Without opening the file for writing, unlike touch(1) of coreutils.
        let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
        fs::File::open(&path).unwrap().set_times(times).unwrap();
    };
    let now = fs::metadata(&path).unwrap().modified().unwrap();
    set(now);
    scene.counts();
    set(now - Duration::from_secs(10));
    scene.counts_not();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&path, scene.at("b")).unwrap();
    scene.counts_not();
    assert!(Command::new("touch").arg(&path).status().unwrap().success());
    scene.counts();
}

#[test]
fn editors_that_save_by_renaming_count_once_and_opening_does_not() {
    let mut scene = Scene::new("editors", &["src/a.rs"]).watching(&["src/**"]);
    // vim: the swap file when it opens
    scene.write("src/.a.rs.swp");
    symlink("me@host.1", scene.at("src/.#a.rs")).unwrap();
    scene.counts_not();
    // vim, backupcopy=no
    scene.write("src/4913");
    fs::remove_file(scene.at("src/4913")).unwrap();
    scene.mv("src/a.rs", "src/a.rs~");
    scene.write("src/a.rs");
    fs::remove_file(scene.at("src/a.rs~")).unwrap();
    scene.counts();
    // A new file over the old one; the new one may have been elsewhere.
    scene.write("src/a.rs.tmp.1");
    scene.mv("src/a.rs.tmp.1", "src/a.rs");
    scene.counts();
    scene.write("tmp");
    scene.mv("tmp", "src/a.rs");
    scene.counts();
    fs::remove_file(scene.at("src/.a.rs.swp")).unwrap();
    scene.counts_not();
}

#[test]
fn files_in_new_folders_count_however_early_they_are_made() {
    let mut scene = Scene::new("new", &["x"]).watching(&["src/**/*.rs"]);
    scene.write("src/a/b/c/d.rs");
    scene.counts();
    assert_eq!(
        scene.folders(),
        ["", "src", "src/a", "src/a/b", "src/a/b/c"]
    );
    scene.write("src/a/b/c/d.rs");
    scene.counts();
    // The folder is read before the file is there, and after.
    fs::create_dir(scene.at("src/e")).unwrap();
    scene.counts_not();
    scene.write("src/e/f.rs");
    scene.counts();
    scene.write("src/g/no.txt");
    scene.counts_not();
}

#[test]
fn many_changes_at_once_are_one() {
    let files: Vec<String> = (0..300).map(|n| format!("src/{}/{n}.rs", n % 30)).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let mut scene = Scene::new("checkout", &files).watching(&["**/*.rs"]);
    fs::remove_dir_all(scene.at("src")).unwrap();
    files.iter().for_each(|file| scene.write(file));
    scene.counts();
    scene.counts_not();
    assert_eq!(scene.folders().len(), 32);
}

#[test]
fn what_is_made_by_builds_counts_never() {
    let made = ["target/debug/app", ".git/HEAD", "web/node_modules/a/b.js"];
    let mut scene = Scene::new("made", &["a", ".gitignore", "out/x", "web/y"]);
    made.iter().for_each(|path| scene.write(path));
    let wanted = || vec![(0, vec![Glob::new("**").unwrap()])];
    let ignored = [scene.at("out"), scene.at("state")];
    assert_eq!(scene.watcher.set(wanted(), &ignored), [""; 0]);
    scene.counts_not();
    for path in made
        .iter()
        .chain(&["out/x", "state/a/b", "target/new/x", ".mcp-run"])
    {
        scene.write(path);
        scene.counts_not();
    }
    assert_eq!(scene.folders(), ["", "web"]);
    assert!(!scene.is_readable());
    scene.write(".gitignore");
    scene.counts();
    let vain = vec![(0, vec![Glob::new("target/**").unwrap()])];
    assert_eq!(
        scene.watcher.set(vain, &[]),
        ["watch: \"target/**\" means nothing: \"target\" never counts"]
    );
}

#[test]
fn folders_that_move_take_their_files_with_them() {
    let mut scene = Scene::new("move", &["src/a/x.rs", "other/y.rs", "docs/z.md"]);
    scene.set(&[(0, &["src/**/*.rs"])]);
    // In, within, out of what is meant, and back; each time what is in it goes on
    // counting where it should.
    scene.mv("other", "src/other");
    scene.counts();
    scene.write("src/other/y.rs");
    scene.counts();
    scene.mv("src/other", "src/a/other");
    scene.counts();
    scene.write("src/a/other/y.rs");
    scene.counts();
    scene.mv("src/a", "a");
    scene.counts();
    scene.write("a/x.rs");
    scene.write("a/other/y.rs");
    scene.counts_not();
    assert_eq!(scene.folders(), ["", "src"]);
    scene.mv("a", "src/b");
    scene.counts();
    scene.write("src/b/other/y.rs");
    scene.counts();
    scene.mv("docs", "src/docs");
    scene.mv("src/docs", "src/b/docs");
    scene.counts_not();
    // To where nobody sees it.
    let outside = Scene::new("outside", &[]);
    fs::rename(scene.at("src/b"), outside.at("b")).unwrap();
    scene.counts();
    outside.write("b/x.rs");
    scene.counts_not();
    fs::rename(outside.at("b"), scene.at("src/b")).unwrap();
    scene.counts();
}

#[test]
fn a_folder_that_changes_places_counts_for_both() {
    let mut scene = Scene::new("both", &["a/x", "a/deep/x"]);
    scene.set(&[
        (1, &["a/**"]),
        (2, &["b/deep/x"]),
        (3, &["b/y"]),
        (4, &["c"]),
    ]);
    scene.mv("a", "b");
    assert_eq!(scene.due(), [1, 2]);
    scene.mv("b/deep", "c");
    assert_eq!(scene.due(), [2, 4]);
}

#[test]
fn a_watched_folder_may_go_and_come_back() {
    let mut scene = Scene::new("again", &["src/a"]).watching(&["src"]);
    for _ in 0..3 {
        fs::remove_dir_all(scene.at("src")).unwrap();
        scene.counts();
        assert_eq!(scene.folders(), [""]);
        fs::create_dir(scene.at("src")).unwrap();
        scene.counts_not();
        scene.write("src/a");
        scene.counts();
    }
    // All before anybody looks.
    fs::remove_dir_all(scene.at("src")).unwrap();
    scene.write("src/a");
    scene.counts();
    scene.write("src/a");
    scene.counts();
}

#[test]
fn what_is_behind_links_counts() {
    let outside = Scene::new("behind", &["x", "y/z"]);
    let mut scene = Scene::new("links", &["src/a/x"]);
    symlink(&outside.root, scene.at("src/out")).unwrap();
    symlink("..", scene.at("src/a/up")).unwrap();
    symlink("/", scene.at("src/a/all")).unwrap();
    scene.set(&[(0, &["src"])]);
    assert_eq!(
        scene.folders(),
        ["", "src", "src/a", "src/out", "src/out/y"]
    );
    outside.write("x");
    scene.counts();
    outside.write("y/z");
    scene.counts();
    outside.write("new/z");
    scene.counts();
    // To a folder that it is in itself: there would be no end.
    symlink("..", scene.at("src/up")).unwrap();
    scene.counts();
    assert!(!scene.folders().contains(&"src/up"));
    fs::remove_file(scene.at("src/out")).unwrap();
    scene.counts();
    assert_eq!(scene.folders(), ["", "src", "src/a"]);
    outside.write("x");
    scene.counts_not();
    symlink(&outside.root, scene.at("src/out")).unwrap();
    scene.counts();
    outside.write("x");
    scene.counts();
}

#[test]
fn one_folder_counts_by_each_of_its_paths() {
    let mut scene = Scene::new("twice", &["real/x.py", "src/a.py"]);
    symlink("../real", scene.at("src/link")).unwrap();
    scene.set(&[
        (0, &["real/*.py"]),
        (1, &["src/link/*.py"]),
        (2, &["src/*.py"]),
    ]);
    scene.write("real/x.py");
    assert_eq!(scene.due(), [0, 1]);
    scene.write("real/x.md");
    scene.counts_not();
    scene.mv("real", "other");
    assert_eq!(scene.due(), [0, 1]);
    scene.mv("other", "real");
    assert_eq!(scene.due(), [0, 1]);
    scene.write("src/link/y.py");
    assert_eq!(scene.due(), [0, 1]);
}

#[test]
fn a_watched_file_that_is_a_link_counts_with_its_target() {
    let outside = Scene::new("target", &["t.cfg"]);
    // As a volume of Kubernetes: the link in the middle is what is replaced.
    let mut scene = Scene::new("file", &["..1/b.cfg", "..2/b.cfg", "c/real.cfg"]);
    symlink(outside.at("t.cfg"), scene.at("a.cfg")).unwrap();
    symlink("..1", scene.at("..data")).unwrap();
    symlink("..data/b.cfg", scene.at("b.cfg")).unwrap();
    symlink("c/real.cfg", scene.at("d.cfg")).unwrap();
    scene.set(&[(0, &["a.cfg"]), (1, &["b.cfg"]), (2, &["d.cfg"])]);
    outside.write("t.cfg");
    assert_eq!(scene.due(), [0]);
    outside.write("other.cfg");
    assert_eq!(scene.due(), [0; 0]);
    outside.write("new");
    outside.mv("new", "t.cfg");
    assert_eq!(scene.due(), [0]);
    scene.write("..1/b.cfg");
    assert_eq!(scene.due(), [1]);
    symlink("..2", scene.at("..new")).unwrap();
    scene.mv("..new", "..data");
    assert_eq!(scene.due(), [1]);
    scene.write("..2/b.cfg");
    assert_eq!(scene.due(), [1]);
    scene.write("c/real.cfg");
    assert_eq!(scene.due(), [2]);
    fs::remove_file(scene.at("c/real.cfg")).unwrap();
    assert_eq!(scene.due(), [2]);
    scene.write("c/real.cfg");
    assert_eq!(scene.due(), [2]);
}

#[test]
fn a_file_that_is_shortened_counts_and_one_that_is_being_written_does_not() {
    use std::io::Write;
    let mut scene = Scene::new("short", &["src/a", "src/b"]).watching(&["src/a"]);
    let cut = |path: &Path, length: i64| nix::unistd::truncate(path, length).unwrap();
    cut(&scene.at("src/a"), 2);
    scene.counts();
    cut(&scene.at("src/a"), 0);
    scene.counts();
    cut(&scene.at("src/b"), 0);
    scene.counts_not();
    let mut open = fs::File::options()
        .append(true)
        .open(scene.at("src/a"))
        .unwrap();
    for _ in 0..3 {
        open.write_all(b"more").unwrap();
        scene.counts_not();
    }
    drop(open);
    scene.counts();
    // One that is made later.
    scene.write("src/c/a");
    scene.counts_not();
    scene.set(&[(0, &["src/**"])]);
    scene.write("src/c/b");
    scene.counts();
    cut(&scene.at("src/c/b"), 1);
    scene.counts();
}

#[test]
fn a_project_that_is_replaced_is_taken_up_again() {
    let mut scene = Scene::new("swap", &["src/x"]).watching(&["src"]);
    for n in 0..3 {
        let (old, new) = (
            scene.root.with_extension(format!("old{n}")),
            scene.root.with_extension("new"),
        );
        fs::create_dir_all(new.join("src")).unwrap();
        fs::rename(&scene.root, &old).unwrap();
        // Heard of before or after the other one is there.
        if n == 1 {
            assert_eq!(scene.read().len(), 1);
        }
        fs::rename(&new, &scene.root).unwrap();
        scene.counts();
        fs::write(old.join("src/x"), "").ok();
        scene.counts_not();
        scene.write("src/x");
        scene.counts();
        fs::remove_dir_all(&old).unwrap();
        scene.counts_not();
    }
}

#[test]
fn a_reload_keeps_what_is_still_watched_and_lets_the_rest_go() {
    let mut scene = Scene::new("reload", &["a/x", "b/x", "c/x"]);
    scene.set(&[(0, &["a", "b"]), (1, &["b"])]);
    scene.write("a/x");
    scene.write("b/x");
    scene.read();
    let globs = |text| vec![Glob::new(text).unwrap()];
    scene
        .watcher
        .set(vec![(0, globs("c")), (2, globs("b"))], &[]);
    scene.counts();
    assert_eq!(scene.folders(), ["", "b", "c"]);
    scene.write("a/x");
    scene.counts_not();
    scene.write("b/x");
    scene.write("c/x");
    assert_eq!(scene.due(), [0, 2]);
    scene.set(&[]);
    assert_eq!(scene.folders(), [""; 0]);
    scene.write("b/x");
    assert!(!scene.is_readable());
}

#[test]
fn lost_events_are_a_change_of_everything() {
    let mut scene = Scene::new("lost", &["a/x"]);
    scene.set(&[(0, &["a"]), (1, &["b"]), (2, &["c/d/e"])]);
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    let names = [scene.at("a/x"), scene.at("a/y")];
    for n in 0..=queue {
        fs::rename(&names[n % 2], &names[(n + 1) % 2]).unwrap();
    }
    // A folder that nobody could tell us of, and one that is gone.
    scene.write("c/d/e");
    fs::remove_dir_all(scene.at("a")).unwrap();
    scene.read();
    let changes = scene.changes();
    assert_eq!(changes.len(), 3);
    assert_eq!(changes[2].path, "(too many files to tell)");
    assert_eq!(scene.folders(), ["", "c", "c/d"]);
    scene.write("c/d/e");
    assert_eq!(scene.due(), [2]);
}

#[test]
fn a_flood_of_folders_that_go_ends() {
    let mut scene = Scene::new("flood", &[]);
    for n in 0..3_000 {
        fs::create_dir_all(scene.at(&format!("a/{}/{n}", n % 50))).unwrap();
    }
    scene.set(&[(0, &["a"])]);
    assert_eq!(scene.folders().len(), 3_052);
    scene.set(&[(0, &["b"])]);
    assert_eq!(scene.folders(), [""]);
    assert!(scene.watcher.stale.is_empty());
}

#[test]
fn there_is_an_end_to_the_number_of_folders() {
    let files: Vec<String> = (0..20).map(|n| format!("{n}/x")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let mut scene = Scene::new("many", &files);
    scene.watcher.most = 10;
    let wanted = vec![(0, vec![Glob::new("**").unwrap()])];
    assert_eq!(scene.watcher.set(wanted, &[]), [""; 0]);
    let problems = scene.read();
    assert_eq!(
        problems,
        [
            "cannot watch all files: there are more than 10 folders; name the folders with sources, such as \"src/**\" instead of \"**\""
        ]
    );
    assert_eq!(scene.folders().len(), 10);
    scene.write("new/x");
    scene.counts_not();
    scene.write("x");
    scene.counts();
}

#[test]
fn a_folder_that_may_not_be_read_is_told_and_the_rest_is_watched() {
    let mut scene = Scene::new("denied", &["a/x", "b/x"]);
    fs::set_permissions(scene.at("a"), fs::Permissions::from_mode(0o0)).unwrap();
    let root_may = fs::read_dir(scene.at("a")).is_ok();
    let wanted = vec![(0, vec![Glob::new("**").unwrap()])];
    scene.watcher.set(wanted, &[]);
    let problems = scene.read();
    if !root_may {
        let path = scene.at("a");
        assert_eq!(
            problems,
            [format!("cannot watch {path:?}: permission denied")]
        );
    }
    scene.write("b/x");
    scene.counts();
    fs::set_permissions(scene.at("a"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_project_that_goes_is_told() {
    for move_it in [true, false] {
        let mut scene = Scene::new("gone", &["src/x"]).watching(&["src"]);
        if move_it {
            let elsewhere = scene.root.with_extension("moved");
            fs::rename(&scene.root, &elsewhere).unwrap();
            scene.root = elsewhere;
        } else {
            fs::remove_dir_all(&scene.root).unwrap();
        }
        let mut problems = scene.read();
        while problems.is_empty() && scene.comes_late() {
            problems = scene.read();
        }
        assert_eq!(
            problems,
            ["cannot watch files: the project's folder was moved or removed; put it back"]
        );
        assert!(!scene.is_readable());
    }
}

/// In a user namespace of its own, where the limits can be set without touching anybody else's.
#[test]
fn the_limit_of_the_user_is_told_and_what_is_watched_stays() {
    const INSIDE: &str = "BPM_TEST_WATCH_LIMIT";
    const NAME: &str =
        "watch::watcher::tests::the_limit_of_the_user_is_told_and_what_is_watched_stays";
    if std::env::var_os(INSIDE).is_none() {
        let script = "echo 3 >/proc/sys/user/max_inotify_watches || exit 77; exec \"$0\" \"$@\"";
        let done = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(INSIDE, "1")
            .output();
        let Ok(done) = done else { return };
        let said = String::from_utf8_lossy(&done.stderr) + String::from_utf8_lossy(&done.stdout);
        // Where namespaces are not to be had there is nothing to see.
        let refused = !said.contains("running ");
        assert!(refused || said.contains("1 passed"), "{said}");
        return;
    }
    let mut scene = Scene::new("limit", &["a/x", "b/x", "c/x", "d/x", "e/x", "x"]);
    let wanted = vec![(0, vec![Glob::new("**").unwrap()])];
    scene.watcher.set(wanted, &[]);
    let problems = scene.read();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("fs.inotify.max_user_watches is"),
        "{problems:?}"
    );
    assert!(
        problems[0].contains("; raise it: sudo sysctl fs."),
        "{problems:?}"
    );
    assert_eq!(scene.folders().len(), 3);
    scene.write("x");
    scene.counts();
    // A removed folder makes room.
    let gone = scene.folders()[1].to_owned();
    fs::remove_dir_all(scene.at(&gone)).unwrap();
    scene.counts();
    scene.write("new/x");
    scene.counts();
    assert!(scene.folders().contains(&"new"));
}

#[test]
fn a_large_tree_is_looked_through_in_slices() {
    let mut scene = Scene::new("slices", &[]);
    for n in 0..600 {
        fs::create_dir_all(scene.at(&format!("src/{n}"))).unwrap();
    }
    for n in 0..SLICE + 10 {
        fs::write(scene.at(&format!("src/7/{n}")), "").unwrap();
    }
    scene
        .watcher
        .set(vec![(0, vec![Glob::new("**").unwrap()])], &[]);
    let (mut before, mut slices) = (0, 0);
    while scene.watcher.deadline() == Some(Mono::default()) {
        scene.watcher.read(scene.now);
        let folders = scene.watcher.folders.count();
        assert!(folders - before <= SLICE / FOLDER_COST);
        before = folders;
        slices += 1;
    }
    assert_eq!(before, 602);
    assert!(slices >= 4, "{slices}");
    scene.write("src/599/x");
    scene.counts();
}
