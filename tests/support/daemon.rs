//! SFTP servers that are not OpenSSH's, as Debian ships them: a process of its own for each test, on a free loopback port,
//! as whoever runs the tests, and gone when dropped.
//!
//! Ready means that the server said so on its standard error; nothing sleeps.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::embedded::{PASSWORD, USER};
use super::env::{Running, TestEnv, write};
use super::openssh::{fingerprint, keygen, run};

/// [`PASSWORD`] as crypt(3) has it (SHA-512).
const CRYPTED: &str =
    "$6$archiver$Gay75izyiC2tREFCEnoH8bxNguhVSLHD000yVfcsNO7BDOUhfhhjHD9Wz2Fb36zT/kVcbwFxmGSkTikbiMg1n1";
const HOST_KEYS: [&str; 3] = ["ed25519", "ecdsa", "rsa"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `mod_sftp` of ProFTPD.
    ProFtpd,
    /// Go's `pkg/sftp`, as `rclone serve sftp` has it.
    Rclone,
    /// Python's.
    AsyncSsh,
}

impl Program {
    fn path(self) -> &'static str {
        match self {
            Self::ProFtpd => "/usr/sbin/proftpd",
            Self::Rclone => "/usr/bin/rclone",
            Self::AsyncSsh => "/usr/bin/python3",
        }
    }

    /// On Debian it has to be there; elsewhere it says that the test is skipped.
    pub fn is_installed(self) -> bool {
        let there = Path::new(self.path()).exists()
            && match self {
                Self::AsyncSsh => {
                    let imported = Command::new(self.path()).args(["-W", "ignore", "-c", "import asyncssh"]).output();
                    imported.is_ok_and(|imported| imported.status.success())
                }
                Self::ProFtpd | Self::Rclone => true,
            };
        if !there {
            let text = format!("{self:?} is missing; on Debian: apt-get install {}", self.packages());
            assert!(!Path::new("/etc/debian_version").exists(), "{text}");
            eprintln!("SKIPPED: {text}");
        }
        there
    }

    fn packages(self) -> &'static str {
        match self {
            Self::ProFtpd => "proftpd-core proftpd-mod-crypto",
            Self::Rclone => "rclone",
            Self::AsyncSsh => "python3-asyncssh",
        }
    }

    /// As it calls itself with its version.
    pub fn version(self) -> String {
        let arguments: &[&str] = match self {
            Self::ProFtpd => &["-v"],
            Self::Rclone => &["version"],
            Self::AsyncSsh => &["-W", "ignore", "-c", "import asyncssh; print('AsyncSSH', asyncssh.__version__)"],
        };
        let output = Command::new(self.path()).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        text.lines().next().unwrap_or_default().replace("Version ", "")
    }
}

/// A server of `remote/` with an ed25519, an ECDSA and an RSA host key, all of them in `home/.ssh/known_hosts`;
/// `home/.ssh/id_ed25519` may log in, and so may the password.
pub struct Daemon {
    program: Program,
    dir: PathBuf,
    remote: PathBuf,
    address: SocketAddr,
    _process: Running,
}

impl Daemon {
    pub fn start(env: &TestEnv, program: Program) -> Self {
        let dir = env.path().join("server");
        std::fs::create_dir(&dir).unwrap();
        HOST_KEYS.iter().for_each(|kind| keygen(&dir.join(format!("host_{kind}")), kind));
        let key = env.home().join(".ssh/id_ed25519");
        keygen(&key, "ed25519");
        std::fs::copy(key.with_extension("pub"), dir.join("authorized_keys")).unwrap();
        let (process, address) = match program {
            Program::ProFtpd => proftpd(env, &dir),
            Program::Rclone => rclone(env, &dir),
            Program::AsyncSsh => asyncssh(env, &dir),
        };
        let daemon = Self { program, dir, remote: env.remote(), address, _process: process };
        write(&env.home(), ".ssh/known_hosts", daemon.known_hosts(address, &HOST_KEYS));
        daemon
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `--to` takes.
    pub fn url(&self) -> String {
        // ProFTPD shows the whole filesystem; to make it show less, it has to run as root.
        let base = match self.program {
            Program::ProFtpd => self.remote.display().to_string(),
            Program::Rclone | Program::AsyncSsh => "/".to_owned(),
        };
        format!("sftp://{USER}@{}{base}", self.address)
    }

    /// `SHA256:…` of its ed25519 key.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.dir.join("host_ed25519.pub"))
    }

    /// Lines for these of its host keys at an address that leads to it.
    pub fn known_hosts(&self, at: SocketAddr, kinds: &[&str]) -> String {
        let line = |kind: &&str| {
            let key = std::fs::read_to_string(self.dir.join(format!("host_{kind}.pub"))).unwrap();
            let key = key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            format!("[{}]:{} {key}\n", at.ip(), at.port())
        };
        kinds.iter().map(line).collect()
    }
}

/// The address at the end of a line.
fn address_in(line: &str) -> SocketAddr {
    line.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
}

fn rclone(env: &TestEnv, dir: &Path) -> (Running, SocketAddr) {
    let mut command = env.command(Program::Rclone.path());
    command.args([
        "serve",
        "sftp",
        "--config",
        "/dev/null",
        "--addr",
        "127.0.0.1:0",
        "--user",
        USER,
        "--pass",
        PASSWORD,
    ]);
    command.arg("--authorized-keys").arg(dir.join("authorized_keys"));
    for kind in HOST_KEYS {
        command.arg("--key").arg(dir.join(format!("host_{kind}")));
    }
    // Or it does not see what the test puts there for as long as five minutes.
    command.args(["--dir-cache-time", "0s"]).arg(env.remote());
    let mut running = Running::start(&mut command);
    let line = running.expect_line("SFTP server listening on");
    (running, address_in(&line))
}

const ASYNCSSH: &str = r#"
import asyncio, sys, warnings
warnings.simplefilter("ignore")
import asyncssh

user, password, directory, root, *keys = sys.argv[1:]

class Server(asyncssh.SSHServer):
    def password_auth_supported(self):
        return True
    def validate_password(self, *given):
        return given == (user, password)

async def main():
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Server, server_host_keys=keys,
        authorized_client_keys=directory + "/authorized_keys",
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=root))
    host, port = server.sockets[0].getsockname()
    print(f"listening on {host}:{port}", file=sys.stderr, flush=True)
    await server.wait_closed()

asyncio.run(main())
"#;

fn asyncssh(env: &TestEnv, dir: &Path) -> (Running, SocketAddr) {
    let mut command = env.command(Program::AsyncSsh.path());
    command.arg(write(dir, "server.py", ASYNCSSH)).args([USER, PASSWORD]).arg(dir).arg(env.remote());
    command.args(HOST_KEYS.iter().map(|kind| dir.join(format!("host_{kind}"))));
    let mut running = Running::start(&mut command);
    let line = running.expect_line("listening on");
    (running, address_in(&line))
}

fn proftpd(env: &TestEnv, dir: &Path) -> (Running, SocketAddr) {
    use std::os::unix::fs::PermissionsExt;
    let name = |what| String::from_utf8(run(Command::new("id").arg(what))).unwrap().trim().to_owned();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let passwd = write(dir, "passwd", format!("{USER}:{CRYPTED}:{uid}:{gid}::{}:/bin/sh\n", env.remote().display()));
    std::fs::set_permissions(&passwd, std::fs::Permissions::from_mode(0o600)).unwrap();
    let rfc4716 = run(Command::new("ssh-keygen").arg("-e").arg("-f").arg(dir.join("authorized_keys")));
    write(dir, "authorized.rfc4716", rfc4716);
    let mut lines = vec![
        "ModulePath /usr/lib/proftpd".to_owned(),
        "LoadModule mod_sftp.c".into(),
        "ServerType standalone\nServerName test\nDefaultAddress 127.0.0.1\nSocketBindTight on\nUseIPv6 off".into(),
        "UseReverseDNS off\nScoreboardFile none\nWtmpLog off\nTransferLog none\nDelayEngine off\nControlsEngine off"
            .into(),
        format!("User {}\nGroup {}\nPidFile {}", name("-un"), name("-gn"), dir.join("pid").display()),
        format!("RequireValidShell off\nRootLogin on\nAuthOrder mod_auth_file.c\nAuthUserFile {}", passwd.display()),
        // As in the configuration that Debian ships; without it, nothing can be resumed.
        "AllowOverwrite on\nSFTPEngine on\nSFTPAuthMethods publickey password".into(),
        format!("SFTPAuthorizedUserKeys file:{}", dir.join("authorized.rfc4716").display()),
    ];
    lines.extend(HOST_KEYS.iter().map(|kind| format!("SFTPHostKey {}", dir.join(format!("host_{kind}")).display())));
    // Port 0 means to it that it shall not listen. The port is free when asked for, but may be taken by the time that it
    // is bound; then it says so and ends.
    let mut said = String::new();
    for _ in 0..20 {
        let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let config = write(dir, "proftpd.conf", format!("Port {}\n{}\n", address.port(), lines.join("\n")));
        let mut running = Running::start(env.command(Program::ProFtpd.path()).args(["-n", "-c"]).arg(config));
        if running.line_or_end("standalone mode STARTUP").is_some() {
            return (running, address);
        }
        said = running.said().to_owned();
    }
    panic!("ProFTPD does not start:\n{said}");
}
