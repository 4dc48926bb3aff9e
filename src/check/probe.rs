//! What one probe found: pure data, and the rules that turn it into a verdict and an exit code.

use std::time::Duration;

use serde::Serialize;

use crate::destination::DestinationError;
use crate::exit::Exit;

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// The archiver works, with something missing or in a roundabout way.
    Warn,
    /// The archiver would not work.
    Fail,
    /// Not tried; the detail says why.
    Skip,
}

/// What is looked at, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Config,
    Source,
    Ledger,
    Ssh,
    Dns,
    Tcp,
    HostKey,
    Authentication,
    Sftp,
    Limits,
    Base,
    Mkdir,
    Write,
    Rename,
    Setstat,
    Delete,
    Space,
    Sessions,
    Clock,
    Folder,
    /// Shown only where something of ours could not be removed.
    Cleanup,
}

impl Name {
    /// Those of one destination, in order.
    pub const OF_DESTINATION: [Self; 17] = [
        Self::Ssh,
        Self::Dns,
        Self::Tcp,
        Self::HostKey,
        Self::Authentication,
        Self::Sftp,
        Self::Limits,
        Self::Base,
        Self::Mkdir,
        Self::Write,
        Self::Rename,
        Self::Setstat,
        Self::Delete,
        Self::Space,
        Self::Sessions,
        Self::Clock,
        Self::Folder,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Source => "source",
            Self::Ledger => "ledger",
            Self::Ssh => "ssh",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::HostKey => "host key",
            Self::Authentication => "authentication",
            Self::Sftp => "sftp",
            Self::Limits => "limits",
            Self::Base => "base",
            Self::Mkdir => "mkdir",
            Self::Write => "write",
            Self::Rename => "rename",
            Self::Setstat => "setstat",
            Self::Delete => "delete",
            Self::Space => "space",
            Self::Sessions => "sessions",
            Self::Clock => "clock",
            Self::Folder => "folder",
            Self::Cleanup => "cleanup",
        }
    }

    /// The exit code that its failure asks for. What is wrong on this machine is a matter of configuration.
    fn failure(self) -> Exit {
        match self {
            Self::Config | Self::Source | Self::Ledger | Self::Ssh => Exit::Usage,
            _ => Exit::Destination,
        }
    }
}

/// One line of the report. Texts are not escaped yet; rendering does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub name: Name,
    pub verdict: Verdict,
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
    pub elapsed: Duration,
}

impl Probe {
    fn new(name: Name, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { name, verdict, detail: detail.into(), hint: None, elapsed: Duration::ZERO }
    }

    pub fn ok(name: Name, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, detail)
    }

    pub fn warn(name: Name, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warn, detail)
    }

    pub fn fail(name: Name, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Fail, detail)
    }

    pub fn skip(name: Name, reason: impl Into<String>) -> Self {
        Self::new(name, Verdict::Skip, reason)
    }

    /// A failure with the error's own words and hint.
    pub fn refused(name: Name, error: &DestinationError) -> Self {
        Self { hint: error.hint.clone(), ..Self::fail(name, error.to_string()) }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn took(mut self, elapsed: Duration) -> Self {
        self.elapsed = elapsed;
        self
    }
}

/// What all probes come to. The first thing to put right decides: this machine's settings, then the destination.
pub fn exit<'a>(probes: impl IntoIterator<Item = &'a Probe>) -> Exit {
    let failed = probes.into_iter().filter(|probe| probe.verdict == Verdict::Fail);
    failed.map(|probe| probe.name.failure()).min_by_key(|exit| exit.code()).unwrap_or(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_put_right_before_the_destination() {
        let ok = Probe::ok(Name::Dns, "");
        let warn = Probe::warn(Name::Source, "");
        let skip = Probe::skip(Name::Write, "");
        let remote = Probe::fail(Name::Mkdir, "");
        let local = Probe::fail(Name::Ledger, "");
        assert_eq!(exit([&ok, &warn, &skip]), Exit::Done);
        assert_eq!(exit([&ok, &remote]), Exit::Destination);
        assert_eq!(exit([&remote, &local]), Exit::Usage);
    }
}
