//! Words and pure rules: destinations, dated directories, names, quantities.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::Input;
use crate::config::check;
use crate::domain::{
    ByteRate, DestinationUrl, FileKey, Fingerprint, HumanDuration, Layout, RemotePath, Sha256Digest, Timezone, Token,
    display, name,
};

pub(super) const URL_WORDS: &[&str] = &[
    "sftp://",
    "://",
    "@",
    ":",
    "/",
    "~",
    "/~/",
    "%2F",
    "%40",
    "%3A",
    "%2e%2E",
    "%00",
    "%7E",
    "%C3%A9",
    "%ff",
    "[::1]",
    "..",
    "?",
    "#",
    "\\",
    "\t",
    " ",
    "é",
    "é",
    "22",
    "65536",
    "hunter2zq",
    "u:hunter2zq@h/",
    "\u{202e}",
    "0",
];

/// No sensible message has it by chance.
const PASSWORD: &str = "hunter2zq";

/// Nothing that steers a terminal or hides the text around it.
pub(super) fn is_inert(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || display::steers(c))
}

pub fn destination_url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let url: DestinationUrl = match text.parse() {
        Ok(url) => url,
        Err(why) => {
            let has_password = text.split_once(PASSWORD).is_some_and(|(before, after)| {
                before.ends_with(':') && after.starts_with('@') && !before.to_lowercase().contains(PASSWORD)
            });
            assert!(!(has_password && why.contains(PASSWORD)), "{text:?} is refused with its password: {why}");
            return;
        }
    };
    let canonical = url.to_string();
    let again: DestinationUrl =
        canonical.parse().unwrap_or_else(|why| panic!("{text:?} is {canonical:?}, which is refused: {why}"));
    assert_eq!(again, url, "{text:?} is {canonical:?}");
    assert_eq!(again.to_string(), canonical);
    assert!(!canonical.chars().any(char::is_control), "{canonical:?}");
    assert!(!url.host.is_empty() && !url.host.contains(char::is_whitespace), "{url:?}");
    assert!(url.port != Some(0), "{url:?}");
    let below = url.base.strip_prefix('/').unwrap_or(&url.base);
    assert!(below.is_empty() || below.split('/').all(|part| !matches!(part, "" | "." | "..")), "{url:?}");
}

pub(super) const LAYOUT_WORDS: &[&str] = &[
    "%Y/%m/%d",
    "{source}",
    "{hostname}",
    "{",
    "}",
    "%",
    "%Y",
    "%-d",
    "%j",
    "%G/%V",
    "%s",
    "%c",
    "%+",
    "%Z",
    "%z",
    "%n",
    "%t",
    "%D",
    "%f",
    "%.3f",
    "%E",
    "%C",
    "%P",
    "%3f",
    "%::z",
    "%#z",
    "%v",
    "%x",
    "/",
    "//",
    ".",
    "..",
    "\n",
    "a",
];

pub fn layout(data: &[u8]) {
    let mut input = Input::new(data);
    // From the first year to the last that there is.
    let seconds = match input.below(4) {
        0 => DateTime::<Utc>::MAX_UTC.timestamp() - i64::from(input.byte()),
        1 => DateTime::<Utc>::MIN_UTC.timestamp() + i64::from(input.byte()),
        _ => input.number() as i64 % (DateTime::<Utc>::MAX_UTC.timestamp()),
    };
    let zone = input.one_of(&["UTC", "Europe/Berlin", "Pacific/Kiritimati", "America/St_Johns", "local"]);
    let zone: Timezone = zone.parse().unwrap();
    let (source, hostname) = (input.text_line(), input.text_line());
    let text = input.text();
    let Ok(layout) = text.parse::<Layout>() else { return };
    assert_eq!(layout.to_string(), text);
    let Some(instant) = DateTime::from_timestamp(seconds, 999_999_999) else { return };
    let directory = layout.render(instant, zone, &source, &hostname);
    for base in ["/upload", "/", "in/box", ""] {
        let path = RemotePath::below(base, &directory, Path::new("f")).unwrap();
        let below = path.as_str().strip_prefix(base.trim_end_matches('/')).expect("below the base");
        let below = if base.is_empty() { below } else { below.strip_prefix('/').expect("a directory below the base") };
        for part in below.split('/') {
            assert!(!matches!(part, "" | "." | ".."), "{text:?} of {source:?} on {hostname:?} leads to {path}");
            assert!(!part.contains('\0'), "{text:?} of {source:?} on {hostname:?} leads to {path:?}");
        }
    }
}

pub(super) const NAME_WORDS: &[&str] = &[
    "%25",
    "%E9",
    "%",
    "\u{e9}",
    ".tar.gz",
    ".",
    "..",
    "/",
    ".part",
    ".0123456789ab-7.part",
    "\u{1b}[31m",
    "\u{202e}",
    "\u{61c}",
    "\u{9b}",
    "\n",
    "\u{e0041}",
    "\u{200b}",
    "日本語",
    "\\n",
    "\u{2028}",
];

pub fn names(data: &[u8]) {
    let mut input = Input::new(data);
    let (token, other_token) = (Token(input.number()), Token(input.number()));
    let (local, other) = (input.line(), input.line());
    assert_eq!(name::unescape(&name::escape(OsStr::from_bytes(local))), local);
    assert_eq!(name::escape(OsStr::from_bytes(local)) == name::escape(OsStr::from_bytes(other)), local == other);

    for shown in [
        display::path(Path::new(OsStr::from_bytes(local))).to_string(),
        display::escaped(&String::from_utf8_lossy(local)).to_string(),
    ] {
        assert!(is_inert(&shown), "{shown:?}");
    }

    let fingerprint = Fingerprint { inode: token.0, size: other_token.0, mtime_ns: token.0 as i64 };
    let key = |path: &[u8]| FileKey { destination: "d".into(), source: "s".into(), path: path.to_vec(), fingerprint };
    let (mine, theirs) = (key(local), key(other));
    assert_eq!(mine.id() == theirs.id(), mine == theirs);

    let local = Path::new(OsStr::from_bytes(local));
    let Ok(path) = RemotePath::below("/up", "2026/11/21", local) else { return };
    assert!(path.as_str().starts_with("/up/2026/11/21"));
    if local.file_name().is_none() {
        return;
    }
    assert_eq!(path.as_str(), format!("{}/{}", path.parent(), path.name()));
    let digest = Sha256Digest([token.0 as u8; 32]);
    let staging = path.staging(mine.id(), token);
    let conflict = path.conflicting(&digest);
    for made in [&staging, &conflict] {
        assert_eq!(made.parent(), path.parent());
        assert!(made.name().len() <= name::MAX_BYTES, "{made:?}");
        assert!(!matches!(made.name(), "" | "." | "..") && !made.name().contains('/'), "{made:?}");
        assert_ne!(made, &path);
    }
    assert!(staging.name().starts_with('.') && staging.name().ends_with(&format!("-{token}.part")), "{staging:?}");
    assert_ne!(staging, conflict);
    let others = [path.staging(mine.id(), other_token), path.staging(theirs.id(), token)];
    assert_eq!(staging == others[0], token == other_token);
    assert_eq!(staging == others[1], mine.id().to_string() == theirs.id().to_string());
    assert_ne!(conflict, path.conflicting(&Sha256Digest([!(token.0 as u8); 32])));
}

pub(super) const UNIT_WORDS: &[&str] = &[
    "ms",
    "s",
    "m",
    "h",
    "days",
    "years",
    "1",
    "0",
    "18446744073709551615",
    "1.5",
    "MiB",
    "kB",
    "/s",
    " ",
    "-",
    "+",
    "e9",
    "inf",
    "nan",
    "none",
    "auto",
    "all",
    "é",
    ".",
    "_",
    "B",
    "EiB",
    "ns",
    "99",
];

pub fn units(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    if let Ok(duration) = text.parse::<HumanDuration>() {
        assert_eq!(duration.to_string().parse(), Ok(duration), "{text:?}");
    }
    if let Ok(duration) = check::duration(text) {
        // Whatever adds two of them to a clock.
        assert!(std::time::Instant::now().checked_add(duration + duration).is_some(), "{text:?}");
        assert_eq!(check::interval(text).is_ok(), !duration.is_zero());
    }
    if let Ok(rate) = text.parse::<ByteRate>() {
        assert!(!text.contains('-'), "{text:?} is {rate}");
        rate.to_string().parse::<ByteRate>().unwrap_or_else(|why| panic!("{text:?} is {rate}: {why}"));
        let digits = text.trim().trim_end_matches("/s");
        if let Ok(number) = digits.parse::<u64>() {
            assert_eq!(rate.0.get(), number);
        }
    }
    let whole = text.parse::<u64>().ok();
    assert_eq!(check::attempts(text).ok().map(u64::from), whole.filter(|n| (1..=u32::MAX.into()).contains(n)));
    let count = whole.filter(|n| (1..=u16::MAX.into()).contains(n)).map(|n| n as u16);
    assert_eq!(check::count_or_auto(text).ok().flatten(), count, "{text:?}");
    let _ = (check::rows(text), check::optional_rate(text), check::optional_interval(text), check::ledger(text));
    let _ = (check::source_name(text), check::path(text), text.parse::<crate::domain::HostKeyPolicy>());
}
