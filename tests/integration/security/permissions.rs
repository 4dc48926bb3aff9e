//! Who may read and change what the archiver writes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use archiver::embedded::{Fault, Operation, Request};

use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, run, wait_until, write};
use crate::support::openssh::is_root;

fn with_umask(command: &mut Command, mask: libc::mode_t) {
    // SAFETY: between fork and exec, one system call that cannot fail.
    unsafe {
        command.pre_exec(move || {
            libc::umask(mask);
            Ok(())
        });
    }
}

/// Modes of everything below a directory.
fn modes(root: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            found.push((entry.path().display().to_string(), metadata.mode() & 0o7777));
            if metadata.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn the_ledger_is_this_users_alone_whatever_the_umask() {
    for mask in [0, 0o077, 0o027] {
        let env = TestEnv::new();
        write(&env.local(), "a", "a");
        let (release, open) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (held, opened) = (release.clone(), open.clone());
        let server = Embedded::with_faults(&env, move |request: &Request| match request.operation {
            Operation::Rename | Operation::Hardlink if !opened.load(Ordering::SeqCst) => Fault::Hold(held.clone()),
            _ => Fault::None,
        });
        let state = env.home().join("state");
        let ledger = state.join("deep/ledger.db");
        let mut push = env.archiver(["push", "--to", &server.url("/"), "--ledger"]);
        push.arg(&ledger).arg(env.local()).args(["--after", &format!("move={}/moved", env.path().display())]);
        with_umask(&mut push, mask);
        let running = Running::start(&mut push);
        // Write-ahead log, its index, lock and rows: all of them stand while it works.
        wait_until("its files stand", || modes(&state).len() >= 7);
        let found = modes(&state);
        for (path, mode) in &found {
            let wanted = if Path::new(path).is_dir() { 0o700 } else { 0o600 };
            assert_eq!(*mode, wanted, "{path} with umask {mask:o}");
        }
        // The one that is held; those after it are not.
        open.store(true, Ordering::SeqCst);
        release.notify_one();
        let finished = running.finish();
        finished.assert_code(0);
        // A moved file keeps its own mode; its directories are the user's to choose, by the umask.
        assert_eq!(fs::metadata(env.path().join("moved")).unwrap().mode() & 0o777, 0o777 & !mask);
        eprintln!("umask {mask:03o}: {} names", found.len());
    }
}

fn push(env: &TestEnv, server: &Embedded, ledger: &Path) -> Command {
    let mut push = env.archiver(["push", "--after", "delete", "--to", &server.url("/"), "--ledger"]);
    push.arg(ledger).arg(env.local());
    push
}

/// Who writes the ledger decides what counts as archived, and with `--after delete` what is lost.
#[test]
fn a_ledger_of_somebody_else_is_refused() {
    if !is_root() {
        return eprintln!("SKIPPED: giving a file away needs root");
    }
    type Plant = fn(&Path);
    let plants: [Plant; 4] = [
        |ledger| {
            fs::write(ledger, "").unwrap();
            chown(ledger, Some(65534), None).unwrap();
        },
        // A link, planted where everybody may write.
        |ledger| {
            let target = ledger.with_file_name("target");
            fs::write(&target, "").unwrap();
            symlink(&target, ledger).unwrap();
            std::os::unix::fs::lchown(ledger, Some(65534), None).unwrap();
        },
        |ledger| {
            symlink("/nowhere/at/all", ledger).unwrap();
            std::os::unix::fs::lchown(ledger, Some(65534), None).unwrap();
        },
        |ledger| {
            let owners = ledger.with_file_name("ledger.db.owners");
            fs::create_dir(&owners).unwrap();
            chown(&owners, Some(65534), None).unwrap();
        },
    ];
    for plant in plants {
        let env = TestEnv::new();
        write(&env.local(), "a", "a");
        let server = Embedded::start(&env);
        let ledger = env.path().join("ledger.db");
        plant(&ledger);
        for dry in [&[][..], &["--dry-run"]] {
            let finished = run(push(&env, &server, &ledger).args(dry));
            finished.assert_code(2);
            assert!(finished.stderr.contains("belongs to another user (number 65534)"), "{}", finished.stderr);
        }
        assert!(env.local().join("a").exists());
    }
}

#[test]
fn a_directory_that_all_may_write_to_is_warned_of() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for (mode, warned) in [(0o777, true), (0o1777, false), (0o770, false), (0o755, false)] {
        let directory = env.path().join(format!("{mode:o}"));
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        write(&env.local(), "a", "a");
        let finished = run(&mut push(&env, &server, &directory.join("ledger.db")));
        finished.assert_code(0);
        assert_eq!(finished.stderr.contains("everybody may write"), warned, "{mode:o}: {}", finished.stderr);
    }
}

/// A link of the user's own to another disk is no stranger's.
#[test]
fn a_ledger_may_be_a_link_of_this_user() {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let server = Embedded::start(&env);
    fs::create_dir(env.path().join("disk")).unwrap();
    fs::write(env.path().join("disk/ledger.db"), "").unwrap();
    symlink("disk/ledger.db", env.path().join("ledger.db")).unwrap();
    run(&mut push(&env, &server, &env.path().join("ledger.db"))).assert_code(0);
}

/// The temporary name of a summary can be guessed; what somebody laid there is not written through.
#[test]
fn a_summary_is_not_written_through_a_planted_link() {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let server = Embedded::start(&env);
    let victim = write(env.path(), "victim", "precious");
    let summary = env.path().join("out/summary.json");
    fs::create_dir(env.path().join("out")).unwrap();
    let mut push = env.archiver(["push", "--to", &server.url("/"), "--summary", "json", "--summary-file"]);
    push.arg(&summary).arg(env.local());
    let (directory, target) = (env.path().join("out"), victim.clone());
    // SAFETY: the child has one thread, and its memory is a copy of ours; the paths were made before the fork.
    unsafe {
        push.pre_exec(move || {
            let name = format!(".summary.json.{}.tmp", std::process::id());
            symlink(&target, directory.join(name))
        });
    }
    run(&mut push).assert_code(0);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(fs::read_to_string(&summary).unwrap().contains("archived"));
}
