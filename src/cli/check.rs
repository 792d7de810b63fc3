//! `bpm check`: every mistake of the configuration.

use crate::base::error::{Failure, Fault, Result};
use crate::base::table::Set;
use crate::client::verdict::Descriptor;
use crate::config::{Config, EnvNotes, Toggle, environment};
use crate::daemon::{Env, Project, read_config};
use crate::engine::supervisor::named_env_file;
use crate::os::accounts::{self, Account};
use crate::os::peer::our_uid;
use crate::os::{host, proc};

use super::spec::Call;
use super::{answer, print};

/// `bpm check`.
pub(super) fn check(call: &Call) -> Result<u8> {
    let project = call.project()?;
    let config = read_config(&project.root)?;
    let mut notes: Set<Fault> = config.not_in_effect.iter().cloned().collect();
    let mistakes = mistakes(&config, &project.env, &mut notes);
    let mut text: String = notes.keys().map(|note| format!("{note}\n")).collect();
    if !mistakes.is_empty() {
        print(text)?;
        return Err(Failure::Config(mistakes.into_keys()).into());
    }
    text.push_str(&limits(&project, &config));
    let names: Vec<&str> = config.processes.iter().map(|p| p.name.as_str()).collect();
    text.push_str(&format!("no mistakes; processes: {}\n", names.join(", ")));
    answer(text)
}

/// Names in the file that lead nowhere here. `notes`: remarks on it.
pub(super) fn mistakes(config: &Config, env: &Env, notes: &mut Set<Fault>) -> Set<Fault> {
    let mut mistakes = env_files(config, env, notes);
    accounts(config, &mut mistakes);
    mistakes
}

/// A line for each process that has limits which only a cgroup could hold, where bpm can make none with controllers.
fn limits(project: &Project, config: &Config) -> String {
    let mut text = String::new();
    for process in &config.processes {
        let limits = &process.launch.limits;
        let mut names = Vec::new();
        names.extend(limits.memory_high.map(|_| "memory_high"));
        names.extend(limits.cpu.map(|_| "cpu"));
        names.extend(limits.tasks.map(|_| "tasks"));
        if names.is_empty() {
            continue;
        }
        let why = match config.cgroup {
            Toggle::Off => Some("\"cgroup\" is false".into()),
            Toggle::Auto | Toggle::On => host::delegated(pid_of_daemon(project)).err(),
        };
        if let Some(why) = why {
            let (name, names) = (&process.name, names.join(", "));
            text.push_str(&format!(
                "{name}: limits of {names} are not in effect here: {why}\n"
            ));
        }
    }
    text
}

/// That of the daemon that runs; else ours, in whose cgroup it would begin.
fn pid_of_daemon(project: &Project) -> i32 {
    let daemon = Descriptor::read(&project.dir.descriptor());
    let lives = daemon.filter(|d| proc::start_time(d.pid) == Some(d.process_start));
    lives.map_or(std::process::id() as i32, |daemon| daemon.pid)
}

/// Users and groups that no process can have here.
fn accounts(config: &Config, mistakes: &mut Set<Fault>) {
    let launches = config.processes.iter().map(|p| &p.launch);
    let wanted = launches.filter_map(|l| Some((l.user.as_deref()?, l.group.as_deref())));
    for ((user, group), (at_user, at_group)) in wanted.zip(&config.named.accounts) {
        if our_uid() != 0 {
            mistakes.add(at_user.because("only root can become another user"));
        } else if let Some(Err(why)) = group.map(accounts::group_id) {
            mistakes.add(at_group.because(why));
        } else if let Err(why) = Account::find(user, group) {
            mistakes.add(at_user.because(why));
        }
    }
}

/// The mistakes in `env_file`s, and the notes on them, as far as they can be found in this environment.
fn env_files(config: &Config, env: &Env, notes: &mut Set<Fault>) -> Set<Fault> {
    let mut mistakes = Set::default();
    for process in &config.processes {
        let mut files = Vec::new();
        for file in &process.env_files {
            match named_env_file(config, file) {
                Ok(file) => files.push(file),
                Err(fault) => {
                    mistakes.add(fault);
                }
            }
        }
        let mut found = EnvNotes::default();
        // Another reason why it can't be made: `env` names a variable that may be set where the daemon is started.
        let mut ours = env.0.iter().cloned();
        let _ = environment(process, &mut ours, &files, None, &mut found);
        let mut said: Vec<Vec<Fault>> = files.into_iter().map(|file| file.notes).collect();
        said.extend([found.unset, found.bare]);
        for note in said.into_iter().flatten() {
            notes.add(note);
        }
        for wrong in found.too_long {
            mistakes.add(wrong);
        }
    }
    mistakes
}
