//! Another program takes this process over: the same pid, the same children, descriptors and locks.
//!
//! The program is opened once and judged (on a thread: it may be on a slow disk), asked what it is (`--handshake`), made
//! to read the state (`--resume N --dry-run`), and executed once nothing is built or made. Whatever fails before the
//! execve changes nothing here.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::json;
use crate::base::logger::Level;
use crate::base::saved::{field, load, save_fields, saved};
use crate::engine::handle::{Judged, Notice, Reply, ReplySlot, UpgradeWish};
use crate::engine::handover::{Handover, READS, Takeover, VERSION};
use crate::os::image::{Image, own_checksum};
use crate::os::output::ChildOutput;
use crate::os::reap::{Child, Death, Masked, reap_from};
use crate::os::reexec;
use crate::os::spawn::{Launch, spawn};
use crate::os::threads;

use super::{Phase, Presence, Supervisor};

/// A program has this time to say what it is, and to read the state.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than that of what it says is dropped.
const MOST: usize = 64 << 10;

/// A program that answers, but not as bpm.
const ODD: &str = "it does not answer as bpm does";

/// The answer of a program that has read a state of that many bytes.
pub fn has_read(bytes: usize) -> String {
    format!("read {bytes} bytes\n")
}

/// A program's answer to `--handshake`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Handshake {
    pub version: String,
    /// The layouts of the state that it reads.
    pub states: Vec<u64>,
    pub target: String,
    pub checksum: String,
}

saved! { Handshake { version, states, target, checksum } }

impl Handshake {
    /// Of this program.
    ///
    /// # Errors
    /// It can't be read.
    pub fn ours(version: &str) -> std::io::Result<Self> {
        Ok(Self {
            version: version.into(),
            states: READS.to_vec(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            checksum: own_checksum()?,
        })
    }

    /// Whether that program may take this one over.
    fn check(&self, image: &Image, ours: &str, force: bool) -> Result<(), String> {
        if self.checksum != image.checksum {
            return Err("it says that it is another file (checksum)".into());
        }
        if !self.states.contains(&VERSION) {
            return Err(format!(
                "bpm {} can't read the state of this one ({ours})",
                self.version
            ));
        }
        if is_older(&self.version, ours) && !force {
            return Err(format!(
                "bpm {} is older than the daemon ({ours}); --force does it all the same",
                self.version
            ));
        }
        Ok(())
    }
}

fn is_older(version: &str, than: &str) -> bool {
    let numbers = |version: &str| -> Vec<u64> {
        let parts = version.split(['.', '-', '+']);
        parts.map_while(|part| part.parse().ok()).collect()
    };
    numbers(version) < numbers(than)
}

/// An upgrade under way.
pub(super) struct Upgrade {
    slot: ReplySlot,
    wish: UpgradeWish,
    stage: Stage,
    /// Once it was judged.
    image: Option<Image>,
    version: String,
    /// Builds that were cancelled for it.
    cancelled: bool,
}

enum Stage {
    /// A thread reads the program.
    Judging,
    /// It is asked what it is.
    Asking(Job),
    /// It reads the state, of that many bytes.
    Trying(Job, usize),
    /// Something is being built or made; `tried`: it has read the state.
    Waiting { tried: bool },
}

/// The program at work for us.
struct Job {
    child: Option<Child>,
    output: ChildOutput,
    said: [Vec<u8>; 2],
    due: Mono,
    death: Option<Death>,
}

impl Job {
    fn start(
        image: &Image,
        args: &[OsString],
        state: Option<BorrowedFd<'_>>,
        env: &[(OsString, OsString)],
    ) -> Result<Self, String> {
        // By its descriptor, which is the first that it gets: its path may name another one by now.
        let program = "/proc/self/fd/3";
        let pass: Vec<_> = [Some(image.file.as_fd()), state]
            .into_iter()
            .flatten()
            .collect();
        let spawned = spawn(&Launch {
            argv0: Some(image.path.as_os_str()),
            pass: &pass,
            ..Launch::new(OsStr::new(program), args, env, Path::new("/"))
        });
        let spawned = spawned.map_err(|e| e.to_string())?;
        Ok(Self {
            child: Some(spawned.child),
            output: ChildOutput::new(spawned.stdout, spawned.stderr),
            said: Default::default(),
            due: Mono::now().after(PATIENCE),
            death: None,
        })
    }

    fn read(&mut self) {
        let said = &mut self.said;
        let mut keep = |pipe: usize, bytes: &[u8]| {
            let room = MOST.saturating_sub(said[pipe].len());
            said[pipe].extend_from_slice(&bytes[..bytes.len().min(room)]);
        };
        match self.death {
            Some(_) => self.output.drain(&mut keep),
            None => {
                for pipe in [0, 1] {
                    while self.output.read(pipe, &mut keep) > 0 {}
                }
            }
        }
    }

    /// Its output, once it has ended well.
    fn result(&mut self, now: Mono) -> Option<Result<String, String>> {
        self.read();
        let Some(death) = self.death else {
            return (self.due <= now).then(|| {
                Err(format!(
                    "it does not answer within {} s",
                    PATIENCE.as_secs()
                ))
            });
        };
        let [out, err] = self.said.each_ref().map(|s| String::from_utf8_lossy(s));
        Some(match death.end.into_result() {
            Ok(()) => Ok(out.into_owned()),
            Err(end) => {
                let last = err.lines().rfind(|line| !line.trim().is_empty());
                let last = last.map(|line| line.trim_start_matches("bpm: "));
                Err(last.map_or(end, String::from))
            }
        })
    }
}

impl Drop for Job {
    /// One that is late is reaped as a child that nobody knows.
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            child.signal_group(libc::SIGKILL);
        }
    }
}

impl Upgrade {
    fn job(&self) -> Option<&Job> {
        match &self.stage {
            Stage::Asking(job) | Stage::Trying(job, _) => Some(job),
            Stage::Judging | Stage::Waiting { .. } => None,
        }
    }

    fn job_mut(&mut self) -> Option<&mut Job> {
        match &mut self.stage {
            Stage::Asking(job) | Stage::Trying(job, _) => Some(job),
            Stage::Judging | Stage::Waiting { .. } => None,
        }
    }

    /// The pipes to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.job()
            .into_iter()
            .flat_map(|job| job.output.fds())
            .flatten()
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.job().map(|job| job.due)
    }

    /// The child that works for it.
    pub(super) fn child(&self) -> Option<&Child> {
        self.job().and_then(|job| job.child.as_ref())
    }
}

impl Supervisor {
    /// USR2: nobody waits for an answer.
    pub(super) fn upgrade_by_signal(&mut self) {
        let wish = UpgradeWish {
            program: None,
            now: false,
            force: false,
        };
        self.begin_upgrade(wish, ReplySlot::nobody());
    }

    /// Begins an upgrade, unless something else is under way.
    pub(super) fn begin_upgrade(&mut self, wish: UpgradeWish, slot: ReplySlot) {
        let busy = match () {
            () if self.phase != Phase::Working => Some("bpm is stopping"),
            () if self.upgrade.is_some() => Some("another upgrade is under way"),
            () if self.orders.is_reloading() => Some("a reload is under way"),
            () => None,
        };
        if let Some(why) = busy {
            return self.refuse_upgrade(&slot, why);
        }
        let program = wish.program.clone();
        let program = program.unwrap_or_else(|| self.setup.program.clone());
        let handle = std::sync::Arc::clone(&self.handle);
        let judge = move || {
            let image = Image::open(&program).map_err(|why| format!("{program:?}: {why}"));
            let judged = image.and_then(|image| {
                let own = own_checksum();
                let own = own.map_err(|e| format!("/proc/self/exe: {}", reason(&e)))?;
                Ok((image, own))
            });
            handle.tell(Notice::Judged(Box::new(judged)));
        };
        if let Err(e) = threads::start("judge", Box::new(judge)) {
            return self.refuse_upgrade(&slot, &reason(&e));
        }
        self.upgrade = Some(Upgrade {
            slot,
            wish,
            stage: Stage::Judging,
            image: None,
            version: String::new(),
            cancelled: false,
        });
    }

    fn refuse_upgrade(&mut self, slot: &ReplySlot, why: &str) {
        let text = format!("not upgraded: {why}");
        self.events.say(Level::Warn, &text);
        slot.put(Reply::Refused(why.into()));
    }

    /// Nothing has happened, but for builds that were cancelled.
    fn fail_upgrade(&mut self, why: &str) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        self.refuse_upgrade(&upgrade.slot, why);
        if upgrade.cancelled {
            self.begin_once_more();
            self.settle();
        }
    }

    /// Begins the runs and builds again that were given up for an upgrade.
    pub(super) fn begin_once_more(&mut self) {
        for (run, build) in self.lives.fleet.in_the_making() {
            self.begin_run(run, build);
        }
        for (unit, id, mode) in self.lives.fleet.under_way() {
            self.begin_build(unit, id, mode);
        }
    }

    /// The program was read.
    pub(super) fn program_judged(&mut self, judged: Judged) {
        let (image, own) = match judged {
            Ok(judged) => judged,
            Err(why) => return self.fail_upgrade(&why),
        };
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        if image.checksum == own {
            let slot = upgrade.slot.clone();
            self.upgrade = None;
            self.events
                .say(Level::Info, "upgrade: that program runs already");
            return slot.put(Reply::SameProgram);
        }
        match Job::start(&image, &["--handshake".into()], None, &self.setup.env) {
            Ok(job) => {
                upgrade.stage = Stage::Asking(job);
                upgrade.image = Some(image);
            }
            Err(why) => self.fail_upgrade(&why),
        }
    }

    /// Reaps the program that works for an upgrade, if it is that.
    pub(super) fn reap_upgrade(&mut self, pid: i32) -> bool {
        let job = self.upgrade.as_mut().and_then(Upgrade::job_mut);
        let is = |job: &&mut Job| job.child.as_ref().is_some_and(|c| c.pid() == pid);
        let Some(job) = job.filter(is) else {
            return false;
        };
        job.death = reap_from(&mut job.child);
        job.death.is_some()
    }

    /// Reads what the program says.
    pub(super) fn read_upgrade(&mut self) {
        if let Some(job) = self.upgrade.as_mut().and_then(Upgrade::job_mut) {
            job.read();
        }
    }

    /// Goes on with the upgrade under way, once all that came was handled.
    pub(super) fn advance_upgrade(&mut self, presence: &mut dyn Presence) {
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        if self.phase != Phase::Working {
            return self.fail_upgrade("bpm is stopping");
        }
        let now = Mono::now();
        let next = match &mut upgrade.stage {
            Stage::Judging => return,
            Stage::Asking(job) => match job.result(now) {
                None => return,
                Some(Ok(said)) => self.hear(&said),
                Some(Err(why)) if why.starts_with("it ") => Err(why),
                // The words of another program.
                Some(Err(why)) => Err(format!("{ODD}: {why}")),
            },
            Stage::Trying(job, length) => match job.result(now) {
                None => return,
                Some(said) => said.and_then(|said| match said == has_read(*length) {
                    true => Ok(Stage::Waiting { tried: true }),
                    false => Err(ODD.into()),
                }),
            },
            Stage::Waiting { tried } => {
                let tried = *tried;
                match self.is_quiet() {
                    true if tried => self.succeed(presence),
                    true => self.try_program(presence),
                    false => return self.cancel_for_upgrade(),
                }
            }
        };
        match next {
            Ok(stage) => {
                let waits = matches!(stage, Stage::Waiting { .. });
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.stage = stage;
                }
                // Input that comes meanwhile has its turn first.
                if waits && !self.inputs.has_come().unwrap_or(true) && self.is_quiet() {
                    self.advance_upgrade(presence);
                }
            }
            Err(why) => self.fail_upgrade(&why),
        }
    }

    /// The program said what it is.
    fn hear(&mut self, said: &str) -> Result<Stage, String> {
        let no = || ODD.to_owned();
        let said: Value = json::parse(said.trim()).map_err(|_| no())?;
        let handshake: Handshake = load(&said).map_err(|_| no())?;
        let ours = env!("CARGO_PKG_VERSION");
        let Some(upgrade) = &mut self.upgrade else {
            return Err(no());
        };
        let image = upgrade.image.as_ref().ok_or_else(no)?;
        handshake.check(image, ours, upgrade.wish.force)?;
        upgrade.version = handshake.version;
        Ok(Stage::Waiting { tried: false })
    }

    /// Nothing is being built or made, and no end is being read.
    fn is_quiet(&self) -> bool {
        self.builds.is_idle()
            && self.environments.is_idle()
            && self.hooks.is_idle()
            && !self.runs.is_draining()
            && !self.orders.is_reloading()
            && self.watch.is_settled()
    }

    /// `--now`: builds and the making of environments are given up, and repeated afterwards.
    fn cancel_for_upgrade(&mut self) {
        let Some(upgrade) = self.upgrade.as_mut().filter(|u| u.wish.now && !u.cancelled) else {
            return;
        };
        upgrade.cancelled = true;
        self.builds.abandon();
        self.environments.cancel(|_| true);
        for (unit, ..) in self.lives.fleet.under_way() {
            if let Some(u) = self.units.get(unit)
                && let Some(build) = &u.build
            {
                let words = "cancelled for an upgrade, and repeated";
                u.build_log
                    .end(build.id, crate::base::clock::Wall::now(), words);
            }
        }
    }

    /// Holds up everything and writes the state, clients last: they are served while the rest is written. None: something
    /// came meanwhile that has its turn first.
    fn write_state(&mut self, presence: &mut dyn Presence) -> Result<Option<Written>, String> {
        let mut handover = Handover::default();
        self.runs.remove_vacant();
        // The next bpm cannot know what was there when they began.
        let known = self.known();
        self.runs.find_origins(&known);
        let frozen = self.runs.freeze()?;
        if self.inputs.has_come().map_err(|e| reason(&e))? {
            return Ok(None);
        }
        self.hand_over(&frozen, &mut handover)?;
        let began = presence.hand_over(&mut handover)?;
        handover.put("handle", &self.handle.save());
        // Of somebody who was served until now. Notices that came are of checks, which are made again.
        if self.inputs.has_order().map_err(|e| reason(&e))? {
            return Ok(None);
        }
        Ok(Some(Written {
            handover,
            _frozen: frozen,
            began,
        }))
    }

    /// Lets the program read the state, to see whether it can.
    fn try_program(&mut self, presence: &mut dyn Presence) -> Result<Stage, String> {
        let written = self.write_state(presence);
        presence.thaw();
        let Some(Written { handover, .. }) = written? else {
            return Ok(Stage::Waiting { tried: false });
        };
        let encoded = handover.encode();
        let state = memory(&encoded)?;
        let image = self.upgrade.as_ref().and_then(|u| u.image.as_ref());
        let image = image.ok_or("it is gone")?;
        image.is_unchanged()?;
        let args: [OsString; 3] = ["--resume".into(), "4".into(), "--dry-run".into()];
        Job::start(image, &args, Some(state.as_fd()), &self.setup.env)
            .map(|job| Stage::Trying(job, encoded.len()))
    }

    /// Executes the program. Comes back only where that can't be now, or not at all.
    fn succeed(&mut self, presence: &mut dyn Presence) -> Result<Stage, String> {
        let usec = Mono::now().as_nanos() / 1_000;
        // A signal that comes from now on waits for the next program.
        let masked = Masked::all();
        let mut written = match self.write_state(presence) {
            Ok(Some(written)) => written,
            other => {
                presence.thaw();
                return other.map(|_| Stage::Waiting { tried: true });
            }
        };
        let text = format!("RELOADING=1\nMONOTONIC_USEC={usec}");
        self.setup.manager.tell(&text);
        let why = self.execute(&mut written);
        // As if nothing had been asked.
        presence.thaw();
        drop((written, masked));
        self.setup.manager.tell("READY=1");
        Err(why)
    }

    /// The reason why it could not be.
    fn execute(&mut self, written: &mut Written) -> String {
        let handover = &mut written.handover;
        let Some(upgrade) = &self.upgrade else {
            return "it is gone".into();
        };
        let Some(image) = &upgrade.image else {
            return "it is gone".into();
        };
        let upgrade = save_fields(&[
            ("from", &env!("CARGO_PKG_VERSION").to_owned()),
            ("began", &written.began),
            ("program", &image.path),
        ]);
        handover.put("upgrade", &upgrade);
        let state = match memory(&handover.encode()) {
            Ok(state) => state,
            Err(why) => return why,
        };
        if let Err(why) = image.is_unchanged() {
            return why;
        }
        let number = state.as_raw_fd();
        let mut keep = handover.fds();
        keep.push(number);
        let args = [
            image.path.clone().into_os_string(),
            "--resume".into(),
            number.to_string().into(),
        ];
        let e = reexec::execute(&image.file, &args, &keep);
        format!(
            "cannot execute {:?}: {}",
            image.path.display().to_string(),
            reason(&e)
        )
    }
}

/// All that was held up, and the state of it.
struct Written {
    handover: Handover,
    _frozen: crate::log::capture::Freeze,
    /// Since then nobody is served.
    began: Mono,
}

fn memory(encoded: &[u8]) -> Result<std::fs::File, String> {
    let state = reexec::memory("bpm-state", encoded);
    state.map_err(|e| format!("no memory for the state: {}", reason(&e)))
}

/// What the program before says of the upgrade: its version, when it began to hold up, and our path.
///
/// # Errors
/// It can't be read.
pub fn succeeded(from: &Takeover) -> Result<(String, Mono, PathBuf), String> {
    let saved: Value = from.get("upgrade")?;
    Ok((
        field(&saved, "from")?,
        field(&saved, "began")?,
        field(&saved, "program")?,
    ))
}
