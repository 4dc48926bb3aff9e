//! One contract, every server: what the archiver promises holds on each of them, or the table says where it does not.
//!
//! [`Site`] is a server that was started for one test; [`SERVERS`] has what is expected of each kind, and
//! `docs/interoperability.md` is compared with what `archiver check` says of it (`UPDATE_DOCS=1` writes it).

use std::any::Any;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use archiver::embedded::Quirks;

use crate::push::Bench;
use crate::support::daemon::{Daemon, Program};
use crate::support::embedded::Embedded;
use crate::support::env::TestEnv;
use crate::support::openssh::{self, OpenSsh};

#[path = "interop_conflict.rs"]
mod conflict;
#[path = "interop_document.rs"]
mod document;
#[path = "interop_files.rs"]
mod files;
#[path = "interop_login.rs"]
mod login;
#[path = "interop_resume.rs"]
mod resume;

/// How a server of this kind is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    OpenSsh,
    /// `ChrootDirectory` and `ForceCommand internal-sftp`; needs root.
    Chroot,
    /// `Subsystem sftp rclone serve sftp --stdio`: OpenSSH's identification, another SFTP server.
    RcloneBehindOpenSsh,
    Daemon(Program),
    /// With these quirks.
    Embedded(&'static [&'static str]),
}

/// What SSH_FXP_RENAME does where the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rename {
    Refuses,
    Overwrites,
    Unsupported,
}

/// By which means a file gets its final name, if that is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// At once: no other client's file can be lost.
    Atomic,
    /// A look and a rename: the file of a client that takes the name in between may be lost.
    Look,
    /// The final name is written in place.
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    TimesAndModes,
    Times,
    Nothing,
}

/// Which names it finds again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    All,
    /// Files whose names have control characters in them are made, and then are not there under these names.
    NoControls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resume {
    /// What had arrived before the cut is not sent again.
    GoesOn,
    /// The file is begun anew.
    Anew,
}

/// A kind of server and all in which it differs.
#[derive(Debug)]
struct Expected {
    /// In the document.
    name: &'static str,
    start: Start,
    rename: Rename,
    commit: Commit,
    keeps: Keeps,
    resume: Resume,
    names: Names,
    /// What its user should know.
    notes: &'static str,
}

/// As OpenSSH.
const PLAIN: Expected = Expected {
    name: "",
    start: Start::OpenSsh,
    rename: Rename::Refuses,
    commit: Commit::Atomic,
    keeps: Keeps::TimesAndModes,
    resume: Resume::GoesOn,
    names: Names::All,
    notes: "",
};

const RCLONE: Expected = Expected {
    rename: Rename::Overwrites,
    commit: Commit::Look,
    keeps: Keeps::Times,
    resume: Resume::Anew,
    names: Names::NoControls,
    notes: "let nobody else write below the base; it says OK to hard links and makes none; names \
            with control characters it does not find again: `--verify readback` fails them; `--vfs-cache-mode writes` \
            acknowledges what its backend does not have yet; what others put into its backend it sees after \
            `--dir-cache-time`",
    ..PLAIN
};

const SERVERS: [Expected; 14] = [
    Expected { name: "OpenSSH", ..PLAIN },
    Expected { name: "OpenSSH, chroot", start: Start::Chroot, notes: "only `/upload` is writable", ..PLAIN },
    Expected {
        name: "ProFTPD mod_sftp",
        start: Start::Daemon(Program::ProFtpd),
        notes: "its rename looks and then renames, so hard links are used; uploads go on after a cut with \
                `AllowOverwrite on`, as Debian ships it",
        ..PLAIN
    },
    Expected { name: "rclone serve sftp", start: Start::Daemon(Program::Rclone), ..RCLONE },
    Expected { name: "rclone behind OpenSSH", start: Start::RcloneBehindOpenSsh, ..RCLONE },
    Expected {
        name: "AsyncSSH",
        start: Start::Daemon(Program::AsyncSsh),
        notes: "its rename looks and then renames, so hard links are used",
        ..PLAIN
    },
    Expected { name: "archiver serve", start: Start::Embedded(&[]), ..PLAIN },
    Expected {
        name: "no-extensions",
        start: Start::Embedded(&["no-extensions"]),
        commit: Commit::Look,
        notes: "whether its rename is atomic is not known",
        ..PLAIN
    },
    Expected { name: "no-limits", start: Start::Embedded(&["no-limits"]), ..PLAIN },
    Expected {
        name: "rename-overwrites",
        start: Start::Embedded(&["rename-overwrites"]),
        rename: Rename::Overwrites,
        ..PLAIN
    },
    Expected {
        name: "rename-overwrites, no-extensions",
        start: Start::Embedded(&["rename-overwrites", "no-extensions"]),
        rename: Rename::Overwrites,
        commit: Commit::Look,
        notes: "let nobody else write below the base",
        ..PLAIN
    },
    Expected {
        name: "rename-overwrites, hardlink-pretended",
        start: Start::Embedded(&["rename-overwrites", "hardlink-pretended"]),
        rename: Rename::Overwrites,
        commit: Commit::Look,
        notes: "let nobody else write below the base",
        ..PLAIN
    },
    Expected {
        name: "rename-unsupported, no-extensions",
        start: Start::Embedded(&["rename-unsupported", "no-extensions"]),
        rename: Rename::Unsupported,
        commit: Commit::Direct,
        resume: Resume::Anew,
        notes: "`publish = \"direct\"`: readers can see partial files, and nothing is overwritten",
        ..PLAIN
    },
    Expected {
        name: "setstat-refused",
        start: Start::Embedded(&["setstat-refused"]),
        keeps: Keeps::Nothing,
        notes: "files have the time of their upload",
        ..PLAIN
    },
];

/// A test of each contract function for each kind of server.
macro_rules! contract {
    ($($kind:ident: $name:literal),* $(,)?) => {
        $(mod $kind {
            use super::*;

            #[test]
            fn odd_names_and_all_sizes() { files::odd_names_and_all_sizes(expected($name)) }

            #[test]
            fn many_sessions_make_dated_folders() { files::many_sessions_make_dated_folders(expected($name)) }

            #[test]
            fn killed_in_the_middle_of_a_run() { files::killed_in_the_middle_of_a_run(expected($name)) }

            #[test]
            fn each_policy_for_a_name_that_is_taken() { conflict::each_policy(expected($name)) }

            #[test]
            fn check_tells_it_apart() { document::check_tells_it_apart(expected($name)) }

            #[test]
            fn a_large_file_after_a_cut() { resume::a_large_file_after_a_cut(expected($name)) }

            #[test]
            fn key_password_and_host_keys() { login::key_password_and_host_keys(expected($name)) }
        })*

        /// Every kind is in the contract.
        const KINDS: &[&str] = &[$($name),*];
    };
}

contract! {
    plain: "OpenSSH",
    chroot: "OpenSSH, chroot",
    proftpd: "ProFTPD mod_sftp",
    rclone: "rclone serve sftp",
    rclone_behind_openssh: "rclone behind OpenSSH",
    asyncssh: "AsyncSSH",
    embedded: "archiver serve",
    no_extensions: "no-extensions",
    no_limits: "no-limits",
    rename_overwrites: "rename-overwrites",
    rename_overwrites_no_extensions: "rename-overwrites, no-extensions",
    hardlink_pretended: "rename-overwrites, hardlink-pretended",
    rename_unsupported: "rename-unsupported, no-extensions",
    setstat_refused: "setstat-refused",
}

#[test]
fn no_server_is_left_out() {
    assert!(SERVERS.iter().map(|expected| expected.name).eq(KINDS.iter().copied()));
}

fn expected(name: &str) -> &'static Expected {
    SERVERS.iter().find(|expected| expected.name == name).unwrap_or_else(|| panic!("no server {name:?}"))
}

/// A server that was started for one test, and an archiver that may log in.
struct Site {
    bench: Bench,
    address: SocketAddr,
    /// `SHA256:…` of its ed25519 host key.
    fingerprint: String,
    /// With its version, as it says itself.
    version: String,
    server: Running,
    expected: &'static Expected,
}

/// Gone when dropped.
enum Running {
    Daemon(Daemon),
    Other(#[expect(dead_code, reason = "held for its end")] Box<dyn Any>),
}

impl Site {
    /// `None` where it cannot be had here, which was said.
    fn start(expected: &'static Expected) -> Option<Self> {
        let env = TestEnv::new();
        let sshd = |server: OpenSsh, bench: Bench| {
            let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
            let fingerprint = openssh::fingerprint(&server.dir().join("host_ed25519.pub"));
            let version = openssh::version();
            Site { bench, address, fingerprint, version, server: Running::Other(Box::new(server)), expected }
        };
        Some(match expected.start {
            Start::OpenSsh => {
                let server = OpenSsh::builder().host_keys(&["ed25519", "ecdsa", "rsa"]).start();
                let bench = Bench::openssh_in(env, &server);
                sshd(server, bench)
            }
            Start::Chroot => {
                let server = OpenSsh::builder().chrooted()?.start();
                let bench = Bench::openssh_in(env, &server);
                sshd(server, bench)
            }
            Start::RcloneBehindOpenSsh => {
                if !Program::Rclone.is_installed() {
                    return None;
                }
                let rclone = "Subsystem sftp /usr/bin/rclone serve sftp --stdio --config /dev/null --dir-cache-time 0s";
                let subsystem = format!("{rclone} {}", env.remote().display());
                let server = OpenSsh::builder().option(subsystem).start();
                let to = format!("sftp://{}@127.0.0.1:{}/", server.user(), server.port());
                let base = env.remote();
                let ssh = env.home().join(".ssh");
                std::fs::copy(server.client_key(), ssh.join("id_ed25519")).unwrap();
                std::fs::copy(server.known_hosts(), ssh.join("known_hosts")).unwrap();
                let version = format!("{}, {}", Program::Rclone.version(), openssh::version());
                Site { version, ..sshd(server, Bench::of(env, to, base)) }
            }
            Start::Daemon(program) => {
                if !program.is_installed() {
                    return None;
                }
                let server = Daemon::start(&env, program);
                let (address, base) = (server.address(), env.remote());
                let bench = Bench::of(env, server.url(), base);
                let (fingerprint, version) = (server.fingerprint(), program.version());
                Site { bench, address, fingerprint, version, server: Running::Daemon(server), expected }
            }
            Start::Embedded(quirks) => {
                let quirks = quirks.iter().try_fold(Quirks::default(), |all, name| all.with(name)).unwrap();
                let server = Embedded::with_quirks(&env, quirks);
                let (bench, address) = (Bench::embedded(env, &server), server.address());
                let (fingerprint, version) = (server.fingerprint().to_owned(), env!("CARGO_PKG_VERSION").to_owned());
                Site { bench, address, fingerprint, version, server: Running::Other(Box::new(server)), expected }
            }
        })
    }

    /// `archiver push` of `local/` as this server needs it, patient on a machine that is busy.
    fn push(&self) -> Command {
        self.push_to(self.bench.to(), &self.bench.env.local())
    }

    fn push_of(&self, directory: &Path) -> Command {
        self.push_to(self.bench.to(), directory)
    }

    fn push_to(&self, to: &str, directory: &Path) -> Command {
        let mut command = self.bench.push_to(to, [directory]);
        command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", "20s");
        if self.expected.commit == Commit::Direct {
            command.args(["--publish", "direct"]);
        }
        command
    }

    /// As another machine, whose ledger knows nothing of this one's.
    fn other(&self, command: &mut Command, ledger: &str) {
        command.env("ARCHIVER_LEDGER", self.bench.env.home().join(ledger));
    }
}
