//! A kill of bpm at a system call that is counted (ptrace(2)).
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

const SEIZE: i32 = 0x4206;
const INTERRUPT: i32 = 0x4207;
const GET_SYSCALL_INFO: i32 = 0x420e;
const SYSCALL: i32 = 24;
const DETACH: i32 = 17;
/// PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACEVFORK, PTRACE_O_TRACECLONE.
const OPTIONS: usize = 1 | 1 << 2 | 1 << 3;
const ENTRY: u8 = 1;
const EXIT: u8 = 2;

/// `struct ptrace_syscall_info`, as far as it is read.
#[repr(C)]
#[derive(Default)]
struct Info {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    ip: u64,
    sp: u64,
    /// At an entry the number and the arguments, at an exit the result.
    call: [u64; 7],
}

/// A process that is killed right before a certain one of its system calls that change something outside of it. What its
/// children do before they execute their programs counts as well.
pub struct Tracer {
    thread: JoinHandle<u64>,
}

impl Tracer {
    /// Attaches to all threads of a process. It is killed at the call of that number.
    ///
    /// # Errors
    /// ptrace(2) is not to be had here.
    pub fn attach(pid: i32, number: u64) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        // Only the thread that attaches gets what is reported.
        let thread = std::thread::spawn(move || match seize(pid) {
            Ok(()) => {
                tell.send(Ok(())).unwrap();
                follow(pid, number)
            }
            Err(e) => {
                tell.send(Err(e)).unwrap();
                0
            }
        });
        told.recv().unwrap().map(|()| Self { thread })
    }

    /// How many calls there were, once the process has ended.
    pub fn calls(self) -> u64 {
        self.thread.join().unwrap()
    }
}

fn ptrace(request: i32, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the caller gives the address of a structure of the size that goes with it, or numbers.
    match unsafe { libc::ptrace(request as _, tid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Attaches to all threads; new ones are followed by themselves.
fn seize(pid: i32) -> io::Result<()> {
    let mut seen = HashSet::new();
    loop {
        let folder = std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let tids = folder.filter_map(|t| t.file_name().to_str()?.parse::<i32>().ok());
        let fresh: Vec<i32> = tids.filter(|tid| seen.insert(*tid)).collect();
        for tid in &fresh {
            let seized = ptrace(SEIZE, *tid, 0, OPTIONS);
            match seized.and_then(|()| ptrace(INTERRUPT, *tid, 0, 0)) {
                // A worker thread that has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) && *tid != pid => {}
                done => done?,
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
    }
}

/// Lets it run until it has ended. Gives the number of calls.
fn follow(pid: i32, number: u64) -> u64 {
    let mut calls = 0;
    loop {
        let mut status = 0;
        // SAFETY: writes one number.
        let tid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        if tid < 0 {
            return calls;
        }
        if !libc::WIFSTOPPED(status) {
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let at_call = signal == libc::SIGTRAP | 0x80;
        // Other stops than by a signal have their event in the upper half.
        let deliver = match at_call || status >> 16 != 0 {
            true => 0,
            false => signal as usize,
        };
        let is_child = !Path::new(&format!("/proc/{pid}/task/{tid}")).exists();
        let mut info = Info::default();
        if at_call {
            let size = size_of::<Info>();
            let _ = ptrace(GET_SYSCALL_INFO, tid, size, &raw mut info as usize);
        }
        if info.op == ENTRY && changes(info.call[0] as libc::c_long, info.call[3]) {
            calls += 1;
            if calls == number {
                // SAFETY: touches no memory.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        // A child with a program of its own, as execve(2) has returned in it, or whose parent is dead.
        let executes = info.op == EXIT && is_child && has_executed(tid);
        let request = match is_child && (executes || calls >= number) {
            true => DETACH,
            false => SYSCALL,
        };
        let _ = ptrace(request, tid, 0, deliver);
    }
}

/// The process has other memory than its parent.
fn has_executed(pid: i32) -> bool {
    let name = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1));
    parent.is_none_or(|parent| name(parent) != name(&pid.to_string()))
}

/// The call changes what others see, or what outlives the process.
fn changes(call: libc::c_long, argument: u64) -> bool {
    #[cfg(target_arch = "x86_64")]
    const OLD: &[libc::c_long] = &[
        libc::SYS_rename,
        libc::SYS_unlink,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_chmod,
        libc::SYS_dup2,
        libc::SYS_symlink,
        libc::SYS_link,
        libc::SYS_vfork,
        libc::SYS_fork,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const OLD: &[libc::c_long] = &[];
    const ALL: &[libc::c_long] = &[
        libc::SYS_write,
        libc::SYS_pwrite64,
        libc::SYS_writev,
        libc::SYS_pwritev,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_unlinkat,
        libc::SYS_mkdirat,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_ftruncate,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_execve,
        libc::SYS_setsid,
        libc::SYS_dup3,
        libc::SYS_kill,
        libc::SYS_tgkill,
        libc::SYS_pidfd_send_signal,
        libc::SYS_wait4,
        libc::SYS_waitid,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
    ];
    let creates = call == libc::SYS_openat && argument as i32 & libc::O_CREAT != 0;
    creates || ALL.contains(&call) || OLD.contains(&call)
}
