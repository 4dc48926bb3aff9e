//! The competitors: each is one line of shell, which the report shows as it is run.
//!
//! Every peer runs with the best that its documentation offers for this work: the fast cipher for all that go through
//! `ssh` (archiver finds it by itself), rclone without its hash check, which asks the server's shell for every file,
//! and with larger packets, lftp as it is and with more packets in flight, which its documentation suggests for slow
//! links, scp with its older protocol too.

use std::process::Command;

use crate::site::Binary;

/// One competitor of a race.
#[derive(Debug, Clone, Copy)]
pub struct Racer {
    pub name: &'static str,
    /// With `$SRC`, `$DST` and `$SSH_CONFIG`; see `site`.
    pub script: &'static str,
    pub lands: Lands,
    pub binary: Binary,
    pub ledger: Ledger,
    /// Programs without which it cannot start.
    pub needs: &'static [&'static str],
    pub pace: Pace,
}

/// Where the files arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lands {
    Directly,
    /// Below a directory that has the source's own name.
    UnderName,
    /// In `%Y/%m/%d`.
    Dated,
    /// Nowhere: nothing can be verified, and the time is the limit of the cipher and the link.
    Nowhere,
}

/// Where the archiver's ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ledger {
    InMemory,
    /// On the disk that the build directory is on, where its commits wait for the disk.
    OnDisk,
    /// On a Redis server of its own, at `$LEDGER`: on loopback, or so many milliseconds away.
    Redis {
        away_ms: Option<u64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Normal,
    /// Takes so long that it runs only once, without a run to warm up.
    Slow,
}

const fn peer(name: &'static str, needs: &'static [&'static str], lands: Lands, script: &'static str) -> Racer {
    Racer { name, script, lands, binary: Binary::Ours, ledger: Ledger::InMemory, needs, pace: Pace::Normal }
}

const fn slow(racer: Racer) -> Racer {
    Racer { pace: Pace::Slow, ..racer }
}

/// Of every race the first; everything else is compared with it.
pub const ARCHIVER: Racer =
    peer("archiver", &[], Lands::Dated, r#"archiver push "$SRC" --to "sftp://bench$DST" -F "$SSH_CONFIG""#);
pub const ARCHIVER_READBACK: Racer = peer(
    "archiver --verify readback",
    &[],
    Lands::Dated,
    r#"archiver push "$SRC" --to "sftp://bench$DST" -F "$SSH_CONFIG" --verify readback"#,
);
pub const ARCHIVER_ON_DISK: Racer = Racer { name: "archiver, ledger on disk", ledger: Ledger::OnDisk, ..ARCHIVER };
pub const ARCHIVER_REDIS: Racer = Racer {
    name: "archiver, Redis",
    script: r#"archiver push "$SRC" --to "sftp://bench$DST" -F "$SSH_CONFIG" --ledger "$LEDGER""#,
    ledger: Ledger::Redis { away_ms: None },
    needs: &["redis-server", "redis-cli"],
    ..ARCHIVER
};
/// What the relay itself costs, which runs on the same cores.
pub const ARCHIVER_REDIS_RELAYED: Racer =
    Racer { name: "archiver, Redis behind the relay", ledger: Ledger::Redis { away_ms: Some(0) }, ..ARCHIVER_REDIS };
pub const ARCHIVER_REDIS_AWAY: Racer =
    Racer { name: "archiver, Redis 1 ms away", ledger: Ledger::Redis { away_ms: Some(1) }, ..ARCHIVER_REDIS };

pub const TAR: Racer = peer(
    "tar",
    &["tar", "ssh"],
    Lands::Directly,
    r#"tar -C "$SRC" -cf - . | ssh -F "$SSH_CONFIG" -c aes128-gcm@openssh.com bench "tar -C '$DST' -xf -""#,
);
pub const RSYNC: Racer = peer(
    "rsync -a",
    &["rsync", "ssh"],
    Lands::Directly,
    r#"rsync -a -e "ssh -F $SSH_CONFIG -c aes128-gcm@openssh.com" "$SRC/" "bench:$DST/""#,
);
pub const LFTP_4: Racer = peer(
    "lftp --parallel=4",
    &["lftp", "ssh"],
    Lands::Directly,
    r#"lftp -c "set sftp:connect-program 'ssh -a -x -F $SSH_CONFIG'; open sftp://bench; mirror -R --parallel=4 '$SRC' '$DST'""#,
);
pub const LFTP_4_TUNED: Racer = peer(
    "lftp --parallel=4, tuned",
    &["lftp", "ssh"],
    Lands::Directly,
    r#"lftp -c "set sftp:connect-program 'ssh -a -x -F $SSH_CONFIG -c aes128-gcm@openssh.com'; set sftp:max-packets-in-flight 64; open sftp://bench; mirror -R --parallel=4 '$SRC' '$DST'""#,
);
pub const LFTP_TUNED: Racer = peer(
    "lftp, tuned",
    &["lftp", "ssh"],
    Lands::Directly,
    r#"lftp -c "set sftp:connect-program 'ssh -a -x -F $SSH_CONFIG -c aes128-gcm@openssh.com'; set sftp:max-packets-in-flight 64; open sftp://bench; mirror -R '$SRC' '$DST'""#,
);
pub const SFTP: Racer = peer(
    "sftp put -r",
    &["sftp"],
    Lands::UnderName,
    r#"sftp -q -F "$SSH_CONFIG" -c aes128-gcm@openssh.com -b - bench <<< "put -r $SRC $DST""#,
);
pub const SFTP_DEFAULT: Racer = peer(
    "sftp put -r, default cipher",
    &["sftp"],
    Lands::UnderName,
    r#"sftp -q -F "$SSH_CONFIG" -b - bench <<< "put -r $SRC $DST""#,
);
pub const SCP: Racer = peer(
    "scp -r",
    &["scp"],
    Lands::UnderName,
    r#"scp -q -r -F "$SSH_CONFIG" -c aes128-gcm@openssh.com "$SRC" "bench:$DST""#,
);
pub const SCP_OLD: Racer = peer(
    "scp -O -r",
    &["scp"],
    Lands::UnderName,
    r#"scp -q -O -r -F "$SSH_CONFIG" -c aes128-gcm@openssh.com "$SRC" "bench:$DST""#,
);
pub const RCLONE_4: Racer = peer(
    "rclone copy --transfers 4",
    &["rclone"],
    Lands::Directly,
    r#"rclone copy "$SRC" ":sftp:$DST" --transfers 4 --sftp-disable-hashcheck --sftp-chunk-size 255k"#,
);
pub const RCLONE_16: Racer = peer(
    "rclone copy --transfers 16",
    &["rclone"],
    Lands::Directly,
    r#"rclone copy "$SRC" ":sftp:$DST" --transfers 16 --sftp-disable-hashcheck --sftp-chunk-size 255k"#,
);
pub const RCLONE_HASH: Racer = slow(peer(
    "rclone copy --transfers 16, hash check on",
    &["rclone"],
    Lands::Directly,
    r#"rclone copy "$SRC" ":sftp:$DST" --transfers 16 --sftp-chunk-size 255k"#,
));
pub const CAT: Racer = peer(
    "cat",
    &["cat", "ssh"],
    Lands::Nowhere,
    r#"cat "$SRC/file" | ssh -F "$SSH_CONFIG" -c aes128-gcm@openssh.com bench 'cat >/dev/null'"#,
);
pub const CAT_DEFAULT: Racer = peer(
    "cat, default cipher",
    &["cat", "ssh"],
    Lands::Nowhere,
    r#"cat "$SRC/file" | ssh -F "$SSH_CONFIG" bench 'cat >/dev/null'"#,
);

pub const SLOW_SFTP: Racer = slow(SFTP);
pub const SLOW_LFTP_4: Racer = slow(LFTP_4);
pub const SLOW_LFTP_4_TUNED: Racer = slow(LFTP_4_TUNED);
pub const SLOW_RCLONE_16: Racer = slow(RCLONE_16);
pub const SLOW_RCLONE_4: Racer = slow(RCLONE_4);

impl Racer {
    /// The program that it is asked for by, with `--peers`.
    pub fn program(&self) -> &'static str {
        self.name.split([' ', ',']).next().unwrap_or(self.name)
    }

    /// What it needs and this machine does not have.
    pub fn missing(&self) -> Option<&'static str> {
        self.needs.iter().copied().find(|program| !is_installed(program))
    }
}

/// A row cannot do without this.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not installed; scripts/bench --install gets it")]
pub struct NotInstalled(&'static str);

impl NotInstalled {
    /// Fails where one of them is missing.
    pub fn check(programs: &[&'static str]) -> Result<(), Self> {
        programs.iter().find(|program| !is_installed(program)).map_or(Ok(()), |program| Err(Self(program)))
    }
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new("bash");
    command.args(["-c", r#"command -v "$0" >/dev/null"#, program]);
    command.status().is_ok_and(|status| status.success())
}
