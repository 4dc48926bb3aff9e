//! `archiver check` against real servers: what it finds, what it says to do, and that it leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use archiver::embedded::{AnnouncedExtensions, Fault, Operation, Quirks, RenamePolicy, Request, SetstatPolicy};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::Notify;

use crate::support::embedded::Embedded;
use crate::support::env::{Finished, Running, TestEnv, run, tree, wait_until, write};
use crate::support::openssh::{self, OpenSsh, keygen};

/// The probes of a report in JSON.
struct Report {
    finished: Finished,
    json: Value,
}

impl Report {
    #[track_caller]
    fn of(command: &mut Command) -> Self {
        let finished = run(command.args(["--summary", "json"]));
        let json = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", finished.stdout, finished.stderr));
        Self { finished, json }
    }

    #[track_caller]
    fn probe(&self, name: &str) -> &Value {
        let probes = self.json["probes"].as_array().unwrap();
        let mut named = probes.iter().filter(|probe| probe["probe"] == name);
        let found = named.next().unwrap_or_else(|| panic!("no probe {name} in {:#}", self.json));
        assert!(named.next().is_none(), "two probes {name}");
        found
    }

    /// Asserts the verdict, and that detail or hint contain each text.
    #[track_caller]
    fn assert(&self, name: &str, verdict: &str, texts: &[&str]) -> &Self {
        let probe = self.probe(name);
        let said = format!("{} {}", probe["detail"], probe["hint"]);
        assert_eq!(probe["verdict"], verdict, "{name}: {said}\n{:#}", self.json);
        for text in texts {
            assert!(said.contains(text), "{name} does not say {text:?}: {said}");
        }
        self
    }

    /// All probes but these are OK.
    #[track_caller]
    fn assert_ok_but(&self, names: &[&str]) -> &Self {
        for probe in self.json["probes"].as_array().unwrap() {
            let name = probe["probe"].as_str().unwrap();
            assert!(probe["verdict"] == "ok" || names.contains(&name), "{probe:#}");
        }
        self
    }

    #[track_caller]
    fn assert_code(&self, code: i32) -> &Self {
        self.finished.assert_code(code);
        self
    }
}

fn check(env: &TestEnv, url: &str) -> Command {
    env.archiver(["check", "--to", url])
}

/// With the key and the known hosts of a real server.
fn check_openssh(env: &TestEnv, server: &OpenSsh, url: &str) -> Command {
    let mut command = check(env, url);
    command.arg("--identity").arg(server.client_key()).arg("--known-hosts").arg(server.known_hosts());
    command
}

#[track_caller]
fn assert_empty(directory: &Path) {
    let left = tree(directory);
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_plain_openssh_server_passes_every_probe() {
    let env = TestEnv::new();
    let server = OpenSsh::plain();
    write(&env.local(), "a.csv", "1");
    let mut command = check_openssh(&env, &server, &server.url());
    command.arg("--source").arg(format!("name=reports,path={},after=delete", env.local().display()));
    let report = Report::of(&mut command);
    report.assert_code(0).assert_ok_but(&[]);
    report
        .assert("config", "ok", &["1 source", &server.url()])
        .assert("source", "ok", &["reports", "delete"])
        .assert("ledger", "ok", &["does not exist yet"])
        .assert("dns", "ok", &["127.0.0.1"])
        .assert("host key", "ok", &["ssh-ed25519 SHA256:", "known_hosts line 1"])
        .assert("authentication", "ok", &["publickey", "id_ed25519"])
        .assert("sftp", "ok", &["version 3", "OpenSSH_", "posix-rename, hardlink, fsync, statvfs"])
        .assert("write", "ok", &["the same came back"])
        .assert("rename", "ok", &["refuses"])
        .assert("sessions", "ok", &["4 of 4"])
        .assert("folder", "ok", &[&server.base(), "UTC"]);
    assert_eq!(report.json["verdict"], "ok");
    assert_eq!(report.finished.stderr, "");
    assert_empty(&server.local(&server.base()));
    assert!(!env.home().join(".local").exists(), "the ledger was made");
}

#[test]
fn people_get_aligned_lines_without_colours_in_a_pipe() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let finished = run(&mut check(&env, &server.url("/")));
    finished.assert_code(0);
    assert!(!finished.stdout.contains('\x1b'));
    for line in finished.stdout.lines().take_while(|line| !line.is_empty()) {
        assert!(line.starts_with("OK    ") && line.contains(" ms  "), "{line}");
    }
    assert!(finished.stdout.contains(" ok · 0 warn · 0 fail · 0 skipped in "), "{}", finished.stdout);
    assert_empty(&env.remote());
}

#[test]
fn a_report_can_go_to_a_file() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let file = env.path().join("report.csv");
    let finished = run(check(&env, &server.url("/")).args(["--summary", "csv", "--summary-file"]).arg(&file));
    finished.assert_code(0);
    assert_eq!(finished.stdout, "");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.starts_with("destination,probe,verdict,detail,hint,seconds\n"), "{text}");
}

#[test]
fn a_chroot_is_explained_with_the_directory_to_use() {
    let Some(builder) = OpenSsh::builder().chrooted() else { return };
    let env = TestEnv::new();
    let server = builder.start();
    let root = server.url().replace("/upload", "/");
    let report = Report::of(&mut check_openssh(&env, &server, &root));
    report
        .assert_code(3)
        .assert("base", "fail", &["chroot", "writable here: /upload", &format!("--to {}", server.url())])
        .assert("mkdir", "fail", &["permission denied"])
        .assert("write", "skip", &[])
        .assert("sessions", "ok", &[]);
    assert_empty(&server.local("/upload"));
    assert_eq!(tree(&server.local("/")).len(), 1);

    // A base that would have to be made in the root is explained the same way.
    let report = Report::of(&mut check_openssh(&env, &server, &format!("{root}data/in")));
    report.assert_code(3).assert("base", "fail", &["/data/in does not exist and cannot be created", "/upload"]);

    let report = Report::of(&mut check_openssh(&env, &server, &server.url()));
    report.assert_code(0).assert_ok_but(&[]);
    assert_empty(&server.local("/upload"));
}

#[test]
fn a_base_that_nobody_may_write_to_is_named() {
    let Some(builder) = OpenSsh::builder().chrooted() else { return };
    let env = TestEnv::new();
    let server = builder.start();
    let fixed = server.local("/upload/fixed");
    std::fs::create_dir(&fixed).unwrap();
    // Owned by root, and the user of the chroot is not.
    std::fs::set_permissions(&fixed, std::fs::Permissions::from_mode(0o755)).unwrap();
    let report = Report::of(&mut check_openssh(&env, &server, &format!("{}/fixed", server.url())));
    report.assert_code(3).assert("base", "fail", &["/upload/fixed is not writable", "chown"]).assert(
        "mkdir",
        "fail",
        &[],
    );
    assert_eq!(tree(&server.local("/upload")).len(), 1);
}

#[test]
fn a_missing_base_is_proved_to_be_makeable() {
    let env = TestEnv::new();
    let server = OpenSsh::plain();
    let report = Report::of(&mut check_openssh(&env, &server, &format!("{}/in/box", server.url())));
    report.assert_code(0).assert_ok_but(&["base"]).assert("base", "warn", &["does not exist; push will create it"]);
    assert_eq!(report.json["verdict"], "warn");
    assert_empty(&server.local(&server.base()));
}

#[test]
fn a_base_that_is_a_file_is_refused() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(&env.remote(), "upload", "a file");
    for path in ["/upload", "/upload/below"] {
        let report = Report::of(&mut check(&env, &server.url(path)));
        report.assert_code(3).assert("base", "fail", &["not a directory"]).assert("mkdir", "skip", &[]);
    }
    assert_eq!(tree(&env.remote()).len(), 1);
}

#[test]
fn a_base_below_the_login_directory_works() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for path in ["/~", "/~/", "/"] {
        Report::of(&mut check(&env, &server.url(path))).assert_code(0).assert_ok_but(&[]);
    }
    let report = Report::of(&mut check(&env, &server.url("/~/in")));
    report.assert_code(0).assert("base", "warn", &["push will create it in ."]);
    assert_empty(&env.remote());
}

#[test]
fn an_unknown_host_key_comes_with_the_commands_to_add_it() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    std::fs::remove_file(env.home().join(".ssh/known_hosts")).unwrap();
    let report = Report::of(&mut check(&env, &server.url("/")));
    let scan = format!("ssh-keyscan -t ed25519 -p {} 127.0.0.1 >> ", server.address().port());
    let pin = format!("--host-key {}", server.fingerprint());
    report.assert_code(3).assert("host key", "fail", &["not known", &scan, &pin]);
    for skipped in ["authentication", "sftp", "base", "folder"] {
        report.assert(skipped, "skip", &["no trusted connection"]);
    }
    // What it says is what works.
    let pinned = ["--host-key", server.fingerprint()];
    Report::of(check(&env, &server.url("/")).args(pinned)).assert_code(0).assert("host key", "ok", &["pinned"]);
    assert_empty(&env.remote());
}

#[test]
fn a_changed_host_key_names_file_and_line() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let known_hosts = env.home().join(".ssh/known_hosts");
    let other = env.path().join("other");
    keygen(&other, "ed25519");
    let key = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    let line = format!("# moved\n[127.0.0.1]:{} {key}", server.address().port());
    std::fs::write(&known_hosts, line).unwrap();
    let report = Report::of(&mut check(&env, &server.url("/")));
    let place = format!("{} line 2", known_hosts.display());
    report.assert_code(3).assert("host key", "fail", &[&place, "ssh-keygen -R"]);
}

#[test]
fn a_wrong_key_is_told_what_the_server_offers() {
    let env = TestEnv::new();
    let server = OpenSsh::plain();
    let key = env.path().join("stranger");
    keygen(&key, "ed25519");
    let mut command = check(&env, &server.url());
    command.arg("--identity").arg(&key).arg("--known-hosts").arg(server.known_hosts());
    let report = Report::of(&mut command);
    report
        .assert_code(3)
        .assert("host key", "ok", &[])
        .assert("authentication", "fail", &["the server offers: publickey", "stranger", "authorized_keys"])
        .assert("sftp", "skip", &["not logged in"]);
}

#[test]
fn a_password_is_never_shown() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    std::fs::remove_file(env.home().join(".ssh/id_ed25519")).unwrap();
    for (password, code) in [("not this one either", 3), (crate::support::embedded::PASSWORD, 0)] {
        let mut command = check(&env, &server.url("/"));
        let report = Report::of(command.env("ARCHIVER_PASSWORD", password).arg("-vvv"));
        report.assert_code(code);
        assert!(!report.finished.stdout.contains(password) && !report.finished.stderr.contains(password));
    }
    assert_empty(&env.remote());
}

#[test]
fn nothing_listens_or_nothing_has_the_name() {
    let env = TestEnv::new();
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let report = Report::of(&mut check(&env, &format!("sftp://pine@127.0.0.1:{port}/upload")));
    report.assert_code(3).assert("dns", "ok", &[]).assert("tcp", "fail", &["refused", "firewall"]).assert(
        "host key",
        "skip",
        &["no connection"],
    );
    let report = Report::of(&mut check(&env, "sftp://pine@no-such-host.invalid/upload"));
    report.assert_code(3).assert("dns", "fail", &["no-such-host.invalid", "DNS"]).assert("tcp", "skip", &[]);
}

#[test]
fn a_server_of_another_protocol_is_recognised() {
    let env = TestEnv::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail.example.org ESMTP\x1b[2J\r\n").unwrap();
        drop(stream);
    });
    let report = Report::of(&mut check(&env, &format!("sftp://pine@127.0.0.1:{port}/upload")));
    report.assert_code(3).assert("host key", "fail", &["ESMTP"]);
    assert!(!report.finished.stdout.contains('\x1b'));
    server.join().unwrap();
}

#[test]
fn quirks_of_servers_are_explained() {
    let overwrites = Quirks { rename: RenamePolicy::Overwrites, ..Quirks::default() };
    let cannot_rename = Quirks { rename: RenamePolicy::Unsupported, ..Quirks::default() };
    let no_setstat = Quirks { setstat: SetstatPolicy::Refused, ..Quirks::default() };
    let bare = Quirks { extensions: AnnouncedExtensions::None, rename: RenamePolicy::Overwrites, ..Quirks::default() };
    let full = Quirks { quota: Some(0), ..Quirks::default() };
    let probed = |quirks| {
        let env = TestEnv::new();
        let server = Embedded::with_quirks(&env, quirks);
        let report = Report::of(&mut check(&env, &server.url("/")));
        assert_empty(&env.remote());
        report
    };
    let report = probed(overwrites);
    report.assert_code(0).assert_ok_but(&["rename"]).assert("rename", "warn", &["overwrites", "hard link"]);
    let report = probed(cannot_rename.clone());
    report.assert_code(3).assert("rename", "fail", &["unsupported", "publish = \\\"direct\\\""]);
    let report = probed(no_setstat);
    report.assert_code(0).assert_ok_but(&["setstat"]).assert("setstat", "warn", &["refused"]);
    let report = probed(bare);
    report
        .assert_code(0)
        .assert("sftp", "ok", &["without posix-rename, hardlink, fsync, statvfs, limits"])
        .assert("limits", "ok", &["32768", "assumed"])
        .assert("rename", "warn", &["looks before it renames"])
        .assert("space", "skip", &["statvfs"]);
    let report = probed(full);
    report
        .assert_code(3)
        .assert("write", "fail", &["no space left", "quota"])
        .assert("rename", "skip", &[])
        .assert("delete", "ok", &[])
        .assert("space", "warn", &["0 B"]);

    let env = TestEnv::new();
    let server = Embedded::with_quirks(&env, cannot_rename);
    let report = Report::of(check(&env, &server.url("/")).args(["--publish", "direct"]));
    report.assert_code(0).assert("rename", "ok", &["not needed"]);
    assert_empty(&env.remote());
}

#[test]
fn missing_fsync_matters_where_the_local_copy_goes() {
    let env = TestEnv::new();
    let server = Embedded::with_quirks(&env, Quirks { extensions: AnnouncedExtensions::None, ..Quirks::default() });
    let source = format!("path={},after=delete", env.local().display());
    let report = Report::of(check(&env, &server.url("/")).args(["--source", &source]));
    report.assert_code(0).assert("sftp", "warn", &["--fsync never"]);
}

#[test]
fn fewer_connections_than_asked_for_are_counted() {
    let env = TestEnv::new();
    // As MaxStartups, of which sshd takes the last line, not the first.
    let server = OpenSsh::builder().option("PerSourceMaxStartups 1").start();
    let report = Report::of(check_openssh(&env, &server, &server.url()).args(["--connections", "12"]));
    report.assert_code(0).assert("sessions", "warn", &["of 12", "MaxStartups"]);
    assert_empty(&server.local(&server.base()));
}

/// Every request of this kind ends that way.
fn with_fault(operation: Operation, fault: Fault) -> (TestEnv, Embedded) {
    let env = TestEnv::new();
    let server = Embedded::with_faults(
        &env,
        move |request: &Request| {
            if request.operation == operation { fault.clone() } else { Fault::None }
        },
    );
    (env, server)
}

#[test]
fn a_connection_that_breaks_in_the_middle_leaves_nothing_behind() {
    for operation in [
        Operation::Mkdir,
        Operation::Write,
        Operation::Read,
        Operation::Fsetstat,
        Operation::Rename,
        Operation::Statvfs,
    ] {
        let (env, server) = with_fault(operation, Fault::DropConnection);
        Report::of(&mut check(&env, &server.url("/"))).assert_code(3);
        assert_empty(&env.remote());
    }
}

#[test]
fn a_server_that_falls_silent_does_not_hang_it() {
    let (env, server) = with_fault(Operation::Rename, Fault::ReplyLost);
    let mut command = check(&env, &server.url("/"));
    let report = Report::of(command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", "1s"));
    report.assert_code(3).assert("rename", "fail", &["no answer"]).assert("delete", "skip", &["session was lost"]);
    assert_empty(&env.remote());
}

/// Nothing can be made here, so it looks around; and the server lists the same entries for ever.
#[test]
fn a_listing_without_end_is_left() {
    for name in [".", "x"] {
        let env = TestEnv::new();
        let asked = Arc::<AtomicUsize>::default();
        let faults = {
            let asked = asked.clone();
            move |request: &Request| match request.operation {
                Operation::Mkdir | Operation::Open => Fault::Raw(request.status(3)),
                Operation::Readdir => {
                    asked.fetch_add(1, Ordering::SeqCst);
                    // One name, which is its own long name, without attributes.
                    let string = [&1u32.to_be_bytes()[..], name.as_bytes()].concat();
                    Fault::Raw(request.reply(104, &[&1u32.to_be_bytes()[..], &string, &string, &[0; 4]].concat()))
                }
                _ => Fault::None,
            }
        };
        let server = Embedded::with_faults(&env, faults);
        Report::of(&mut check(&env, &server.url("/"))).assert_code(3);
        let asked = asked.load(Ordering::SeqCst);
        assert!((1..200).contains(&asked), "{asked} times");
    }
}

#[test]
fn what_cannot_be_deleted_is_named() {
    use russh_sftp::protocol::StatusCode;
    let (env, server) = with_fault(Operation::Remove, Fault::Status(StatusCode::PermissionDenied));
    let report = Report::of(&mut check(&env, &server.url("/")));
    report.assert_code(3).assert("delete", "fail", &["permission denied"]).assert(
        "cleanup",
        "fail",
        &["left behind: /.archiver-check-"],
    );
}

#[test]
fn a_server_that_lies_about_what_it_wrote_is_found_out() {
    let (env, server) = with_fault(Operation::Write, Fault::Pretend);
    Report::of(&mut check(&env, &server.url("/"))).assert_code(3).assert("write", "fail", &["another size"]);
    assert_empty(&env.remote());
}

#[test]
fn a_time_that_is_not_kept_is_noticed() {
    let (env, server) = with_fault(Operation::Fsetstat, Fault::Pretend);
    let report = Report::of(&mut check(&env, &server.url("/")));
    report.assert_code(0).assert("setstat", "warn", &["not kept"]);
    assert_empty(&env.remote());
}

#[test]
fn an_interrupt_cleans_up() {
    for signal in [Signal::INT, Signal::TERM] {
        let release = Arc::new(Notify::new());
        let (env, server) = with_fault(Operation::Rename, Fault::Hold(release));
        let running = Running::start(&mut check(&env, &server.url("/")));
        wait_until("something stands on the server", || tree(&env.remote()).len() == 2);
        running.signal(signal);
        let finished = running.finish();
        finished.assert_code(4);
        assert!(finished.stdout.contains("SKIP  ") && finished.stdout.contains("interrupted"), "{}", finished.stdout);
        assert_empty(&env.remote());
        drop(server);
    }
}

#[test]
fn every_destination_is_checked() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(&env.local(), "a", "");
    let file = write(
        env.path(),
        "archiver.toml",
        format!(
            "[destination]\nurl = \"{}\"\n[[source]]\nname = \"a\"\npaths = [\"{local}\"]\n[[source]]\nname = \"b\"\n\
             paths = [\"{local}\"]\ndestination.url = \"{}\"\n",
            server.url("/one"),
            server.url("/two"),
            local = env.local().display()
        ),
    );
    let finished = run(&mut env.archiver(["check"]));
    finished.assert_code(0);
    assert!(finished.stdout.contains(&file.file_name().unwrap().to_string_lossy().into_owned()), "{}", finished.stdout);
    for path in ["/one", "/two"] {
        assert!(finished.stdout.contains(&format!("\n{}\n", server.url(path))), "{}", finished.stdout);
    }
    assert_empty(&env.remote());
}

#[test]
fn local_mistakes_are_usage() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let sources = |spec: String| Report::of(check(&env, &server.url("/")).args(["--source", &spec]));
    sources("path=/no/such/directory".into()).assert_code(2).assert("source", "fail", &["cannot be read", "create it"]);
    sources("path=/dev/null".into()).assert_code(2).assert("source", "fail", &["neither a directory"]);
    let file = write(env.path(), "file", "");
    let moved = format!("path={},after=move={}/below", env.local().display(), file.display());
    sources(moved).assert_code(2).assert("source", "fail", &["cannot be moved"]);

    let ledger =
        write(env.path(), "notes.txt", "this is no database, but it is long enough to be looked at as one".repeat(9));
    let report = Report::of(check(&env, &server.url("/")).arg("--ledger").arg(&ledger));
    report.assert_code(2).assert("ledger", "fail", &["no SQLite database"]);
    let report = Report::of(check(&env, &server.url("/")).args(["--password-file", "/no/such/file"]));
    report.assert_code(2).assert("ssh", "fail", &["--password-file"]);

    // Mistakes in the settings themselves end it before any probe.
    let finished = run(&mut env.archiver(["check"]));
    finished.assert_code(2);
    assert!(finished.stderr.contains("no destination") && finished.stdout.is_empty(), "{}", finished.stderr);
    assert_empty(&env.remote());
}

#[test]
fn unreadable_sources_are_found_without_root() {
    if openssh::is_root() {
        eprintln!("SKIPPED: root may read everything");
        return;
    }
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let spec = format!("path={},after=delete", env.local().display());
    for (mode, text) in [(0o000, "cannot be read"), (0o555, "cannot be deleted")] {
        std::fs::set_permissions(env.local(), std::fs::Permissions::from_mode(mode)).unwrap();
        let report = Report::of(check(&env, &server.url("/")).args(["--source", &spec]));
        report.assert_code(2).assert("source", "fail", &[text]);
    }
    std::fs::set_permissions(env.local(), std::fs::Permissions::from_mode(0o755)).unwrap();
}
