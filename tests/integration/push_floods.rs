//! Servers that send messages without an end, which SSH lets them send at any time.

use std::time::Instant;

use super::Bench;
use crate::support::daemon::Program;
use crate::support::env::{DEADLINE, Running, TestEnv, files, peak_memory, write};
use crate::support::openssh::keygen;

const MOST_MEMORY_KIB: u64 = 128 << 10;

/// As AsyncSSH lets a server be: it floods from the login on, or from when the client is in.
const SERVER: &str = r#"
import asyncio, sys, warnings
warnings.simplefilter("ignore")
import asyncssh
from asyncssh.packet import Boolean, String

kind, phase, key = sys.argv[1:]
MESSAGES = {
    "banner": (53, String("hear, hear\x1b[2J\r\n" * 50), String("")),
    "ignore": (2, String(b"x" * 1000)),
    "debug": (4, Boolean(True), String("hear, hear\x1b[2J\r\n" * 50), String("")),
    # With nobody to read the answers.
    "deaf": (80, String("flood@example.org"), Boolean(True)),
    "global": (80, String("flood@example.org"), Boolean(True)),
    "keepalive": (80, String("keepalive@openssh.com"), Boolean(True)),
}

# It does not mind how the client takes it.
for answer in (81, 82):
    asyncssh.connection.SSHConnection._packet_handlers[answer] = lambda *_: True

class Server(asyncssh.SSHServer):
    def connection_made(self, connection):
        self.connection = connection
    async def flood(self):
        # Let the library's own reply out first.
        await asyncio.sleep(0)
        send, message = asyncssh.connection.SSHConnection.send_packet, MESSAGES[kind]
        transport = self.connection._transport
        if kind == "deaf":
            transport.pause_reading()
        while not transport.is_closing():
            while transport.get_write_buffer_size() > 1 << 16:
                await asyncio.sleep(0.001)
            # What it would defer until the login is over goes out all the same.
            before, self.connection._auth_complete = self.connection._auth_complete, True
            for _ in range(20):
                send(self.connection, *message)
            self.connection._auth_complete = before
            await asyncio.sleep(0)
    def begin_auth(self, user):
        if phase == "login":
            print("flooding", file=sys.stderr, flush=True)
            asyncio.ensure_future(self.flood())
            return asyncio.sleep(3600, True)
        return phase != "in"
    def auth_completed(self):
        print("flooding", file=sys.stderr, flush=True)
        asyncio.ensure_future(self.flood())
    def session_requested(self):
        return asyncio.sleep(3600, False)

async def main():
    server = await asyncssh.listen("127.0.0.1", 0, server_factory=Server, server_host_keys=[key])
    print(f"listening on port {server.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
    await server.wait_closed()

asyncio.run(main())
"#;

#[track_caller]
fn flood(kind: &str, phase: &str) {
    let env = TestEnv::new();
    let key = env.path().join("host");
    keygen(&key, "ed25519");
    let script = write(env.path(), "server.py", SERVER);
    let mut server = Running::start(env.command("/usr/bin/python3").arg(script).args([kind, phase]).arg(&key));
    let port = server.expect_line("listening on port").split(' ').next_back().unwrap().to_owned();
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    write(&env.home(), ".ssh/known_hosts", format!("[127.0.0.1]:{port} {public}"));
    write(&env.local(), "a", "a");
    write(&env.home(), "password", "secret");
    let base = env.remote();
    let bench = Bench::of(env, format!("sftp://u@127.0.0.1:{port}/x"), base);
    let mut command = bench.push([bench.env.local()]);
    command.args(["--retries", "2", "--after", "delete", "--password-file"]).arg(bench.env.home().join("password"));
    command.env("ARCHIVER_POOL__CONNECT_TIMEOUT", "2s");
    let begin = Instant::now();
    let running = Running::start(&mut command);
    let memory = peak_memory(running.pid());
    let finished = running.finish();
    let (memory, what) = (memory.join().unwrap(), format!("{kind} from {phase} on"));
    println!("{what}: {:?}, {memory} KiB: {}", begin.elapsed(), finished.stderr);
    finished.assert_code(3);
    assert!(begin.elapsed() < DEADLINE && memory < MOST_MEMORY_KIB, "{what}: {:?}, {memory} KiB", begin.elapsed());
    server.expect_line("flooding");
    assert!(finished.stderr.contains("error: ") && finished.stderr.contains(&port), "{what}: {}", finished.stderr);
    let meant = ["no login within", "no answer within", "connection was lost"];
    assert!(meant.iter().any(|meant| finished.stderr.contains(meant)), "{what}: {}", finished.stderr);
    assert!(finished.stderr.len() < 20_000, "{what}: {} bytes of errors", finished.stderr.len());
    assert!(!finished.stderr.contains(['\x1b']) && !finished.stderr.contains("secret"), "{what}: {}", finished.stderr);
    assert_eq!(files(&bench.env.local()).len(), 1, "{what}");
}

#[test]
fn messages_without_end_before_the_login_are_left() {
    if Program::AsyncSsh.is_installed() {
        ["banner", "ignore", "debug", "global", "keepalive"].into_iter().for_each(|kind| flood(kind, "login"));
    }
}

#[test]
fn messages_without_end_behind_the_login_are_left() {
    if Program::AsyncSsh.is_installed() {
        ["banner", "ignore", "debug", "global", "keepalive", "deaf"].into_iter().for_each(|kind| flood(kind, "in"));
    }
}
