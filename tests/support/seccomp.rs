//! A kernel that lacks `openat2(2)`, as containers' seccomp filters and kernels before 5.6 do.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What the kernel says instead of carrying the call out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `ENOSYS`: an old kernel, and newer container runtimes.
    Unknown,
    /// `EPERM`: older container runtimes.
    Forbidden,
}

/// Has `command` run under a filter that refuses `openat2`, which its children inherit.
pub fn without_openat2(command: &mut Command, refusal: Refusal) {
    let errno = match refusal {
        Refusal::Unknown => libc::ENOSYS,
        Refusal::Forbidden => libc::EPERM,
    };
    // SAFETY: between fork and exec, two system calls and no allocation.
    unsafe { command.pre_exec(move || install(errno)) };
}

fn install(errno: libc::c_int) -> io::Result<()> {
    let statement = |code: u32, jump_true, k| libc::sock_filter { code: code as u16, jt: jump_true, jf: 0, k };
    // The number of the system call is the first field of seccomp_data (seccomp(2)); that of openat2 is the same on all
    // architectures.
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_openat2 as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: prctl(2) reads `filter`, which lives until it returns; the kernel copies it.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}
