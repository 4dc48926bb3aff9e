//! SSH connections and SFTP sessions against OpenSSH's own server.

use crate::support::openssh::OpenSsh;
use std::process::Command;

#[test]
fn server_comes_up_serves_and_comes_back() {
    for mut server in [Some(OpenSsh::plain()), OpenSsh::builder().chrooted().map(|b| b.start())].into_iter().flatten() {
        for _ in 0..2 {
            let out = Command::new("sftp")
                .args(["-q", "-b", "/dev/stdin", "-F", "none", "-o"])
                .arg(format!("UserKnownHostsFile={}", server.known_hosts().display()))
                .arg("-i")
                .arg(server.client_key())
                .arg("-P")
                .arg(server.port().to_string())
                .arg(format!("{}@127.0.0.1:{}", server.user(), server.base()))
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            assert!(out.status.success(), "{} {}", String::from_utf8_lossy(&out.stderr), server.log());
            server.restart();
        }
    }
}
