//! Who we are and who they are: a key, a password, and host keys of each type under `strict`.

use super::{Expected, Running, Site};
use crate::push::Pushed;
use crate::support::embedded::{PASSWORD, USER};
use crate::support::env::write;

pub fn key_password_and_host_keys(expected: &'static Expected) {
    // OpenSSH's and the embedded one's are tried by `session` and `push_login`.
    if !matches!(expected.start, super::Start::Daemon(_)) {
        return;
    }
    let Some(site) = Site::start(expected) else { return };
    let Running::Daemon(server) = &site.server else { unreachable!() };
    let env = &site.bench.env;
    assert!(site.bench.to().contains(USER));
    let right = write(&env.home(), "right", format!("{PASSWORD}\n"));
    let wrong = write(&env.home(), "wrong", "something else\n");
    for (number, kind) in ["ed25519", "ecdsa", "rsa"].into_iter().enumerate() {
        // Only this one is known: it has to be asked for.
        write(&env.home(), ".ssh/known_hosts", server.known_hosts(site.address, &[kind]));
        write(&env.local(), format!("{kind}.csv"), kind);
        let mut command = site.push();
        command.args(["--host-key", "strict"]);
        if number > 0 {
            command.arg("--password-file").arg(&right);
        }
        Pushed::run(&mut command).expect(0).assert_counts([1, number as u64, 0, 0]);
    }
    site.bench.assert_same_files();
    write(&env.local(), "more.csv", "more");
    std::fs::remove_file(env.home().join(".ssh/id_ed25519")).unwrap();
    Pushed::run(site.push().arg("--password-file").arg(&right)).expect(0).assert_counts([1, 3, 0, 0]);
    write(&env.local(), "secret.csv", "secret");
    let refused = Pushed::run(site.push().args(["-v", "--password-file"]).arg(&wrong)).expect(3);
    assert!(!refused.finished.stderr.contains("something else"));
    // Another server's key where this one's should be.
    let other = server.known_hosts(site.address, &["ecdsa"]);
    let blob = other.split_whitespace().nth(2).unwrap().replace('A', "B");
    write(&env.home(), ".ssh/known_hosts", other.replace(other.split_whitespace().nth(2).unwrap(), &blob));
    Pushed::run(site.push().arg("--password-file").arg(&right)).expect(3);
    write(&env.home(), ".ssh/known_hosts", "");
    Pushed::run(site.push().arg("--password-file").arg(&right)).expect(3).says(&["host key"]);
    assert!(!site.bench.base.join("in/secret.csv").exists());
}
