//! Every file that bpm has on disk, and the stable name of a project. Knows nothing of processes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The file that makes a folder a project.
pub const CONFIG_FILE: &str = ".mcp-run";

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
    /// `$BPM_HOME`, else `$XDG_STATE_HOME/bpm`, else `~/.local/state/bpm`. An empty value counts as none. A relative
    /// `BPM_HOME` is an error, since it would be another folder from each directory; a relative `XDG_STATE_HOME` is passed over,
    /// as the XDG base directory specification asks.
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

    /// The folder of a project; `root` is canonical.
    pub fn project(&self, root: &Path) -> ProjectDir {
        ProjectDir {
            dir: self.home.join(project_dir_name(root)),
        }
    }
}

fn no_home(why: &str) -> Error {
    Error::cannot("find a place for bpm's state", why)
        .with_hint("set BPM_HOME to a folder of your own")
}

/// `<basename, at most 40 bytes>-<8 hex digits of the path's hash>`, the same for ever: FNV-1a (32 bit) over the bytes of the
/// canonical path. Of the basename, ASCII letters, digits, `.`, `_` and `-` stay and every other byte becomes `_`, so that the name is
/// safe in a shell; so does a `.` or `-` at its begin. The root directory is called `root`.
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

/// The nearest folder from `start` upward that has a `.mcp-run`. `exists` is asked about files; `start` is absolute.
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

    /// A folder that is known already, as from a list of all of them.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Held for the daemon's whole life.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("daemon.lock")
    }

    /// Who the daemon is and where it listens.
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

    /// `$XDG_RUNTIME_DIR/bpm-<hash>`, else (unset, relative, or too long itself) `/tmp/bpm-<uid>-<hash>`; the hash, 16 digits, is of this
    /// folder's path. Who makes it: 0700, and in `/tmp` a folder that is there already must be a true folder of ours, since
    /// anybody may have made it.
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

    /// What must outlive the daemon.
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
