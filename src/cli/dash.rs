//! `bpm dash`: the URL of the page, and the page in a browser.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::Path;

use crate::base::error::{Error, Result};
use crate::config::Http;
use crate::daemon::read_config;
use crate::os::files;
use crate::os::spawn::{Launch, spawn};

use super::spec::Call;
use super::{answer, note};

/// `bpm dash`.
pub(super) fn dash(call: &Call) -> Result<u8> {
    const WHAT: &str = "show the page";
    let (project, descriptor, _) = call.daemon(WHAT)?;
    // The daemon goes on with what it read before.
    let http = match read_config(&project.root) {
        Ok(config) => config.http,
        Err(e) => {
            note(format_args!("{e}\nwithout a token, if one is needed\n"));
            Http {
                dashboard: true,
                ..Http::default()
            }
        }
    };
    if !http.dashboard {
        let why = "it is switched off (dashboard = false in .mcp-run)";
        return Err(Error::cannot(WHAT, why));
    }
    let Some(url) = descriptor.url else {
        let hint = "give it a port: mcp_port in .mcp-run, or --port";
        return Err(Error::cannot(WHAT, "bpm listens on its socket alone").with_hint(hint));
    };
    let page = url.trim_end_matches("mcp").to_owned();
    let mut shown = page.clone();
    if let Some(path) = &http.token_file {
        let (token, _) = files::read_named(path).map_err(|e| Error::file("read", path, e))?;
        shown.push_str("#token=");
        for byte in token.trim_ascii() {
            match byte {
                b if b.is_ascii_alphanumeric() => shown.push(char::from(*b)),
                // Writing into a String can't fail.
                b => drop(write!(shown, "%{b:02X}")),
            }
        }
    }
    if call.has("open") {
        // Without the token: everybody can read the arguments of a program.
        open(&project.env.0, &page)?;
    }
    answer(format_args!("{shown}\n"))
}

fn open(env: &[(OsString, OsString)], url: &str) -> Result<()> {
    let (program, arguments) = (OsStr::new("xdg-open"), [OsString::from(url)]);
    spawn(&Launch::new(program, &arguments, env, Path::new("/")))
        .map(drop)
        .map_err(|e| Error::cannot("open a browser", e.to_string()).with_hint(url))
}
