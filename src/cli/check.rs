//! `bpm check`: every mistake of the configuration.

use crate::base::error::Result;
use crate::daemon::read_config;

use super::print;
use super::spec::Call;

/// `bpm check`.
pub(super) fn check(call: &Call) -> Result<u8> {
    let project = call.project()?;
    let config = read_config(&project.root)?;
    let mut text = String::new();
    for note in &config.not_in_effect {
        text.push_str(&format!("{note}\n"));
    }
    let names: Vec<&str> = config.processes.iter().map(|p| p.name.as_str()).collect();
    text.push_str(&format!("no mistakes; processes: {}\n", names.join(", ")));
    print(&text)?;
    Ok(0)
}
