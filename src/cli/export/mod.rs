//! `bpm export`: the same processes for an engine that runs them.

mod compose;
mod kubernetes;
mod nomad;
mod out;
mod plan;
mod quote;
pub(in crate::cli) mod systemd;

use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::path::Path;

use crate::base::error::{Error, Result, named};
use crate::client::connection::VERSION;
use crate::config::PortWish;
use crate::daemon::read_config;
use crate::os::files;

use super::spec::Call;
use super::{counted, note, print};
use out::Out;
use plan::Plan;
pub(super) use quote::{Word, systemd as systemd_word, systemd_text};

/// The engine that runs the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Systemd,
    Compose,
    Kubernetes,
    Nomad,
}

/// As typed, in the order of [`Engine`].
pub(super) const ENGINES: &[&str] = &["systemd", "compose", "kubernetes", "nomad"];
const ALL: [Engine; 4] = [
    Engine::Systemd,
    Engine::Compose,
    Engine::Kubernetes,
    Engine::Nomad,
];

impl Engine {
    fn word(self) -> &'static str {
        ENGINES[self as usize]
    }
}

/// How an export is used.
const APPLY: [&str; 4] = [
    "bpm export systemd -o DIR, copy DIR/* to /etc/systemd/system, systemctl daemon-reload, systemctl enable --now NAME.target",
    "docker compose -f compose.yaml up -d",
    "kubectl apply -f kubernetes.yaml",
    "nomad job run job.nomad.hcl",
];
const APPLY_USER: &str = "bpm export systemd --user -o DIR, copy DIR/* to ~/.config/systemd/user, systemctl --user daemon-reload, systemctl --user enable --now NAME.target";

/// The options of the command line.
pub(super) struct Options {
    image: Option<String>,
    replicas: u32,
    user: bool,
    secrets: bool,
}

impl Options {
    /// Of engines that run images: one was named.
    fn image(&self) -> &str {
        self.image.as_deref().unwrap_or_default()
    }
}

/// `bpm export`.
pub(super) fn export(call: &Call) -> Result<u8> {
    let word = call.operands.first().and_then(|w| w.to_str());
    let known = ALL.into_iter().find(|engine| Some(engine.word()) == word);
    let engine = known.unwrap_or(Engine::Systemd);
    let word = engine.word();
    let options = Options {
        image: call
            .text("image")?
            .filter(|image| !image.is_empty())
            .map(String::from),
        replicas: call
            .number("replicas", "a number of copies")?
            .map_or(1, NonZeroU32::get),
        user: call.has("user"),
        secrets: call.has("with-secrets"),
    };
    fits(call, engine, &options)?;
    let project = call.project()?;
    let config = read_config(&project.root)?;
    let mut out = Out::new(engine);
    let mut files = if call.has("self") {
        let unit = super::install::unit(&project, &config, options.user, None)?;
        vec![(unit.name, unit.text)]
    } else {
        let plan = plan::plan(&project, config, options.secrets, engine)?;
        one_port_each(&plan, engine)?;
        written(&plan, engine, &options, &mut out)?
    };
    let gaps = out.gaps;
    let head = head(&project.root, engine, &options, &files);
    for (_, text) in files.iter_mut().filter(|_| !call.has("self")) {
        text.insert_str(0, &head);
    }
    match call.text("output")? {
        Some(folder) => write(Path::new(folder), &files)?,
        None => print(joined(&files, engine))?,
    }
    if gaps == 0 {
        return Ok(0);
    }
    let settings = counted(gaps, "setting has", "settings have");
    note(format_args!(
        "{gaps} {settings} no counterpart in {word}: see the comments \"no counterpart\"\n"
    ));
    Ok(u8::from(call.has("strict")))
}

/// Options that an engine needs or has no use for.
fn fits(call: &Call, engine: Engine, options: &Options) -> Result<()> {
    let word = engine.word();
    let refuse = |option: &str, why: &str| {
        let why = format!("--{option} does not go with {word}: {why}");
        Err(Error::usage(why))
    };
    match engine {
        Engine::Systemd if options.image.is_some() => refuse("image", "it runs no images"),
        Engine::Systemd if options.replicas != 1 => refuse("replicas", "it runs one of each"),
        Engine::Compose | Engine::Kubernetes | Engine::Nomad
            if options.user || call.has("self") =>
        {
            refuse(
                if options.user { "user" } else { "self" },
                "it is for systemd",
            )
        }
        Engine::Compose | Engine::Kubernetes if options.image.is_none() => Err(Error::cannot(
            format!("export to {word}"),
            "no image is named, and it runs only images",
        )
        .with_hint("--image NAME, of one that has the programs and the project's files in it")),
        Engine::Systemd | Engine::Compose | Engine::Kubernetes | Engine::Nomad => Ok(()),
    }
}

/// Two that start together can't have one port, but in Kubernetes, where each has an address of its own.
fn one_port_each(plan: &Plan, engine: Engine) -> Result<()> {
    if engine == Engine::Kubernetes {
        return Ok(());
    }
    let fixed = |u: &&plan::Unit| u.wanted && matches!(u.process.port, Some(PortWish::Fixed(_)));
    let units: Vec<&plan::Unit> = plan.units.iter().filter(fixed).collect();
    for (number, one) in units.iter().enumerate() {
        if let Some(other) = units[..number].iter().find(|other| other.port == one.port) {
            let port = one.port.unwrap_or_default();
            let why = format!("{} and {} both have port {port}", other.name(), one.name());
            let what = format!("export to {}", engine.word());
            let name = one.name();
            let hint = format!("give [process.{name}] another port, or port = \"auto\"");
            return Err(Error::cannot(what, why).with_hint(hint));
        }
    }
    Ok(())
}

fn written(
    plan: &Plan,
    engine: Engine,
    options: &Options,
    out: &mut Out,
) -> Result<Vec<(String, String)>> {
    if plan.config.root.join(".envrc").exists() {
        let text = "the variables of .envrc are not in here: direnv sets them";
        out.note(0, text);
    }
    let name = match engine {
        Engine::Systemd => return systemd::files(plan, options, out),
        Engine::Compose => {
            compose::file(plan, options, out);
            "compose.yaml"
        }
        Engine::Kubernetes => {
            kubernetes::file(plan, options, out)?;
            "kubernetes.yaml"
        }
        Engine::Nomad => {
            nomad::file(plan, options, out);
            "job.nomad.hcl"
        }
    };
    Ok(vec![(name.into(), std::mem::take(&mut out.text))])
}

/// The first lines of a file.
fn head(root: &Path, engine: Engine, options: &Options, files: &[(String, String)]) -> String {
    let apply = match (engine, options.user) {
        (Engine::Systemd, true) => APPLY_USER,
        _ => APPLY[engine as usize],
    };
    let target = files
        .first()
        .map_or("", |(name, _)| name.trim_end_matches(".target"));
    let file = root.join(crate::base::paths::CONFIG_FILE);
    let file = quote::shown(&file.display().to_string());
    format!(
        "# Written by bpm {VERSION} (bpm export {}) from {file}\n# Use: {}\n",
        engine.word(),
        apply.replace("NAME", target)
    )
}

/// All files in one text.
fn joined(files: &[(String, String)], engine: Engine) -> String {
    match engine {
        Engine::Systemd => {
            let part = |(name, text): &(String, String)| format!("# ---- {name}\n{text}");
            files.iter().map(part).collect::<Vec<_>>().join("\n")
        }
        Engine::Compose | Engine::Kubernetes | Engine::Nomad => {
            files.iter().map(|(_, text)| text.as_str()).collect()
        }
    }
}

/// Into a folder, which is made. A file that is not bpm's own stays.
fn write(folder: &Path, files: &[(String, String)]) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::file("make", folder, e))?;
    for (name, _) in files {
        let path = folder.join(name);
        let theirs = match files::read_named(&path) {
            Ok((text, _)) => !text.starts_with(b"# Written by bpm "),
            Err(e) => e.kind() != ErrorKind::NotFound,
        };
        if theirs {
            let why = "it exists, and bpm has not written it";
            return Err(
                Error::cannot(named("write", &path), why).with_hint("-o DIR names another folder")
            );
        }
    }
    for (name, text) in files {
        let path = folder.join(name);
        files::write_atomic(&path, text.as_bytes(), 0o644)
            .map_err(|e| Error::file("write", &path, e))?;
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let (names, folder) = (names.join(", "), folder.display());
    print(format_args!("wrote {names} to {folder}\n"))
}

/// A name in small letters, digits and dashes, at most 63.
fn label(name: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric();
    let label = name.to_ascii_lowercase().replace(|c| !fine(c), "-");
    match label.trim_matches('-') {
        "" => "bpm".into(),
        // Only ASCII is left.
        label => label[..label.len().min(63)].trim_end_matches('-').into(),
    }
}
