//! A real OpenSSH server of its own on a free loopback port: own host keys, own configuration, gone when dropped.
//!
//! Ready means that sshd said so on its log; nothing sleeps. Nothing outside the server's own directory is written,
//! but for `/run/sshd`, which sshd asks for when it runs as root.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::freeze::freeze;
use super::port::Port;

const SSHD: &str = "/usr/sbin/sshd";
/// Far longer than anything here takes; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What sshd wrote to its log so far, and a way to wait for more.
#[derive(Default)]
struct Log {
    /// With the number of the last start whose log has ended: an earlier one may end late, while the next one runs.
    text: Mutex<(String, u32)>,
    grown: Condvar,
}

impl Log {
    /// Waits until `needle` stands at or after byte `from`. `false` when the log of this start ended without it.
    fn wait_for(&self, needle: &str, from: usize, start: u32) -> bool {
        let guard = self.text.lock().unwrap();
        let waiting = |state: &mut (String, u32)| !state.0[from..].contains(needle) && state.1 < start;
        let (guard, timeout) = self.grown.wait_timeout_while(guard, PATIENCE, waiting).unwrap();
        let (found, text) = (guard.0[from..].contains(needle), guard.0.clone());
        drop(guard);
        assert!(!timeout.timed_out(), "sshd never logged `{needle}`:\n{text}");
        found
    }
}

/// How to start the server; see [`OpenSsh::builder`].
pub struct Builder {
    lines: Vec<String>,
    host_keys: Vec<&'static str>,
    chrooted: bool,
    disk: Option<&'static str>,
}

impl Builder {
    /// A line for `sshd_config`, in front of the defaults (the first value wins): `MaxSessions 1`.
    pub fn option(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Types as `ssh-keygen -t` takes them; `ed25519` unless said otherwise.
    pub fn host_keys(mut self, types: &[&'static str]) -> Self {
        self.host_keys = types.to_vec();
        self
    }

    /// As atmoz/sftp has it: `ForceCommand internal-sftp` in a chroot where only `upload/` is writable, for the user
    /// `nobody`. Needs root; without, it says that the test is skipped and gives `None`.
    pub fn chrooted(mut self) -> Option<Self> {
        if !is_root() {
            eprintln!("SKIPPED: a chrooted sshd needs root");
            return None;
        }
        self.chrooted = true;
        Some(self)
    }

    /// Its files lie on a filesystem of their own with so much room (`1m`), which nobody but it sees and which goes with
    /// it. Needs the right to mount; without, it says that the test is skipped and gives `None`.
    pub fn on_small_disk(mut self, size: &'static str) -> Option<Self> {
        let mounts = Command::new("unshare").args(["-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
        if !mounts.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: a filesystem of its own needs the right to mount");
            return None;
        }
        self.disk = Some(size);
        Some(self)
    }

    pub fn start(self) -> OpenSsh {
        OpenSsh::start(self)
    }
}

pub struct OpenSsh {
    dir: TempDir,
    /// The chroot; sshd wants every directory above it owned by root and writable by nobody else.
    jail: Option<TempDir>,
    user: String,
    /// Nobody else gets it while the server is down.
    port: Port,
    child: Option<Child>,
    /// How often it was started.
    starts: u32,
    log: Arc<Log>,
    builder: Builder,
}

impl OpenSsh {
    pub fn builder() -> Builder {
        Builder { lines: Vec::new(), host_keys: vec!["ed25519"], chrooted: false, disk: None }
    }

    /// A plain server for the user who runs the tests.
    pub fn plain() -> Self {
        Self::builder().start()
    }

    fn start(builder: Builder) -> Self {
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: apt-get install openssh-server");
        if is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let dir = tempfile::Builder::new().prefix("sshd-").tempdir().unwrap();
        open_to_all(dir.path());
        for kind in &builder.host_keys {
            keygen(&dir.path().join(format!("host_{kind}")), kind);
        }
        let client_key = dir.path().join("id_ed25519");
        keygen(&client_key, "ed25519");
        std::fs::copy(client_key.with_extension("pub"), dir.path().join("authorized_keys")).unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let jail = builder.chrooted.then(|| {
            let jail = tempfile::Builder::new().prefix("sshd-jail-").tempdir_in("/run").unwrap();
            open_to_all(jail.path());
            let upload = jail.path().join("upload");
            std::fs::create_dir(&upload).unwrap();
            run(Command::new("chown").arg("nobody").arg(&upload));
            jail
        });
        let user = match jail {
            Some(_) => "nobody".into(),
            None => String::from_utf8(run(Command::new("id").arg("-un"))).unwrap().trim().to_owned(),
        };
        let port = Port::reserve();
        let mut server = Self { dir, jail, user, port, child: None, starts: 0, log: Arc::default(), builder };
        assert!(server.spawn(), "sshd does not start:\n{}", server.log());
        server.write_known_hosts();
        server
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        let mut lines = self.builder.lines.clone();
        lines.extend(self.builder.host_keys.iter().map(|kind| format!("HostKey {dir}/host_{kind}")));
        if let Some(jail) = &self.jail {
            lines.push(format!("ChrootDirectory {}\nForceCommand internal-sftp", jail.path().display()));
        }
        if punishes_failed_logins() {
            lines.push("PerSourcePenalties no".into());
        }
        let defaults = format!(
            "Port {}\nListenAddress 127.0.0.1\nPidFile none\nAuthorizedKeysFile {dir}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nMaxStartups 100\nMaxSessions 100\nLogLevel VERBOSE\nSubsystem sftp internal-sftp",
            self.port.number()
        );
        // Not for every keyword does the first value win (MaxStartups).
        let keyword = |line: &str| line.split(' ').next().map(str::to_owned);
        let chosen: Vec<_> = lines.iter().map(|line| keyword(line)).collect();
        lines.extend(defaults.lines().filter(|line| !chosen.contains(&keyword(line))).map(str::to_owned));
        lines.push(String::new());
        lines.join("\n")
    }

    /// Whether it came up.
    fn spawn(&mut self) -> bool {
        let config = self.dir.path().join("sshd_config");
        std::fs::write(&config, self.config()).unwrap();
        let from = self.log.text.lock().unwrap().0.len();
        self.starts += 1;
        let start = self.starts;
        let mut command = Command::new(SSHD);
        if let Some(size) = self.builder.disk {
            let script = format!("mount -t tmpfs -o size={size} tmpfs \"$0\" && exec {SSHD} \"$@\"");
            command = Command::new("unshare");
            command.args(["-m", "sh", "-c", &script]).arg(self.dir.path().join("files"));
        }
        let mut child = command
            .args(["-D", "-e", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = self.log.clone();
        // Ends with the last process of this sshd, for its sessions inherit the pipe.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                log.text.lock().unwrap().0.push_str(&(line + "\n"));
                log.grown.notify_all();
            }
            let mut state = log.text.lock().unwrap();
            state.1 = state.1.max(start);
            drop(state);
            log.grown.notify_all();
        });
        self.child = Some(child);
        let up = self.log.wait_for("Server listening on", from, start);
        if !up {
            self.child.take().unwrap().wait().unwrap();
        }
        up
    }

    /// Kills the server and every session of it at once, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Stopped first, so that it cannot start a session that the list does not have.
            freeze(pid(child.id()));
            for pid in self.sessions_of(child.id()) {
                signal(pid, Signal::KILL);
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again on the same port, with the same keys.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.spawn(), "sshd does not start again:\n{}", self.log());
    }

    /// A line for `sshd_config` that holds from the next [`OpenSsh::restart`] on.
    pub fn add_option(&mut self, line: impl Into<String>) {
        self.builder.lines.push(line.into());
    }

    /// Freezes the server and its sessions: connections stay open and nothing answers, as when a cable is pulled.
    pub fn freeze(&self) {
        let listener = self.child.as_ref().expect("it runs").id();
        // First, so that it cannot start a session that the list does not have.
        freeze(pid(listener));
        self.sessions_of(listener).into_iter().for_each(|session| freeze(pid(session)));
    }

    pub fn thaw(&self) {
        let listener = self.child.as_ref().expect("it runs").id();
        signal(listener, Signal::CONT);
        self.sessions_of(listener).into_iter().for_each(|session| signal(session, Signal::CONT));
    }

    /// How many connections have processes of their own.
    pub fn sessions(&self) -> usize {
        self.child.as_ref().map_or(0, |listener| self.sessions_of(listener.id()).len())
    }

    /// The processes below the listener.
    fn sessions_of(&self, pid: u32) -> Vec<u32> {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children: Vec<u32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        children.iter().flat_map(|child| std::iter::once(*child).chain(self.sessions_of(*child))).collect()
    }

    /// Everything sshd logged so far (level VERBOSE).
    pub fn log(&self) -> String {
        self.log.text.lock().unwrap().0.clone()
    }

    /// Waits until sshd has logged `needle`, from its very start on.
    pub fn wait_for_log(&self, needle: &str) {
        assert!(self.log.wait_for(needle, 0, self.starts), "sshd ended without `{needle}`:\n{}", self.log());
    }

    /// The same, for tests that have something else going on in their one thread meanwhile.
    pub async fn wait_for_log_async(&self, needle: &'static str) {
        let (log, start) = (self.log.clone(), self.starts);
        let found = tokio::task::spawn_blocking(move || log.wait_for(needle, 0, start)).await.unwrap();
        assert!(found, "sshd ended without `{needle}`:\n{}", self.log());
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// Holds the keys, `authorized_keys`, `known_hosts` and `sshd_config`; free for the test to use.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The private key that may log in (ed25519, mode 0600, no passphrase).
    pub fn client_key(&self) -> PathBuf {
        self.dir.path().join("id_ed25519")
    }

    /// Holds every host key of this server, under `[127.0.0.1]:port`.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// `type base64` of a host key.
    pub fn host_key(&self, kind: &str) -> String {
        let line = std::fs::read_to_string(self.dir.path().join(format!("host_{kind}.pub"))).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    fn write_known_hosts(&self) {
        let lines: String = self
            .builder
            .host_keys
            .iter()
            .map(|kind| format!("[127.0.0.1]:{} {}\n", self.port.number(), self.host_key(kind)))
            .collect();
        std::fs::write(self.known_hosts(), lines).unwrap();
    }

    /// The directory to write to, as the server names it.
    pub fn base(&self) -> String {
        match self.jail {
            Some(_) => "/upload".into(),
            None => self.dir.path().join("files").display().to_string(),
        }
    }

    /// Where a path of the server lies on this machine.
    pub fn local(&self, remote: &str) -> PathBuf {
        match (&self.jail, &self.child) {
            (Some(jail), _) => jail.path().join(remote.trim_start_matches('/')),
            (None, Some(child)) if self.builder.disk.is_some() => format!("/proc/{}/root{remote}", child.id()).into(),
            (None, _) => remote.into(),
        }
    }

    /// `sftp://user@127.0.0.1:port/base`.
    pub fn url(&self) -> String {
        format!("sftp://{}@127.0.0.1:{}{}", self.user, self.port.number(), self.base())
    }
}

impl Drop for OpenSsh {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A key pair without passphrase at `path` and `path.pub`.
pub fn keygen(path: &Path, kind: &str) {
    let mut command = Command::new("ssh-keygen");
    if kind == "rsa" {
        command.args(["-b", "2048"]);
    }
    run(command.args(["-q", "-N", "", "-C", "test", "-t", kind, "-f"]).arg(path));
}

/// Runs a command that must succeed; gives its standard output.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn signal(process: u32, signal: Signal) {
    // It may have ended by itself.
    let _ = kill_process(pid(process), signal);
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number as i32).expect("a process id")
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// `OpenSSH 9.2p1`.
pub fn version() -> String {
    let output = Command::new(SSHD).arg("-V").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text.split("OpenSSH_").nth(1).unwrap_or_default();
    format!("OpenSSH {}", version.split([' ', ',', '\n']).next().unwrap_or_default())
}

/// `SHA256:…` of a public key's file.
pub fn fingerprint(path: &Path) -> String {
    let shown = run(Command::new("ssh-keygen").arg("-lf").arg(path));
    String::from_utf8_lossy(&shown).split_whitespace().nth(1).unwrap().to_owned()
}

/// OpenSSH 9.8 and later keep clients out for a while whose logins failed, which tests of failing logins do not want.
fn punishes_failed_logins() -> bool {
    let version = version();
    let version = version.trim_start_matches("OpenSSH ");
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(9), Some(8))
}
