//! A Redis server of a test's own: a process with a socket and data in its own directory, gone when dropped. It takes
//! no part in what else runs on the machine.
//!
//! Ready means that the server said so; nothing sleeps. Unit tests of the ledger use this file, too.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub struct Redis {
    directory: TempDir,
    arguments: Vec<String>,
    /// `None` while it is stopped.
    child: Option<Child>,
}

impl Redis {
    /// One that listens on a socket only, and has each change on its disk before it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with other settings, as `redis-server` takes them on its command line.
    pub fn start_with(arguments: &[&str]) -> Self {
        // Not below the test's directory: a socket's path must be short.
        let directory = tempfile::Builder::new().prefix("archiver-redis-").tempdir().unwrap();
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut redis = Self { directory, arguments, child: None };
        redis.go();
        redis
    }

    fn go(&mut self) {
        let data = self.directory.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            "0",
            "--daemonize",
            "no",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--enable-debug-command",
            "local",
        ]);
        command.arg("--dir").arg(&data).arg("--unixsocket").arg(self.socket()).args(&self.arguments);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let started = command.spawn();
        let mut child = started.expect("redis-server is missing; scripts/test installs it (Debian: redis-server)");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = String::new();
        loop {
            let line = lines.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("redis-server ended before it was ready:\n{said}"));
            said += &line;
            said.push('\n');
            // As versions before and since 7.2 say it.
            if line.contains("ready to accept connections at") || line.contains("Ready to accept connections unix") {
                break;
            }
        }
        // Or it would stop once the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// As `--ledger` takes it.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// What `redis-cli` prints for a command.
    pub fn cli(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.socket()).args(command).output();
        let output = output.expect("redis-cli is missing; scripts/test installs it (Debian: redis-tools)");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again with what is on its disk.
    pub fn restart(&mut self) {
        self.kill();
        self.go();
    }

    /// Starts it again with nothing.
    pub fn restart_empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
        self.go();
    }

    /// Stops and continues it: it hangs, and its connections stay.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
