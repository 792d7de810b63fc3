//! A project as commands and the daemon know it.

use std::path::PathBuf;

use super::sd_notify::Env;
use crate::base::escape::in_line;
use crate::base::paths::ProjectDir;

/// A project, found.
#[derive(Debug, Clone)]
pub struct Project {
    /// Canonical.
    pub root: PathBuf,
    /// Its folder of state; need not be there.
    pub dir: ProjectDir,
    /// The environment of this bpm.
    pub env: Env,
}

impl Project {
    /// The name as it may be shown: a folder may have any name.
    pub fn shown(&self) -> String {
        in_line(&self.name()).into_owned()
    }

    /// The root's last component, as people call the project.
    pub fn name(&self) -> String {
        match self.root.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "/".into(),
        }
    }
}
