//! Commands that may not do everything, as agents run them.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// A system call that fails for what a command starts, as in an agent's sandbox or on an old kernel.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    call: libc::c_long,
    error: i32,
    /// Only where that argument, of that mask, has that value.
    argument: Option<(u32, u32, u32)>,
}

/// Refuses one system call to what the command starts: it fails with EPERM.
pub fn refusing(command: &mut Command, call: libc::c_long) -> &mut Command {
    Refusal::of(call).to(command)
}

impl Refusal {
    /// With EPERM.
    pub fn of(call: libc::c_long) -> Self {
        Self {
            call,
            error: libc::EPERM,
            argument: None,
        }
    }

    /// With another error.
    pub fn with(self, error: i32) -> Self {
        Self { error, ..self }
    }

    /// Only where the lower half of an argument, counted from 0, has this value below this mask.
    pub fn where_argument(self, argument: u32, mask: u32, value: u32) -> Self {
        Self {
            argument: Some((argument, mask, value)),
            ..self
        }
    }

    pub fn to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
        const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let error = libc::SECCOMP_RET_ERRNO | self.error as u32;
        let (argument, mask, value) = self.argument.unwrap_or_default();
        // struct seccomp_data: the number of the call, the machine, the instruction, six arguments of 8 bytes. Without a
        // mask each argument is equal.
        let mut filter = [
            step(LOAD, 0, 0, 0),
            step(EQUAL, 0, 4, self.call as u32),
            step(LOAD, 0, 0, 16 + 8 * argument),
            step(AND, 0, 0, mask),
            step(EQUAL, 0, 1, value),
            step(RETURN, 0, 0, error),
            step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let install = move || {
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_mut_ptr(),
            };
            // SAFETY: prctl(2) reads the program, which lives until it returns.
            let done = unsafe {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                    && libc::prctl(
                        libc::PR_SET_SECCOMP,
                        libc::SECCOMP_MODE_FILTER,
                        &raw const program,
                    ) == 0
            };
            match done {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: two system calls on memory of its own, which the child of a fork may do.
        unsafe { command.pre_exec(install) }
    }
}
