//! `bpm-tui`: a full-screen view of a project. A pure model (`model`, with `output`, `status`, `input`) takes in keys
//! and news; `picture` makes cells of it, `painter` bytes of those. `link` talks to the server over a `wire`,
//! `run` is the loop around all.

pub mod cell;
pub mod input;
pub mod keys;
pub mod layout;
mod link;
pub mod model;
pub mod options;
pub mod output;
pub mod painter;
pub mod picture;
mod run;
mod screen;
pub mod status;
mod target;
pub mod text;
mod wire;

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::error::{Error, Result};
use crate::base::paths::{self, CONFIG_FILE};
use crate::client::connection::VERSION;
use crate::daemon::{Env, read_config};
use crate::os::terminal::{self, Signals, Terminal};

use link::{Link, Target, bpm_beside};
use model::{Look, Model};
use options::{Asked, Options};
use painter::Painter;
use run::{App, Ended};
use screen::Screen;

/// Does what the arguments say; the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    crate::os::fds::close_inherited();
    match asked(args) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn asked(args: impl IntoIterator<Item = OsString>) -> Result<u8> {
    let options = match options::parse(args)? {
        Asked::Help => return print(&options::help()),
        Asked::Version => return print(&format!("bpm-tui {VERSION}\n")),
        Asked::Run(options) => options,
    };
    let env = Env(std::env::vars_os().collect());
    let unable = |why: &str| {
        Error::usage(format!("cannot draw here: {why}")).with_hint("bpm status -w, bpm logs -f")
    };
    if options::term(&env) == "dumb" {
        return Err(unable("TERM is dumb"));
    }
    let terminal = Terminal::open().map_err(|e| Error::system("open the terminal", e))?;
    let terminal = terminal.ok_or_else(|| unable("standard output is no terminal"))?;
    let target = target(&options)?;
    if let Target::Project(project) = &target
        && project.root.join(CONFIG_FILE).exists()
    {
        // Mistakes are printed as by bpm check, not on a screen that is ours.
        read_config(&project.root)?;
    }
    show(&options, env, target, terminal)
}

/// The operand, else the project, else the usual address.
fn target(options: &Options) -> Result<Target> {
    if let Some(url) = &options.url {
        return Ok(target::address(url)?.into());
    }
    match crate::cli::project(options.dir.as_deref()) {
        Ok(project) => Ok(Target::Project(project)),
        Err(error) => {
            let here = std::env::current_dir().unwrap_or_default();
            let found = paths::find_project(&here, &|path| path.exists());
            match options.dir.is_some() || found.is_some() {
                true => Err(error),
                false => Ok(target::address(target::USUAL)?.into()),
            }
        }
    }
}

fn show(options: &Options, env: Env, target: Target, terminal: Terminal) -> Result<u8> {
    let fps = options::fps(options, &env);
    let (name, root): (String, Option<PathBuf>) = match &target {
        Target::Project(project) => (project.name(), Some(project.root.clone())),
        Target::Unix(path) => (path.display().to_string(), None),
        Target::Http(url) => (url.authority(), None),
    };
    let look = Look {
        ascii: options::ascii(options, &env),
        read_only: options.read_only,
        mouse: !options.no_mouse,
        local: root.is_some(),
    };
    let link = Link::new(
        target,
        link::Options {
            no_start: options.no_start,
            token: options::token(options, &env)?,
            pace: Duration::from_secs(1) / fps,
            bpm: bpm_beside(std::fs::read_link("/proc/self/exe").ok().as_deref()),
        },
    );
    let painter = Painter::new(options::depth(options, &env));
    let signals = Signals::new().map_err(|e| Error::system("catch signals", e))?;
    let said = quiet_panics();
    let done = catch_unwind(AssertUnwindSafe(|| {
        // Dropped on every way out of here, it gives the terminal back.
        let screen = Screen::take(terminal)?;
        let model = Model::new(look, &name);
        let mut app = App::new(screen, signals, (model, link), painter, env, root, fps);
        let ended = app.run();
        let last = match &ended {
            Ok(Ended::Code(0)) => app.model.farewell(),
            Ok(_) | Err(_) => String::new(),
        };
        app.screen.give(&last);
        ended
    }));
    let _ = std::panic::take_hook();
    match done {
        Ok(Ok(Ended::Code(code))) => Ok(code),
        Ok(Ok(Ended::Signal(number))) => {
            terminal::die_by(number);
            Ok(128u8.saturating_add(u8::try_from(number).unwrap_or(0)))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let said = said.lock().unwrap_or_else(PoisonError::into_inner);
            note(&said);
            Ok(101)
        }
    }
}

/// Keeps the message of a panic until the terminal's own screen is back, where it can be read.
fn quiet_panics() -> Arc<Mutex<String>> {
    let said = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&said);
    std::panic::set_hook(Box::new(move |panic| {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_str(&format!("bpm-tui: {panic}\n"));
    }));
    said
}

fn complain(error: &Error) {
    if let Some(text) = error.report("bpm-tui") {
        note(&text);
    }
}

/// On standard error, as it is. One that is closed is no reason to fail.
fn note(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn print(text: &str) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::system("write to standard output", e))?;
    Ok(0)
}
