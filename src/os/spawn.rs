//! Starting a process.
//!
//! A process needs code that runs in it before the program does: a session, limits, a mask, where
//! its streams go. There are three ways to have it. fork(2) copies the page tables of the daemon,
//! and its price grows with what the daemon keeps in memory. A helper program that prepares and then
//! executes is flat, but costs an execve, a second image in memory and a pipe that tells how it went.
//! This is the third: clone(2) with `CLONE_VM | CLONE_VFORK`, as posix_spawn(3) does. The child
//! borrows our memory until its execve, on a stack of its own, while the thread that called waits.
//! Nothing is copied, what went wrong is simply written down where we read it, and nothing is racing:
//! when [`spawn`] returns, the program is executed or the child is gone. `what_a_start_costs` below
//! measures it.
//!
//! The child may do little, since other threads run on and share the memory: system calls on
//! what the parent prepared. No allocation, no lock, no panic. Signals are blocked around it, so that
//! no handler of ours runs in the child; it resets them all before it lets them in.
//!
//! Pipes are opened for reading and writing on the child's side: a program that holds a read end of its
//! own output never gets SIGPIPE when the daemon dies. It fills the pipe and waits, and the next
//! daemon finds the pipe under `/proc/PID/fd/1`.
#![allow(unsafe_code)]

mod explain;
mod streams;

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;

use super::reap::{Child, Masked};
pub use explain::SpawnError;
use explain::{is_text, path, words};
use streams::Streams;

/// Where a program is looked for when its environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Where a process reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdin {
    /// The null device: at its end at once.
    #[default]
    Null,
    /// A pipe to which nothing is written and that never ends: the process itself holds its other end, so that it
    /// does not end with the daemon either.
    Open,
}

/// The user that a process runs as.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
}

/// A program and everything that it starts with. The child gets the environment given here and nothing of ours; [`spawn`] gives it two new
/// pipes to write to, [`spawn_on`] a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// With a slash: a path, relative to `cwd`. Without: looked for in the PATH of `env`.
    pub program: &'a OsStr,
    /// The name that the program sees; `program` where None.
    pub argv0: Option<&'a OsStr>,
    /// Arguments after the name.
    pub args: &'a [OsString],
    /// The whole environment.
    pub env: &'a [(OsString, OsString)],
    /// Its working folder.
    pub cwd: &'a Path,
    /// A folder and the path that it was opened by: the working folder, where it is that one or below, is entered from
    /// there and not by its path.
    pub base: Option<(&'a Path, BorrowedFd<'a>)>,
    /// Become descriptors 3, 4, ...; `LISTEN_FDS` and `LISTEN_PID` are set when there are any
    /// (sd_listen_fds(3)); names are the caller's, in `env`.
    pub pass: &'a [BorrowedFd<'a>],
    /// Soft limit of open files; None leaves ours, which [`super::fds::raise_nofile`] has raised, so
    /// that the caller gives the original here.
    pub nofile: Option<u64>,
    /// Limit of a core file in bytes; `u64::MAX` is no limit; None leaves ours.
    pub core: Option<u64>,
    /// Mask of modes of new files; None leaves ours.
    pub umask: Option<u32>,
    /// Where it reads from.
    pub stdin: Stdin,
    /// The folder of the cgroup that it begins in.
    pub cgroup: Option<&'a Path>,
    /// -20 to 19 (setpriority(2)); None leaves ours.
    pub nice: Option<i32>,
    /// -1000 to 1000 (proc_pid_oom_score_adj(5)); None leaves ours.
    pub oom_score_adj: Option<i32>,
    /// None leaves ours.
    pub user: Option<User<'a>>,
}

impl<'a> Launch<'a> {
    /// With our umask and limits, and nothing else set.
    pub fn new(
        program: &'a OsStr,
        args: &'a [OsString],
        env: &'a [(OsString, OsString)],
        cwd: &'a Path,
    ) -> Self {
        Self {
            program,
            argv0: None,
            args,
            env,
            cwd,
            base: None,
            pass: &[],
            nofile: None,
            core: None,
            umask: None,
            stdin: Stdin::Null,
            cgroup: None,
            nice: None,
            oom_score_adj: None,
            user: None,
        }
    }
}

/// A process that executes its program, leader of a session and a group of its own.
#[derive(Debug)]
pub struct Spawned {
    /// Ours to reap.
    pub child: Child,
    /// Read end of its standard output: non-blocking, CLOEXEC.
    pub stdout: OwnedFd,
    /// Read end of its standard error, likewise.
    pub stderr: OwnedFd,
}

/// How far a start came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// A string has a NUL byte in it.
    Arguments = 1,
    /// Opening pipes and the null device.
    Streams,
    /// Making the process.
    Process,
    /// Entering its cgroup.
    Cgroup,
    /// setsid(2) in it.
    Session,
    /// Its descriptors.
    Descriptors,
    /// Making the terminal its own.
    Terminal,
    /// Setting its limits.
    Limits,
    /// setpriority(2).
    Nice,
    /// Writing its oom_score_adj.
    OomScore,
    /// Becoming another user.
    User,
    /// Entering its working folder.
    Folder,
    /// Executing the program.
    Program,
}

impl Step {
    const ALL: [Self; 13] = [
        Self::Arguments,
        Self::Streams,
        Self::Process,
        Self::Cgroup,
        Self::Session,
        Self::Descriptors,
        Self::Terminal,
        Self::Limits,
        Self::Nice,
        Self::OomScore,
        Self::User,
        Self::Folder,
        Self::Program,
    ];
}

/// Starts a process and returns once it executes its program, or tells why it can't; then nothing is
/// left of it. Takes well under a millisecond, whatever memory and threads we have.
///
/// A text file that has no `#!` is given to /bin/sh, as execvp(3) and every shell do.
///
/// # Errors
/// [`SpawnError`] with the reason for a person.
pub fn spawn(launch: &Launch<'_>) -> Result<Spawned, SpawnError> {
    let failed = |e: Failed| e.explained(launch, &[]);
    let streams = Streams::open(launch.stdin).map_err(|e| failed(Failed::at(Step::Streams)(e)))?;
    let child = spawn_with(launch, streams.child(), false)?;
    Ok(streams.parent(child))
}

/// The same on a terminal, which becomes its standard input, output and error and its controlling terminal.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_on(terminal: BorrowedFd<'_>, launch: &Launch<'_>) -> Result<Child, SpawnError> {
    spawn_with(launch, [terminal; 3], true)
}

fn spawn_with(
    launch: &Launch<'_>,
    streams: [BorrowedFd<'_>; 3],
    terminal: bool,
) -> Result<Child, SpawnError> {
    let search = candidates(launch.program, launch.env)?;
    match start(launch, &search, launch.args, streams, terminal) {
        Err(failed) if failed.error.raw_os_error() == Some(libc::ENOEXEC) => {
            let script = &search[failed.candidate];
            if !is_text(&launch.cwd.join(path(script))) {
                return Err(failed.explained(launch, &search));
            }
            let mut args = vec![OsStr::from_bytes(script.to_bytes()).to_owned()];
            args.extend_from_slice(launch.args);
            let shell = Launch {
                argv0: None,
                program: OsStr::new("/bin/sh"),
                ..*launch
            };
            let search = [c"/bin/sh".to_owned()];
            let started = start(&shell, &search, &args, streams, terminal);
            started
                .map(Child::new)
                .map_err(|e| e.explained(&shell, &search))
        }
        done => done
            .map(Child::new)
            .map_err(|e| e.explained(launch, &search)),
    }
}

/// A failure before it is put into words.
struct Failed {
    step: Step,
    error: io::Error,
    /// Index of the path that the error is about.
    candidate: usize,
}

impl Failed {
    fn at(step: Step) -> impl Fn(Errno) -> Self {
        move |e| Self {
            step,
            error: e.into(),
            candidate: 0,
        }
    }

    fn explained(self, launch: &Launch<'_>, search: &[CString]) -> SpawnError {
        SpawnError {
            step: self.step,
            words: words(&self, launch, search),
            error: self.error,
        }
    }
}

/// All that the child reads and writes. It lives on the parent's side; the thread that made it sleeps
/// while the child uses it.
struct Plan<'a> {
    programs: &'a [*const c_char],
    argv: &'a [*const c_char],
    envp: &'a [*const c_char],
    cwd: &'a CStr,
    /// The folder that `cwd` is relative to.
    base: Option<RawFd>,
    /// Descriptors that become 0, 1, 2, ...; none of them is below their number, so that none is overwritten
    /// before its turn.
    fds: &'a [RawFd],
    nofile: Option<libc::rlimit>,
    core: Option<libc::rlimit>,
    umask: Option<libc::mode_t>,
    terminal: bool,
    /// `cgroup.procs` to enter, where the kernel can't make the process in the cgroup.
    cgroup_procs: Option<RawFd>,
    nice: Option<i32>,
    oom_score_adj: Option<&'a [u8]>,
    user: Option<User<'a>>,
    /// The digits in `LISTEN_PID=0000000000`.
    listen_pid: *mut [u8; PID_DIGITS],
    // The child's report. A step, BEGUN or UNBORN.
    step: AtomicI32,
    errno: AtomicI32,
    candidate: AtomicUsize,
}

const PID_DIGITS: usize = 10;

/// The child has not come to its first instruction, or past it.
const UNBORN: i32 = -1;
const BEGUN: i32 = 0;

/// The stack of a child: its calls are a few hundred bytes deep.
#[repr(align(16))]
struct Stack {
    _room: [u8; 32 << 10],
}

fn start(
    launch: &Launch<'_>,
    search: &[CString],
    args: &[OsString],
    streams: [BorrowedFd<'_>; 3],
    terminal: bool,
) -> Result<i32, Failed> {
    let nul = |_| Failed::at(Step::Arguments)(Errno::EINVAL);
    let name = launch.argv0.unwrap_or(launch.program);
    let argv: Vec<CString> = std::iter::once(name)
        .chain(args.iter().map(OsString::as_os_str))
        .map(|a| CString::new(a.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(nul)?;
    let mut envp = environment(launch).map_err(nul)?;
    let listen_pid = match envp.last_mut() {
        Some(slot) if !launch.pass.is_empty() => slot[LISTEN_PID.len()..].as_mut_ptr().cast(),
        _ => ptr::null_mut(),
    };
    let first_free = 3 + launch.pass.len();
    let mut lifted = Vec::new();
    let from_base = launch.base.and_then(|(path, fd)| {
        let below = launch.cwd.strip_prefix(path).ok()?;
        Some((Path::new(".").join(below), fd))
    });
    let (cwd, base) = match &from_base {
        Some((below, fd)) => {
            let base = above(*fd, first_free, &mut lifted).map_err(Failed::at(Step::Folder))?;
            (below.as_path(), Some(base))
        }
        None => (launch.cwd, None),
    };
    let cwd = CString::new(cwd.as_os_str().as_bytes()).map_err(nul)?;
    let mut fds = Vec::with_capacity(first_free);
    for fd in streams.into_iter().chain(launch.pass.iter().copied()) {
        fds.push(above(fd, first_free, &mut lifted).map_err(Failed::at(Step::Descriptors))?);
    }

    let oom_score_adj = launch.oom_score_adj.map(|n| n.to_string());
    let mut plan = Plan {
        programs: &pointers(search.iter().map(|c| c.as_ptr()))[..search.len()],
        argv: &pointers(argv.iter().map(|c| c.as_ptr())),
        envp: &pointers(envp.iter().map(|e| e.as_ptr().cast())),
        cwd: &cwd,
        base,
        fds: &fds,
        nofile: limit(Resource::RLIMIT_NOFILE, launch.nofile).map_err(Failed::at(Step::Limits))?,
        core: limit(Resource::RLIMIT_CORE, launch.core).map_err(Failed::at(Step::Limits))?,
        umask: launch.umask.map(|m| m as libc::mode_t),
        terminal,
        cgroup_procs: None,
        nice: launch.nice,
        oom_score_adj: oom_score_adj.as_deref().map(str::as_bytes),
        user: launch.user,
        listen_pid,
        step: AtomicI32::new(UNBORN),
        errno: AtomicI32::new(0),
        candidate: AtomicUsize::new(0),
    };
    let Some(folder) = launch.cgroup else {
        return run(&plan, None);
    };
    let cgroup = open(folder, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let cgroup = cgroup.map_err(Failed::at(Step::Cgroup))?;
    match run(&plan, Some(cgroup.as_fd())) {
        // Linux before 5.7, a filter that does not know clone3(2), or a cgroup that kills what begins in it: the child
        // enters the cgroup by itself. That waits for a grace period of the kernel, milliseconds at times.
        Err(e)
            if e.step == Step::Process
                && matches!(
                    e.error.raw_os_error(),
                    Some(libc::ENOSYS | libc::E2BIG | libc::EINVAL | libc::EPERM | libc::ECANCELED)
                ) =>
        {
            let procs = folder.join("cgroup.procs");
            let procs = open(&procs, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
            let procs = procs.map_err(Failed::at(Step::Cgroup))?;
            let procs =
                above(procs.as_fd(), first_free, &mut lifted).map_err(Failed::at(Step::Cgroup))?;
            plan.cgroup_procs = Some(procs);
            run(&plan, None)
        }
        done => done,
    }
}

/// Makes the process, in that cgroup, and waits until it executes its program or has failed.
fn run(plan: &Plan<'_>, cgroup: Option<BorrowedFd<'_>>) -> Result<i32, Failed> {
    let mut stack: Box<std::mem::MaybeUninit<Stack>> = Box::new_uninit();
    let masked = Masked::all();
    let argument: *mut c_void = ptr::from_ref(plan).cast_mut().cast();
    let pid = match cgroup {
        None => {
            // SAFETY: one past the end of the allocation. The stack grows down on every machine we build for.
            let top = unsafe { stack.as_mut_ptr().add(1) };
            // SAFETY: the child runs on a stack of its own and stores to the atomics of `plan` alone, which outlives it:
            // with CLONE_VFORK this thread sleeps until the child has executed its program or ended.
            Errno::result(unsafe {
                libc::clone(child, top.cast(), SHARE | libc::SIGCHLD, argument)
            })
        }
        Some(cgroup) => clone_into(cgroup, stack.as_mut_ptr().cast(), argument),
    };
    let pid = pid.map_err(Failed::at(Step::Process))?;
    let step = plan.step.load(Ordering::Acquire);
    let (step, errno) = match Step::ALL.into_iter().find(|s| *s as i32 == step) {
        Some(step) => (step, plan.errno.load(Ordering::Acquire)),
        // Where bpm's cgroup and the child's were not killed equally often (`cgroup.kill`), the kernel takes a child
        // that begins in the other one for a fork that the kill has missed, and kills it.
        None if step == UNBORN => (Step::Process, libc::ECANCELED),
        None => return Ok(pid),
    };
    // It is dead already; with all signals masked there is no EINTR.
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
    drop(masked);
    // The same plan may be tried once more.
    plan.step.store(UNBORN, Ordering::Release);
    Err(Failed {
        step,
        error: io::Error::from_raw_os_error(errno),
        candidate: plan.candidate.load(Ordering::Acquire),
    })
}

/// The child borrows our memory, and this thread waits until it has executed its program or ended.
const SHARE: c_int = libc::CLONE_VM | libc::CLONE_VFORK;

/// clone3(2) with `CLONE_INTO_CGROUP` (Linux 5.7), for which libc has no function: the child begins in the cgroup, so
/// that nothing of it is ever outside, and no migration has to be waited for.
fn clone_into(
    cgroup: BorrowedFd<'_>,
    stack: *mut c_void,
    argument: *mut c_void,
) -> Result<i32, Errno> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    /// `struct clone_args`, as of Linux 5.7.
    #[repr(C)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let arguments = Arguments {
        flags: SHARE as u64 | CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack as u64,
        stack_size: size_of::<Stack>() as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.as_raw_fd() as u64,
    };
    let result: isize;
    // SAFETY: in the parent an ordinary system call. The child begins behind it on the stack of `arguments`, which is
    // aligned to 16 bytes, and calls `child`, which does not return: it uses nothing of this function's stack. As with
    // `clone`, this thread sleeps meanwhile.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") &arguments,
            in("rsi") size_of::<Arguments>(),
            in("r12") argument,
            in("r13") child as extern "C" fn(*mut c_void) -> c_int,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") &arguments => result,
            in("x1") size_of::<Arguments>(),
            in("x20") argument,
            in("x21") child as extern "C" fn(*mut c_void) -> c_int,
        );
    }
    match result {
        pid if pid > 0 => Ok(pid as i32),
        errno => Err(Errno::from_raw(-errno as i32)),
    }
}

/// First function of the child.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `run` gave a Plan that outlives the child.
    let plan = unsafe { &*plan.cast::<Plan<'_>>() };
    plan.step.store(BEGUN, Ordering::Release);
    let Err((step, errno)) = become_program(plan);
    plan.errno.store(errno as i32, Ordering::Release);
    plan.step.store(step as i32, Ordering::Release);
    // SAFETY: ends the child without running what atexit(3) registered for the parent.
    unsafe { libc::_exit(127) }
}

/// In the child: system calls only (see the module's text).
fn become_program(plan: &Plan<'_>) -> Result<Infallible, (Step, Errno)> {
    // SAFETY (all blocks below): pointers come from the plan, NUL-terminated and null-terminated where
    // the call wants it; descriptors and settings are the child's own, since neither
    // CLONE_FILES, CLONE_FS nor CLONE_SIGHAND was asked for.
    let check = |step, result: c_int| Errno::result(result).map_err(|e| (step, e));
    if let Some(procs) = plan.cgroup_procs {
        check(
            Step::Cgroup,
            unsafe { libc::write(procs, c"0".as_ptr().cast(), 1) } as c_int,
        )?;
    }
    check(Step::Session, unsafe { libc::setsid() })?;
    reset_signals();
    for (to, from) in (0..).zip(plan.fds) {
        check(Step::Descriptors, unsafe { libc::dup2(*from, to) })?;
    }
    if plan.terminal {
        check(Step::Terminal, unsafe {
            libc::ioctl(0, libc::TIOCSCTTY, 0)
        })?;
    }
    if let Some(mask) = plan.umask {
        unsafe { libc::umask(mask) };
    }
    for (what, limit) in [
        (libc::RLIMIT_NOFILE, &plan.nofile),
        (libc::RLIMIT_CORE, &plan.core),
    ] {
        if let Some(limit) = limit {
            check(Step::Limits, unsafe {
                libc::prlimit(0, what, limit, ptr::null_mut())
            })?;
        }
    }
    if let Some(nice) = plan.nice {
        check(Step::Nice, unsafe {
            libc::setpriority(libc::PRIO_PROCESS, 0, nice)
        })?;
    }
    if let Some(score) = plan.oom_score_adj {
        let path = c"/proc/self/oom_score_adj".as_ptr();
        let fd = check(Step::OomScore, unsafe {
            libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC)
        })?;
        check(
            Step::OomScore,
            unsafe { libc::write(fd, score.as_ptr().cast(), score.len()) } as c_int,
        )?;
    }
    if let Some(user) = plan.user {
        // The system calls and not libc's functions, which would change the user of all our threads. Groups first:
        // afterwards it may not.
        let count = user.groups.len();
        let calls = [
            unsafe { libc::syscall(libc::SYS_setgroups, count, user.groups.as_ptr()) },
            unsafe { libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid) },
            unsafe { libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid) },
        ];
        for result in calls {
            check(Step::User, result as c_int)?;
        }
    }
    // As that user, whose rights count.
    if let Some(base) = plan.base {
        check(Step::Folder, unsafe { libc::fchdir(base) })?;
    }
    check(Step::Folder, unsafe { libc::chdir(plan.cwd.as_ptr()) })?;
    if !plan.listen_pid.is_null() {
        write_pid(unsafe { &mut *plan.listen_pid }, unsafe { libc::getpid() });
    }
    close_the_rest(plan.fds.len());
    unmask_signals();
    Err((Step::Program, execute(plan)))
}

/// Executes the first of the programs that can be, with execvp's rules for going on.
fn execute(plan: &Plan<'_>) -> Errno {
    let mut last = Errno::ENOENT;
    for (i, program) in plan.programs.iter().enumerate() {
        // SAFETY: see `become_program`.
        unsafe { libc::execve(*program, plan.argv.as_ptr(), plan.envp.as_ptr()) };
        let errno = Errno::last();
        match errno {
            // Nothing there; a program that may not be executed, seen before, is the better reason.
            Errno::ENOENT | Errno::ENOTDIR | Errno::ENODEV | Errno::ESTALE | Errno::ETIMEDOUT => {
                if last == Errno::EACCES {
                    continue;
                }
            }
            Errno::EACCES => {}
            _ => {
                plan.candidate.store(i, Ordering::Release);
                return errno;
            }
        }
        plan.candidate.store(i, Ordering::Release);
        last = errno;
    }
    last
}

/// Ours are CLOEXEC, except for a moment around a re-exec; this is for what a library may have opened
/// without it. Linux before 5.9 has no such call, and does without.
fn close_the_rest(first: usize) {
    // SAFETY: the child's own table of descriptors; touches no memory.
    unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, 0_u32) };
}

/// Every signal to its default: execve(2) keeps what is ignored, and handlers of ours must not
/// run once signals are let in.
fn reset_signals() {
    // The system call and not sigaction(3), which takes a lock for SIGABRT in newer libcs. All
    // zero is SIG_DFL without flags on every machine; larger than any kernel_sigaction.
    let default = [0_u64; 8];
    for signal in 1..=64_i32 {
        // SAFETY: reads `default`. KILL, STOP and numbers that don't exist fail, as they should.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<c_void>(),
                KERNEL_SIGSET,
            )
        };
    }
}

/// Bytes of the kernel's set of signals (64 of them).
const KERNEL_SIGSET: usize = 8;

/// Lets all signals in; the libc's function would leave its own two as they are.
fn unmask_signals() {
    let none = 0_u64;
    // SAFETY: reads `none`.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            ptr::from_ref(&none),
            ptr::null_mut::<c_void>(),
            KERNEL_SIGSET,
        )
    };
}

/// Decimal digits without allocation; the rest stays NUL, which ends the string.
fn write_pid(slot: &mut [u8; PID_DIGITS], pid: i32) {
    let mut digits = 1;
    let mut rest = pid / 10;
    while rest > 0 {
        digits += 1;
        rest /= 10;
    }
    let mut rest = pid;
    for byte in slot.iter_mut().take(digits).rev() {
        *byte = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";

/// `NAME=value` with a NUL each; `LISTEN_PID` with room for its digits last.
fn environment(launch: &Launch<'_>) -> Result<Vec<Vec<u8>>, std::ffi::NulError> {
    let listens = !launch.pass.is_empty();
    let mut all = Vec::with_capacity(launch.env.len() + 2);
    for (name, value) in launch.env {
        if listens && (name == "LISTEN_FDS" || name == "LISTEN_PID") {
            continue;
        }
        let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
        all.push(CString::new(pair)?.into_bytes_with_nul());
    }
    if listens {
        all.push(format!("LISTEN_FDS={}\0", launch.pass.len()).into_bytes());
        all.push([LISTEN_PID, &[0; PID_DIGITS + 1]].concat());
    }
    Ok(all)
}

/// The same with the null pointer that C wants at the end.
fn pointers(of: impl Iterator<Item = *const c_char>) -> Vec<*const c_char> {
    of.chain(std::iter::once(ptr::null())).collect()
}

/// The paths to try, in order.
fn candidates(program: &OsStr, env: &[(OsString, OsString)]) -> Result<Vec<CString>, SpawnError> {
    let name = program.as_bytes();
    let c_string = |bytes: Vec<u8>| {
        CString::new(bytes).map_err(|e| SpawnError {
            step: Step::Arguments,
            words: format!("the name of the program has a NUL byte in it: {program:?}"),
            error: e.into(),
        })
    };
    if name.is_empty() || name.contains(&b'/') {
        return Ok(vec![c_string(name.to_vec())?]);
    }
    let path = env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH.as_bytes(), |(_, value)| value.as_bytes());
    path.split(|b| *b == b':')
        .map(|folder| {
            // An empty entry is the working folder.
            let folder = if folder.is_empty() { b"." } else { folder };
            c_string([folder, b"/", name].concat())
        })
        .collect()
}

/// The limit to set; the hard one goes along where it has to, which takes privilege.
fn limit(what: Resource, wanted: Option<u64>) -> Result<Option<libc::rlimit>, Errno> {
    let Some(soft) = wanted else {
        return Ok(None);
    };
    let (_, hard) = getrlimit(what)?;
    Ok(Some(libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard.max(soft),
    }))
}

/// `fd` itself, or a copy of it that is not among the first `count` descriptors.
fn above(fd: BorrowedFd<'_>, count: usize, copies: &mut Vec<OwnedFd>) -> Result<RawFd, Errno> {
    use std::os::fd::FromRawFd;
    let count = RawFd::try_from(count).map_err(|_| Errno::EMFILE)?;
    if fd.as_raw_fd() >= count {
        return Ok(fd.as_raw_fd());
    }
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(count))?;
    // SAFETY: just made, and nobody else's.
    copies.push(unsafe { OwnedFd::from_raw_fd(copy) });
    Ok(copy)
}

fn errno(e: io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests;
