//! A ledger as a file: JSON Lines, a header, one line for each entry, and a trailer by which a file that was cut off is
//! noticed. Pure: lines in, lines out.
//!
//! A field that this version does not know is refused: to go on without what it says could archive a file twice. What
//! may be left out safely needs no new version of the format, what may not gets one.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::display::inert;
use crate::domain::name::{escape, unescape};
use crate::domain::{FileKey, Fingerprint, KeyId, RemotePath, Sha256Digest, Token};
use crate::ledger::{Disposal, EntryInfo, EntryState, LARGEST_TOKEN, Record};

/// The version of the format.
const VERSION: u64 = 1;
/// Many times what a path, two remote names and a reason take.
pub const LONGEST_LINE: usize = 1 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    #[serde(rename = "archiver-ledger")]
    version: u64,
    /// The version of the program that wrote it.
    pub program: String,
    #[serde(with = "time")]
    pub exported_at: DateTime<Utc>,
    /// The last token that was issued when it was written.
    pub last_token: u64,
}

impl Header {
    pub fn new(exported_at: DateTime<Utc>, last_token: Token) -> Self {
        Self { version: VERSION, program: env!("CARGO_PKG_VERSION").into(), exported_at, last_token: last_token.0 }
    }
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    #[serde(rename = "archiver-ledger-entries")]
    entries: u64,
    /// Of all bytes before it.
    sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    destination: String,
    source: String,
    path: String,
    inode: u64,
    size: u64,
    mtime_ns: i64,
    local_path: String,
    remote: String,
    token: u64,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    attempts: u32,
    #[serde(with = "optional_time")]
    queued_at: Option<DateTime<Utc>>,
    #[serde(with = "optional_time")]
    since: Option<DateTime<Utc>>,
    staged: Vec<u64>,
    #[serde(default, with = "optional_time", skip_serializing_if = "Option::is_none")]
    gone_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<RecordLine>,
    disposal: DisposalWord,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    remote: String,
    sha256: String,
    #[serde(with = "time")]
    recorded_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Waiting,
    Failed,
    Recorded,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DisposalWord {
    Settled,
    Pending,
}

/// RFC 3339, to the microsecond.
mod time {
    use serde::Deserializer;
    use serde::de::Error;

    use super::*;

    pub fn serialize<S: serde::Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = DateTime::parse_from_rfc3339(&text)
            .map_err(|error| D::Error::custom(format_args!("`{text}` is no time: {error}")))?;
        // No ledger keeps more of it.
        DateTime::from_timestamp_micros(at.timestamp_micros())
            .ok_or_else(|| D::Error::custom(format_args!("`{text}` is no time that is kept")))
    }
}

mod optional_time {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct At(#[serde(with = "time")] DateTime<Utc>);

    pub fn serialize<S: serde::Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(At).serialize(serializer)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
        Ok(Option::<At>::deserialize(deserializer)?.map(|At(at)| at))
    }
}

fn path_text(bytes: &[u8]) -> String {
    escape(OsStr::from_bytes(bytes))
}

impl Line {
    fn of(entry: &EntryInfo) -> Self {
        let EntryInfo { key, record, .. } = entry;
        let (state, reason, since) = match &entry.state {
            _ if record.is_some() => (State::Recorded, None, None),
            EntryState::Failed { reason, since, .. } => (State::Failed, Some(reason.clone()), *since),
            EntryState::Waiting { since } | EntryState::Held { since, .. } => (State::Waiting, None, *since),
            EntryState::Recorded => (State::Recorded, None, None),
        };
        Self {
            destination: key.destination.to_string(),
            source: key.source.to_string(),
            path: path_text(&key.path),
            inode: key.fingerprint.inode,
            size: key.fingerprint.size,
            mtime_ns: key.fingerprint.mtime_ns,
            local_path: path_text(entry.local_path.as_os_str().as_bytes()),
            remote: entry.remote.to_string(),
            token: entry.token.0,
            state,
            reason,
            attempts: entry.attempts,
            queued_at: entry.queued_at,
            since,
            staged: entry.staged.iter().map(|token| token.0).collect(),
            gone_at: entry.gone_at,
            record: record.as_ref().map(|record| RecordLine {
                remote: record.remote.to_string(),
                sha256: record.sha256.to_string(),
                recorded_at: record.recorded_at,
            }),
            disposal: match entry.disposal {
                Disposal::Settled => DisposalWord::Settled,
                Disposal::Pending => DisposalWord::Pending,
            },
        }
    }

    /// The entry, or what about it cannot be.
    fn entry(self, last_token: u64) -> Result<EntryInfo, String> {
        let local_path = unescape(&self.local_path);
        if !local_path.starts_with(b"/") || self.remote.is_empty() || self.path.is_empty() {
            return Err("its paths are no paths of a ledger".into());
        }
        if !self.staged.is_sorted_by(|one, next| one < next) {
            return Err("its staged tokens are not in order".into());
        }
        if let Some(token) = self.staged.iter().chain([&self.token]).find(|token| **token > last_token) {
            return Err(format!("its token {token} is larger than the last one, which is {last_token}"));
        }
        let record = self.record.map(|record| {
            let sha256 = digest(&record.sha256).ok_or_else(|| format!("`{}` is no SHA-256", record.sha256))?;
            Ok::<_, String>(Record { remote: RemotePath::new(record.remote), sha256, recorded_at: record.recorded_at })
        });
        let record = record.transpose()?;
        let state = match (self.state, &record, self.reason) {
            (State::Recorded, Some(_), None) => EntryState::Recorded,
            (State::Waiting, None, None) => EntryState::Waiting { since: self.since },
            (State::Failed, None, Some(reason)) => {
                EntryState::Failed { reason, attempts: self.attempts, since: self.since }
            }
            _ => return Err("its state, record and reason contradict each other".into()),
        };
        Ok(EntryInfo {
            key: FileKey {
                destination: self.destination.into(),
                source: self.source.into(),
                path: unescape(&self.path),
                fingerprint: Fingerprint { inode: self.inode, size: self.size, mtime_ns: self.mtime_ns },
            },
            local_path: std::ffi::OsString::from_vec(local_path).into(),
            remote: RemotePath::new(self.remote),
            token: Token(self.token),
            state,
            queued_at: self.queued_at,
            record,
            disposal: match self.disposal {
                DisposalWord::Settled => Disposal::Settled,
                DisposalWord::Pending => Disposal::Pending,
            },
            attempts: self.attempts,
            staged: self.staged.into_iter().map(Token).collect(),
            gone_at: self.gone_at,
        })
    }
}

fn digest(text: &str) -> Option<Sha256Digest> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Sha256Digest(digest))
}

fn line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("strings, numbers and lists become JSON");
    format!("{}\n", inert(&text))
}

/// Makes the lines of a file, each with its end.
#[derive(Debug, Default)]
pub struct Writer {
    hash: Sha256,
    entries: u64,
}

impl Writer {
    pub fn header(&mut self, header: &Header) -> String {
        self.hashed(line(header))
    }

    /// An entry, as if nobody held it.
    pub fn entry(&mut self, entry: &EntryInfo) -> String {
        self.entries += 1;
        self.hashed(line(&Line::of(entry)))
    }

    pub fn trailer(self) -> String {
        line(&Trailer { entries: self.entries, sha256: Sha256Digest(self.hash.finalize().into()).to_string() })
    }

    fn hashed(&mut self, line: String) -> String {
        self.hash.update(&line);
        line
    }
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub line: u64,
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Header(Header),
    Entry(Box<EntryInfo>),
    /// All entries were there, and are as they were written.
    End,
}

/// Reads a file line by line. Takes 20 to 40 bytes of memory for each entry, to know those that come twice.
#[derive(Debug, Default)]
pub struct Reader {
    hash: Sha256,
    lines: u64,
    header: Option<Header>,
    has_ended: bool,
    keys: Vec<(KeyId, u32)>,
}

impl Reader {
    /// The next line, with its end.
    pub fn line(&mut self, line: &[u8]) -> Result<Said, Mistake> {
        self.lines += 1;
        let said = self.read(line).map_err(|what| self.mistake(what))?;
        if said != Said::End {
            self.hash.update(line);
        }
        Ok(said)
    }

    fn mistake(&self, what: impl Into<String>) -> Mistake {
        Mistake { line: self.lines, what: what.into() }
    }

    fn read(&mut self, line: &[u8]) -> Result<Said, String> {
        if self.has_ended {
            return Err("there is more behind the last line".into());
        }
        let Some(text) = line.strip_suffix(b"\n") else {
            return Err(match line.len() < LONGEST_LINE {
                true => "the file ends in the middle of it: it was cut off".into(),
                false => format!("it is longer than {LONGEST_LINE} bytes"),
            });
        };
        let Some(header) = &self.header else {
            let header = first(text)?;
            self.header = Some(header.clone());
            return Ok(Said::Header(header));
        };
        if text.starts_with(b"{\"archiver-ledger-entries\"") {
            let trailer: Trailer = parse(text)?;
            // Before the count, which would only tell that there is one too many.
            self.no_key_twice()?;
            if trailer.entries != self.keys.len() as u64 {
                return Err(format!("{} entries were written, and {} are here", trailer.entries, self.keys.len()));
            }
            let sha256 = Sha256Digest(std::mem::take(&mut self.hash).finalize().into()).to_string();
            if trailer.sha256 != sha256 {
                return Err("the SHA-256 of the lines before it is another one: the file was changed".into());
            }
            self.has_ended = true;
            return Ok(Said::End);
        }
        let entry = parse::<Line>(text)?.entry(header.last_token)?;
        let line = u32::try_from(self.lines).map_err(|_| "there are too many lines")?;
        self.keys.push((entry.key.id(), line));
        Ok(Said::Entry(Box::new(entry)))
    }

    fn no_key_twice(&mut self) -> Result<(), String> {
        self.keys.sort_unstable();
        match self.keys.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            None => Ok(()),
            Some(pair) => Err(format!("lines {} and {} are of the same file", pair[0].1, pair[1].1)),
        }
    }

    /// Where the input ends.
    pub fn end(&self) -> Result<(), Mistake> {
        match (self.has_ended, self.lines) {
            (true, _) => Ok(()),
            (false, 0) => Err(Mistake { line: 1, what: "the file is empty".into() }),
            (false, lines) => Err(Mistake { line: lines + 1, what: "the last line is missing: it was cut off".into() }),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| {
        // Its own line is always the first.
        let text = error.to_string();
        format!("it cannot be read: {}", text.replace(" at line 1 column ", " at column "))
    })
}

fn first(text: &[u8]) -> Result<Header, String> {
    #[derive(Deserialize)]
    struct Any {
        #[serde(rename = "archiver-ledger")]
        version: u64,
        #[serde(default)]
        program: String,
    }
    let Ok(Any { version, program }) = serde_json::from_slice(text) else {
        return Err("this is no file that `archiver ledger export` wrote".into());
    };
    if version != VERSION {
        return Err(format!(
            "archiver {program} wrote it in format {version}, this one knows {VERSION}; use that version"
        ));
    }
    let header: Header = parse(text)?;
    if header.last_token > LARGEST_TOKEN.0 {
        return Err(format!("its last token, {}, is larger than any that is issued", header.last_token));
    }
    Ok(header)
}
