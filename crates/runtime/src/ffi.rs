//! The one call that the standard library has no safe form of: what a child does before `exec`.
#![allow(unsafe_code)]

use std::{os::unix::process::CommandExt, process::Command};

/// Has the system kill the child when the thread that spawns it ends, however that comes about.
///
/// Linux ties the signal to the parent *thread*: spawn from one that lives as long as the process.
#[cfg(target_os = "linux")]
pub(crate) fn die_with_parent(command: &mut Command) {
    use std::io;

    let parent = std::process::id();
    let before_exec = move || {
        // SAFETY: `prctl` with PR_SET_PDEATHSIG takes one integer and touches no memory of ours.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the call above, which then never fires: this child
        // belongs to somebody else already.
        // SAFETY: `getppid` takes nothing and cannot fail.
        if unsafe { libc::getppid() }.cast_unsigned() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls, both async-signal-safe;
    // it allocates nothing, takes no lock, and the errors it builds hold an integer only.
    unsafe { command.pre_exec(before_exec) };
}

/// Other systems have no such signal; children see their standard input close instead.
#[cfg(not(target_os = "linux"))]
pub(crate) fn die_with_parent(command: &mut Command) {
    let _: &mut dyn CommandExt = command;
}
