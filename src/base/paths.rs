//! Every file that bpm has on disk, and the stable name of a project. Knows nothing of processes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::error::Error;
use crate::base::escape::in_line;

/// The file that makes a folder a project.
pub const CONFIG_FILE: &str = ".mcp-run";

/// Root's sockets for processes of other users are in this folder: they can't enter that of the project.
pub const RUN_FOLDER: &str = "/run/bpm";

/// A path of a Unix socket has at most so many bytes: 108 with the NUL (unix(7)).
pub const LONGEST_SOCKET_PATH: usize = 107;

/// A basename contributes at most so many bytes to a project's folder.
const LONGEST_BASENAME: usize = 40;

/// FNV-1a, 64 bit: short, and the same for ever, unlike the standard library's.
pub fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// FNV-1a, 32 bit.
fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// The folder that holds the folders of all projects of this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    home: PathBuf,
}

impl State {
    /// `$BPM_HOME`, else `$XDG_STATE_HOME/bpm`, else `~/.local/state/bpm`. An empty value counts as none.
    /// A relative `BPM_HOME` is an error, since it would be another folder from each directory; a
    /// relative `XDG_STATE_HOME` is passed over, as the XDG base directory specification asks.
    pub fn locate(get_env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let get = |name| get_env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(home) = get("BPM_HOME") {
            if home.is_relative() {
                let what = format!("use BPM_HOME={:?}", home.display().to_string());
                return Err(Error::cannot(what, "it is not an absolute path"));
            }
            return Ok(Self { home });
        }
        if let Some(state) = get("XDG_STATE_HOME").filter(|p| p.is_absolute()) {
            return Ok(Self {
                home: state.join("bpm"),
            });
        }
        match get("HOME") {
            Some(home) if home.is_absolute() => Ok(Self {
                home: home.join(".local/state/bpm"),
            }),
            Some(_) => Err(no_home("HOME is not an absolute path")),
            None => Err(no_home("HOME is not set")),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.home
    }

    /// The folders that `bpm trust` names, one a line.
    pub fn trust_file(&self) -> PathBuf {
        self.home.join("trust")
    }

    /// The folder of a project; `root` is canonical. Roots may have the same hash, by chance or because somebody made it
    /// so: the second one has `-2` behind its name.
    pub fn project(&self, root: &Path) -> ProjectDir {
        let name = project_dir_name(root);
        let first = ProjectDir::at(self.home.join(&name));
        let is_free = |dir: &ProjectDir| dir.root().is_none_or(|of| of == root);
        if is_free(&first) {
            return first;
        }
        let more = (2_u32..).map(|n| ProjectDir::at(self.home.join(format!("{name}-{n}"))));
        more.into_iter().find(is_free).unwrap_or(first)
    }
}

/// Where a person says that the `.mcp-run` of a folder may be used whoever owns it: the folders in `BPM_TRUST` (with a
/// colon between them), and the place of the file of `bpm trust`. Neither can be said by the project itself.
#[allow(clippy::disallowed_methods)] // this file is the place for it
pub fn trusted_by() -> (Vec<PathBuf>, Option<State>) {
    let named = std::env::var_os("BPM_TRUST").unwrap_or_default();
    let folders = std::env::split_paths(&named).filter(|folder| folder.is_absolute());
    let state = State::locate(&|name| std::env::var_os(name));
    (folders.collect(), state.ok())
}

/// A path as a shell takes it back; one with hidden characters as bash, zsh and ksh do.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=,:@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false if in_line(&text) != text => {
            let bytes = text.bytes().map(|byte| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(byte)),
                b' '..=b'~' => char::from(byte).into(),
                _ => format!("\\x{byte:02x}"),
            });
            format!("$'{}'", bytes.collect::<String>())
        }
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

fn no_home(why: &str) -> Error {
    Error::cannot("find a place for bpm's state", why)
        .with_hint("set BPM_HOME to a folder of your own")
}

/// `<basename, at most 40 bytes>-<8 hex digits of the path's hash>`, the same for ever: FNV-1a (32 bit)
/// over the bytes of the canonical path. Of the basename, ASCII commands, digits, `.`, `_` and `-` stay
/// and every other byte becomes `_`, so that the name is safe in a shell; so does a `.` or `-` that comes
/// first. The root directory is called `root`.
pub fn project_dir_name(root: &Path) -> String {
    let base = root.file_name().unwrap_or(OsStr::new("root"));
    let safe = |(i, byte): (usize, &u8)| match byte {
        b'.' | b'-' if i == 0 => '_',
        b'.' | b'-' | b'_' => char::from(*byte),
        b if b.is_ascii_alphanumeric() => char::from(*b),
        _ => '_',
    };
    let base: String = base
        .as_bytes()
        .iter()
        .take(LONGEST_BASENAME)
        .enumerate()
        .map(safe)
        .collect();
    format!("{base}-{:08x}", fnv1a_32(root.as_os_str().as_bytes()))
}

/// The nearest folder from `start` upward that has a `.mcp-run`. `exists` is asked about
/// files; `start` is absolute.
pub fn find_project(start: &Path, exists: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    start
        .ancestors()
        .find(|folder| exists(&folder.join(CONFIG_FILE)))
        .map(Path::to_path_buf)
}

/// The folder of one project, and what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectDir {
    dir: PathBuf,
}

impl ProjectDir {
    /// The folder; 0700.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The root of the project that has this folder. None: nobody has it yet.
    pub fn root(&self) -> Option<PathBuf> {
        if let Ok(root) = std::fs::read_link(self.root_link()) {
            return Some(root);
        }
        // An earlier version made it.
        let text = |path: &Path, key: &str| {
            let value: serde_json::Value =
                serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
            value[key].as_str().map(PathBuf::from)
        };
        self.dir.exists().then_some(())?;
        text(&self.descriptor(), "project").or_else(|| text(&self.state(), "root"))
    }

    /// Notes the root of the project, which takes no room on a full disk. To be called by who holds the lock.
    pub fn note_root(&self, root: &Path) {
        // Where it can't be noted, the descriptor and the state have it.
        let _ = std::os::unix::fs::symlink(root, self.root_link());
    }

    /// A link to the project's root.
    fn root_link(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// A folder that is known already, as from a list of all of them.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The beginning of the markers of this project's processes, by which leftovers are found: another
    /// one for another project, and for the same project under another `BPM_HOME`.
    pub fn marker(&self) -> String {
        format!("{:016x}", fnv1a_64(self.dir.as_os_str().as_bytes()))
    }

    /// Held for the daemon's whole life.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("daemon.lock")
    }

    /// The descriptor: the daemon's identity and where it listens.
    pub fn descriptor(&self) -> PathBuf {
        self.dir.join("daemon.json")
    }

    /// The daemon's Unix socket: in this folder, or where that path is too long for a socket, in the folder
    /// [`ProjectDir::short_folder`] gives.
    pub fn socket(&self, runtime: Option<&OsStr>, uid: u32) -> PathBuf {
        let usual = self.dir.join("daemon.sock");
        if usual.as_os_str().len() <= LONGEST_SOCKET_PATH {
            return usual;
        }
        self.short_folder(runtime, uid).join("daemon.sock")
    }

    /// `$XDG_RUNTIME_DIR/bpm-<hash>`, else (unset, relative, or too long itself) `/tmp/bpm-<uid>-<hash>`;
    /// the hash, 16 digits, is of this folder's path. It is made with mode 0700. In `/tmp` anybody may have made it before:
    /// the daemon then takes a name that nobody can foretell, which its descriptor has.
    pub fn short_folder(&self, runtime: Option<&OsStr>, uid: u32) -> PathBuf {
        let hash = fnv1a_64(self.dir.as_os_str().as_bytes());
        runtime
            .map(Path::new)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(format!("bpm-{hash:016x}")))
            .filter(|folder| folder.as_os_str().len() + "/daemon.sock".len() <= LONGEST_SOCKET_PATH)
            .unwrap_or_else(|| PathBuf::from(format!("/tmp/bpm-{uid}-{hash:016x}")))
    }

    /// bpm's own lines.
    pub fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// The last daemon's, or what grew over 10 MiB.
    pub fn log_rotated(&self) -> PathBuf {
        self.dir.join("daemon.log.1")
    }

    /// The state that outlives the daemon.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// The logs of all processes.
    pub fn all_logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The logs of a process. Names have no `/` and no leading `.` (config).
    pub fn logs(&self, process: &str) -> PathBuf {
        self.all_logs().join(process)
    }

    /// The copies of a process's built binaries.
    pub fn bin(&self, process: &str) -> PathBuf {
        self.dir.join("bin").join(process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate(variables: &[(&str, &str)]) -> Result<State, Error> {
        State::locate(&|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_state_has_one_place() {
        let at = |variables: &[_]| locate(variables).unwrap().path().display().to_string();
        let (home, xdg) = (("HOME", "/me"), ("XDG_STATE_HOME", "/state"));
        assert_eq!(at(&[("BPM_HOME", "/b"), xdg, home]), "/b");
        assert_eq!(at(&[xdg, home]), "/state/bpm");
        assert_eq!(at(&[home]), "/me/.local/state/bpm");
        assert_eq!(
            at(&[("BPM_HOME", ""), ("XDG_STATE_HOME", ""), home]),
            "/me/.local/state/bpm"
        );
        assert_eq!(
            at(&[("XDG_STATE_HOME", "state"), home]),
            "/me/.local/state/bpm"
        );
    }

    #[test]
    fn a_place_that_is_none_is_told() {
        let why = |variables: &[_]| locate(variables).unwrap_err().to_string();
        assert_eq!(
            why(&[("BPM_HOME", "state"), ("HOME", "/me")]),
            "cannot use BPM_HOME=\"state\": it is not an absolute path"
        );
        assert_eq!(
            why(&[]),
            "cannot find a place for bpm's state: HOME is not set"
        );
        assert_eq!(
            why(&[("HOME", "")]),
            "cannot find a place for bpm's state: HOME is not set"
        );
        assert_eq!(
            why(&[("HOME", "me")]),
            "cannot find a place for bpm's state: HOME is not an absolute path"
        );
        assert!(
            locate(&[])
                .unwrap_err()
                .hint()
                .unwrap()
                .contains("BPM_HOME")
        );
    }

    #[test]
    fn a_projects_name_is_the_same_for_ever() {
        // FNV's own test vectors
        assert_eq!(fnv1a_32(b""), 0x811c_9dc5);
        assert_eq!(fnv1a_32(b"foobar"), 0xbf9c_f968);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
        let name = |path: &str| project_dir_name(Path::new(path));
        let hash = |path: &str| format!("{:08x}", fnv1a_32(path.as_bytes()));
        for (path, base) in [
            ("/home/me/shop", "shop"),
            ("/home/me/My shop's \"new\"", "My_shop_s__new_"),
            ("/home/me/läden", "l__den"),
            ("/home/me/.config", "_config"),
            ("/home/me/-f", "_f"),
            ("/home/me/a.b-c_d", "a.b-c_d"),
            ("/", "root"),
        ] {
            assert_eq!(name(path), format!("{base}-{}", hash(path)));
        }
        let long = format!("/{}", "é".repeat(100));
        assert_eq!(name(&long), format!("{}-{}", "_".repeat(40), hash(&long)));
        assert_ne!(name("/a/shop"), name("/b/shop"));
        let odd = Path::new(OsStr::from_bytes(b"/a/\xff\n"));
        assert!(project_dir_name(odd).starts_with("__-"));
    }

    #[test]
    fn quoted_path_is_what_a_shell_takes_back() {
        let of = |path: &str| quoted(Path::new(path));
        assert_eq!(of("/a/b-c"), "/a/b-c");
        assert_eq!(of("/a b/'c'"), r"'/a b/'\''c'\'''");
        let odd = "/ä b/'c'\\\u{1b}[2J\n";
        assert_eq!(of(odd), r"$'/\xc3\xa4 b/\'c\'\\\x1b[2J\x0a'");
    }

    #[test]
    fn roots_with_one_hash_have_folders_of_their_own() {
        // Found in 28 s on one core.
        let roots = [
            "/tmp/atk/coll/home/shop",
            "/tmp/atk/coll/clone/d13cece7f/shop",
        ]
        .map(Path::new);
        let name = "shop-debd3986";
        assert_eq!(roots.map(project_dir_name), [name, name]);
        let home = std::env::temp_dir().join(format!("bpm-one-hash-{}", std::process::id()));
        let state = State { home: home.clone() };
        let folder = |at: usize| state.project(roots[at]).path().to_path_buf();
        assert_eq!([folder(0), folder(1)], [home.join(name), home.join(name)]);
        // An earlier version noted it in one of its files alone.
        std::fs::create_dir_all(home.join(name)).unwrap();
        for (file, text) in [
            ("state.json", r#"{"root": "/tmp/atk/coll/home/shop"}"#),
            ("daemon.json", r#"{"project": "/tmp/atk/coll/home/shop"}"#),
        ] {
            std::fs::write(home.join(name).join(file), text).unwrap();
            assert_eq!(
                [folder(0), folder(1)],
                [home.join(name), home.join("shop-debd3986-2")]
            );
            std::fs::remove_file(home.join(name).join(file)).unwrap();
        }
        let second = home.join("shop-debd3986-2");
        std::fs::create_dir(&second).unwrap();
        state.project(roots[0]).note_root(roots[0]);
        state.project(roots[1]).note_root(roots[1]);
        assert_eq!([folder(0), folder(1)], [home.join(name), second]);
        std::fs::remove_dir_all(&home).unwrap();
    }

    #[test]
    fn the_nearest_project_upward_is_found() {
        let exists = |p: &Path| p == Path::new("/me/shop/.mcp-run") || p == Path::new("/.mcp-run");
        let found = |start: &str| find_project(Path::new(start), &exists);
        assert_eq!(found("/me/shop/web/src"), Some("/me/shop".into()));
        assert_eq!(found("/me/shop"), Some("/me/shop".into()));
        assert_eq!(found("/me"), Some("/".into()));
        assert_eq!(find_project(Path::new("/me"), &|_| false), None);
    }

    #[test]
    fn each_file_has_its_place() {
        let state = locate(&[("BPM_HOME", "/b")]).unwrap();
        let project = state.project(Path::new("/shop"));
        let dir = format!("/b/{}", project_dir_name(Path::new("/shop")));
        assert_eq!(project, ProjectDir::at(dir.clone().into()));
        for (path, name) in [
            (project.path().to_path_buf(), ""),
            (project.lock(), "daemon.lock"),
            (project.descriptor(), "daemon.json"),
            (project.socket(None, 1), "daemon.sock"),
            (project.log(), "daemon.log"),
            (project.log_rotated(), "daemon.log.1"),
            (project.state(), "state.json"),
            (project.all_logs(), "logs"),
            (project.logs("web"), "logs/web"),
            (project.bin("web"), "bin/web"),
        ] {
            assert_eq!(path, Path::new(&dir).join(name));
        }
    }

    #[test]
    fn a_path_too_long_for_a_socket_goes_to_a_short_folder() {
        let sized = |bytes: usize| ProjectDir::at(format!("/{}", "x".repeat(bytes - 1)).into());
        let fits = sized(LONGEST_SOCKET_PATH - "/daemon.sock".len());
        assert!(fits.socket(None, 1).starts_with(fits.path()));
        let long = sized(LONGEST_SOCKET_PATH - "/daemon.sock".len() + 1);
        let hash = format!("{:016x}", fnv1a_64(long.path().as_os_str().as_bytes()));
        let at = |runtime: Option<&str>| long.socket(runtime.map(OsStr::new), 1000);
        let in_run = format!("/run/user/1000/bpm-{hash}/daemon.sock");
        let in_tmp = format!("/tmp/bpm-1000-{hash}/daemon.sock");
        assert_eq!(at(Some("/run/user/1000")), Path::new(&in_run));
        for none in [
            None,
            Some(""),
            Some("run"),
            Some(&*format!("/{}", "y".repeat(100))),
        ] {
            assert_eq!(at(none), Path::new(&in_tmp));
        }
    }
}
