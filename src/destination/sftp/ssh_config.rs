//! What `~/.ssh/config` says of a host: the part of ssh_config(5) that a file transfer needs. As in OpenSSH, the first
//! value found wins, and keywords not listed here are passed over.
//!
//! The crate `ssh2-config` was looked at and does not serve: it has no `Match`, whose lines it takes for those of the
//! `Host` above, and no tokens (`%h`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::pattern;
use crate::config::settings::SshConfigFile;
use crate::destination::DestinationError;
use crate::domain::display;

/// As in OpenSSH: files included from files included from …
const MAX_DEPTH: usize = 16;

/// Who asks, and for what.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// The host as it was typed.
    pub host: &'a str,
    /// The user as typed, if any.
    pub user: Option<&'a str>,
    pub local_user: &'a str,
    /// `~`.
    pub home: &'a Path,
}

/// How the connection gets there, if not by TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// `none`: directly, whatever comes later in the file.
    Direct,
    /// Through these hosts, nearest to us first.
    Jump(Vec<Jump>),
    /// A command whose standard input and output are the connection.
    Command(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
}

/// `StrictHostKeyChecking`, in the terms of the archiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    Strict,
    AcceptNew,
}

/// Everything found for one host. Paths and names are expanded by [`HostConfig::expand`] only when they are used,
/// for `%h` and `%r` need the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostConfig {
    pub host_name: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    /// In order; `none` is kept, and means that not even the usual names are tried.
    pub identity_files: Vec<String>,
    pub certificate_files: Vec<String>,
    pub identities_only: Option<YesNo>,
    /// A path, `none`, `SSH_AUTH_SOCK` or `$VARIABLE`.
    pub identity_agent: Option<String>,
    pub user_known_hosts: Option<Vec<String>>,
    pub global_known_hosts: Option<Vec<String>>,
    pub host_key_alias: Option<String>,
    pub strictness: Option<Strictness>,
    pub proxy: Option<Proxy>,
    pub connect_timeout: Option<Duration>,
    pub server_alive_interval: Option<Duration>,
    /// Names as in `Ciphers`; a leading `+`, `-` or `^` is kept.
    pub ciphers: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YesNo {
    Yes,
    No,
}

/// Reads what `which` says to read. A file that was asked for must exist; the usual ones need not.
pub fn load(which: &SshConfigFile, query: &Query<'_>) -> Result<HostConfig, DestinationError> {
    let mut reader = Reader { query, found: HostConfig::default() };
    match which {
        SshConfigFile::None => {}
        SshConfigFile::Path(path) => reader.file(path, Missing::IsAnError, Applies::Yes, 0)?,
        SshConfigFile::Default => {
            reader.file(&query.home.join(".ssh/config"), Missing::IsFine, Applies::Yes, 0)?;
            reader.file(Path::new("/etc/ssh/ssh_config"), Missing::IsFine, Applies::Yes, 0)?;
        }
    }
    Ok(reader.found)
}

/// What the text of a file says; `path` is its name, and where its `Include` lines start from.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_text(text: &str, path: &Path, query: &Query<'_>) -> Result<HostConfig, DestinationError> {
    let mut reader = Reader { query, found: HostConfig::default() };
    reader.text(text, path, Applies::Yes, 0)?;
    Ok(reader.found)
}

#[derive(Clone, Copy, PartialEq)]
enum Missing {
    IsAnError,
    IsFine,
}

/// Whether the lines at hand are for the host in question.
#[derive(Clone, Copy, PartialEq)]
enum Applies {
    Yes,
    No,
}

impl From<bool> for Applies {
    fn from(applies: bool) -> Self {
        if applies { Self::Yes } else { Self::No }
    }
}

struct Reader<'a> {
    query: &'a Query<'a>,
    found: HostConfig,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, missing: Missing, outer: Applies, depth: usize) -> Result<(), DestinationError> {
        let what = || format!("reading the SSH configuration {}", display::path(path));
        if depth > MAX_DEPTH {
            return Err(DestinationError::refusal(what(), "its Include lines go round in a circle or too deep"));
        }
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && missing == Missing::IsFine => return Ok(()),
            Err(error) => {
                return Err(DestinationError::refusal(what(), error.to_string())
                    .hint("name another file with --ssh-config, or `--ssh-config none` to read none"));
            }
        };
        self.text(&text, path, outer, depth)
    }

    fn text(&mut self, text: &str, path: &Path, outer: Applies, depth: usize) -> Result<(), DestinationError> {
        let what = || format!("reading the SSH configuration {}", display::path(path));
        let mut applies = outer;
        for (number, line) in text.lines().enumerate() {
            let (keyword, arguments) = match words(line) {
                Ok(None) => continue,
                Ok(Some(line)) => line,
                Err(why) => return Err(DestinationError::refusal(what(), format!("line {}: {why}", number + 1))),
            };
            let at = |why: String| DestinationError::refusal(what(), format!("line {}: {why}", number + 1));
            match keyword.as_str() {
                "host" => {
                    let covers = pattern::list_matches(arguments.iter().map(String::as_str), self.query.host);
                    applies = (covers && outer == Applies::Yes).into();
                }
                "match" => applies = (outer == Applies::Yes && self.match_line(&arguments, number, path)).into(),
                "include" if applies == Applies::Yes => {
                    for argument in &arguments {
                        for included in self.included(argument, path) {
                            self.file(&included, Missing::IsFine, Applies::Yes, depth + 1)?;
                        }
                    }
                }
                _ if applies == Applies::Yes => self.keyword(&keyword, &arguments, line).map_err(at)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The files an `Include` names: relative to the including file's directory, with wildcards in the last component.
    fn included(&self, argument: &str, from: &Path) -> Vec<PathBuf> {
        let path = tilde(argument, self.query.home);
        let path = from.parent().unwrap_or(Path::new("/")).join(path);
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.contains(['*', '?']))
        else {
            return vec![path];
        };
        let entries = path.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter(|e| e.file_name().to_str().is_some_and(|n| !n.starts_with('.') && pattern::matches(name, n)))
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }

    /// `Match`: all criteria must hold. Those that are not understood do not hold, and that is said.
    fn match_line(&self, arguments: &[String], number: usize, path: &Path) -> bool {
        // `host=a` says the same as `host a`.
        let mut arguments = arguments.iter().flat_map(|argument| match argument.split_once('=') {
            Some((name, value)) => [Some(name), Some(value)],
            None => [Some(argument.as_str()), None],
        });
        let mut arguments = arguments.by_ref().flatten().filter(|argument| !argument.is_empty());
        let mut holds = true;
        while let Some(criterion) = arguments.next() {
            let (negated, name) = match criterion.strip_prefix('!') {
                Some(name) => (true, name),
                None => (false, criterion),
            };
            let name = name.to_ascii_lowercase();
            let this = match name.as_str() {
                "all" => true,
                // Names are not canonicalized, so there is no second reading.
                "canonical" | "final" => false,
                "host" | "originalhost" | "user" | "localuser" => {
                    let text = match name.as_str() {
                        "host" => self.found.host_name.as_deref().unwrap_or(self.query.host),
                        "originalhost" => self.query.host,
                        "localuser" => self.query.local_user,
                        _ => self.query.user.or(self.found.user.as_deref()).unwrap_or(self.query.local_user),
                    };
                    arguments.next().is_some_and(|list| pattern::list_matches(list.split(','), text))
                }
                other => {
                    tracing::warn!(
                        "{} line {}: `Match {}` is not supported; its lines are passed over",
                        display::path(path),
                        number + 1,
                        display::escaped(other)
                    );
                    return false;
                }
            };
            holds &= this != negated;
        }
        holds
    }

    fn keyword(&mut self, keyword: &str, arguments: &[String], line: &str) -> Result<(), String> {
        let found = &mut self.found;
        let Some(first) = arguments.first() else {
            return Err(format!("`{}` has no value", display::escaped(keyword)));
        };
        let number = || first.parse().map_err(|_| format!("`{}` is no number", display::escaped(first)));
        match keyword {
            "hostname" => set(&mut found.host_name, || Ok(first.clone())),
            "port" => set(&mut found.port, || {
                number().and_then(|n: u64| u16::try_from(n).map_err(|_| format!("`{n}` is no port")))
            }),
            "user" => set(&mut found.user, || Ok(first.clone())),
            "identityfile" => add(&mut found.identity_files, first),
            "certificatefile" => add(&mut found.certificate_files, first),
            "identitiesonly" => set(&mut found.identities_only, || match first.to_ascii_lowercase().as_str() {
                "yes" | "true" => Ok(YesNo::Yes),
                "no" | "false" => Ok(YesNo::No),
                _ => Err(format!("`{}` is neither `yes` nor `no`", display::escaped(first))),
            }),
            "identityagent" => set(&mut found.identity_agent, || Ok(first.clone())),
            "userknownhostsfile" => set(&mut found.user_known_hosts, || Ok(arguments.to_vec())),
            "globalknownhostsfile" => set(&mut found.global_known_hosts, || Ok(arguments.to_vec())),
            "hostkeyalias" => set(&mut found.host_key_alias, || Ok(first.clone())),
            "stricthostkeychecking" => set(&mut found.strictness, || {
                Ok(match first.to_ascii_lowercase().as_str() {
                    "accept-new" => Strictness::AcceptNew,
                    "no" | "off" => {
                        tracing::warn!(
                            "`StrictHostKeyChecking no` is not followed: unknown and changed host keys are refused"
                        );
                        Strictness::Strict
                    }
                    _ => Strictness::Strict,
                })
            }),
            "proxyjump" => set(&mut found.proxy, || jumps(first)),
            "proxycommand" => set(&mut found.proxy, || {
                // The rest of the line as it stands, for a shell.
                let line = line.trim_start();
                let command = line[keyword.len()..].trim_start().trim_start_matches('=').trim();
                Ok(match command.eq_ignore_ascii_case("none") {
                    true => Proxy::Direct,
                    false => Proxy::Command(command.to_owned()),
                })
            }),
            "connecttimeout" => set(&mut found.connect_timeout, || seconds(first)),
            "serveraliveinterval" => set(&mut found.server_alive_interval, || seconds(first)),
            "ciphers" => set(&mut found.ciphers, || Ok(first.clone())),
            _ => Ok(()),
        }
    }
}

/// The first value wins; a later one is not even looked at.
fn set<T>(slot: &mut Option<T>, value: impl FnOnce() -> Result<T, String>) -> Result<(), String> {
    if slot.is_none() {
        *slot = Some(value()?);
    }
    Ok(())
}

/// Each counts once: a server allows only so many attempts.
fn add(list: &mut Vec<String>, value: &str) -> Result<(), String> {
    if !list.iter().any(|known| known == value) {
        list.push(value.to_owned());
    }
    Ok(())
}

/// sshd_config(5), TIME FORMATS: numbers with a unit in either case, of which seconds need none: `90`, `1m30s`, `1M`. And
/// `none`, for as long as it takes.
fn seconds(text: &str) -> Result<Duration, String> {
    if text == "none" {
        return Ok(Duration::MAX);
    }
    let mut total = (!text.is_empty()).then_some(0_u64);
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, unit) = rest.split_at(digits);
        let (each, after) = match unit.chars().next().map(|unit| unit.to_ascii_lowercase()) {
            None => (1, unit),
            Some('s') => (1, &unit[1..]),
            Some('m') => (60, &unit[1..]),
            Some('h') => (3600, &unit[1..]),
            Some('d') => (86400, &unit[1..]),
            Some('w') => (7 * 86400, &unit[1..]),
            Some(_) => (0, ""),
        };
        let part = number.parse::<u64>().ok().filter(|_| each > 0).and_then(|number| number.checked_mul(each));
        total = total.zip(part).and_then(|(total, part)| total.checked_add(part));
        rest = after;
    }
    total.map(Duration::from_secs).ok_or_else(|| format!("`{}` is no time", display::escaped(text)))
}

fn jumps(text: &str) -> Result<Proxy, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Proxy::Direct);
    }
    text.split(',').map(str::parse).collect::<Result<_, _>>().map(Proxy::Jump)
}

/// `[user@]host[:port]`, `[user@][address]:port` or `ssh://…`.
impl std::str::FromStr for Jump {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no host to jump through", display::escaped(text));
        let rest = text.strip_prefix("ssh://").unwrap_or(text);
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, rest),
        };
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => match rest.split_once(':') {
                // More than one colon: an IPv6 address.
                Some((_, more)) if more.contains(':') => (rest, None),
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(wrong());
        }
        let port = port.map(str::parse).transpose().map_err(|_| wrong())?;
        Ok(Self { user, host: host.to_owned(), port })
    }
}

/// The keyword in lower case, and its arguments; `None` for a line without any.
fn words(line: &str) -> Result<Option<(String, Vec<String>)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let keyword = line[..end].to_ascii_lowercase();
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let mut arguments = Vec::new();
    let mut chars = rest.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(first) = chars.peek() else { break };
        if *first == '#' {
            break;
        }
        let mut word = String::new();
        let mut quote = None;
        while let Some(c) = chars.next_if(|c| quote.is_some() || !c.is_whitespace()) {
            match c {
                // Before what would otherwise mean something; before anything else it is itself.
                '\\' => word.push(
                    chars.next_if(|c| matches!(c, '"' | '\'' | '\\') || (*c == ' ' && quote.is_none())).unwrap_or(c),
                ),
                '"' | '\'' if quote == Some(c) => quote = None,
                '"' | '\'' if quote.is_none() => quote = Some(c),
                c => word.push(c),
            }
        }
        // A command may hold any quotes; it is taken as it stands and not from here.
        if quote.is_some() && keyword != "proxycommand" {
            return Err("a quote is not closed".into());
        }
        arguments.push(word);
    }
    Ok(Some((keyword, arguments)))
}

/// `~` and `~/…`.
pub fn tilde(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => text.into(),
    }
}

/// What the tokens of ssh_config(5) stand for.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    pub home: &'a Path,
    pub local_user: &'a str,
    /// `%n`: as typed.
    pub original_host: &'a str,
    /// `%h`: with HostName.
    pub host: &'a str,
    pub port: u16,
    /// `%r`.
    pub user: &'a str,
}

impl Tokens<'_> {
    /// Replaces `%…` and `${VARIABLE}`.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['%', '$']) {
            expanded.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some((name, after)) = rest.strip_prefix("${").and_then(|rest| rest.split_once('}')) {
                expanded.push_str(&std::env::var(name).map_err(|_| format!("the variable `{name}` is not set"))?);
                rest = after;
                continue;
            }
            let mut chars = rest.chars();
            match (chars.next(), chars.clone().next()) {
                (Some('%'), Some(token)) => {
                    match token {
                        '%' => expanded.push('%'),
                        'd' => expanded.push_str(&self.home.to_string_lossy()),
                        'u' => expanded.push_str(self.local_user),
                        'n' => expanded.push_str(self.original_host),
                        'h' => expanded.push_str(self.host),
                        'p' => expanded.push_str(&self.port.to_string()),
                        'r' => expanded.push_str(self.user),
                        other => return Err(format!("`%{other}` is not supported in `{}`", display::escaped(text))),
                    }
                    chars.next();
                }
                (first, _) => expanded.extend(first),
            }
            rest = chars.as_str();
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    pub fn path(&self, text: &str) -> Result<PathBuf, String> {
        Ok(tilde(&self.expand(text)?, self.home))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str) -> Result<HostConfig, DestinationError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, text).unwrap();
        let query = Query { host, user: None, local_user: "me", home: dir.path() };
        load(&SshConfigFile::Path(path), &query)
    }

    #[test]
    fn the_first_value_wins_and_lists_grow() {
        let text = "Host a !b\n Port 1\n IdentityFile ~/one\nHost *\n\tport=2\nUser = \"x y\"\nIdentityFile two # no\n";
        let config = found(text, "a").unwrap();
        assert_eq!((config.port, config.user.as_deref()), (Some(1), Some("x y")));
        assert_eq!(config.identity_files, ["~/one", "two"]);
        assert_eq!(found(text, "b").unwrap().port, Some(2));
    }

    #[test]
    fn backslashes_take_a_meaning_away() {
        let config = found("User a\\ b\nIdentityFile \"x\\\"y\\ z\\\\\"\nIdentityFile C:\\dir\n", "a").unwrap();
        assert_eq!(config.user.as_deref(), Some("a b"));
        assert_eq!(config.identity_files, ["x\"y\\ z\\", "C:\\dir"]);
    }

    #[test]
    fn times_are_those_of_openssh() {
        let times = ["90", "1m30s", "1M", "1h1", "2W", "none"].map(|text| seconds(text).unwrap());
        let expected = [90, 90, 60, 3601, 1_209_600].map(Duration::from_secs);
        assert_eq!((&times[..5], times[5]), (&expected[..], Duration::MAX));
        for bad in ["", "m", "1x", "1ms", "-1", "99999999999999999999", "1é", "18446744073709551615w"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn match_lines_hold_or_are_passed_over() {
        let text = "Host h\n HostName real\nMatch host real !user root\n Port 7\nMatch exec true\n User wrong\nMatch all\n User right\n";
        let config = found(text, "h").unwrap();
        assert_eq!((config.port, config.user.as_deref()), (Some(7), Some("right")));
        assert_eq!(found(text, "other").unwrap().port, None);
    }

    #[test]
    fn includes_keep_their_scope() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/1.conf"), "Port 5\nHost other\nUser no\n").unwrap();
        std::fs::write(dir.path().join("d/2.conf"), "User yes\n").unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, "Host h\nInclude d/*.conf\nHostKeyAlias k\n").unwrap();
        let at = |host| {
            let query = Query { host, user: None, local_user: "me", home: dir.path() };
            load(&SshConfigFile::Path(path.clone()), &query).unwrap()
        };
        let config = at("h");
        assert_eq!((config.port, config.user.as_deref()), (Some(5), Some("yes")));
        assert_eq!(config.host_key_alias.as_deref(), Some("k"));
        assert_eq!(at("other"), HostConfig::default());
        std::fs::write(&path, "Include config\n").unwrap();
        let query = Query { host: "h", user: None, local_user: "me", home: dir.path() };
        assert!(load(&SshConfigFile::Path(path), &query).unwrap_err().why.contains("circle"));
    }

    #[test]
    fn ways_through_other_hosts() {
        let jump = |user: Option<&str>, host: &str, port| Jump { user: user.map(Into::into), host: host.into(), port };
        let config = found("ProxyJump u@a:5,[::1]:7,b\nProxyCommand nc %h\n", "x").unwrap();
        let expected = vec![jump(Some("u"), "a", Some(5)), jump(None, "::1", Some(7)), jump(None, "b", None)];
        assert_eq!(config.proxy, Some(Proxy::Jump(expected)));
        let config = found("ProxyCommand ssh -W \"%h:%p\" gate # x\n", "x").unwrap();
        assert_eq!(config.proxy, Some(Proxy::Command("ssh -W \"%h:%p\" gate # x".into())));
        assert_eq!(found("ProxyJump none\nProxyJump b\n", "x").unwrap().proxy, Some(Proxy::Direct));
    }

    #[test]
    fn mistakes_name_the_line() {
        for (text, why) in [
            ("\nPort x\n", "line 2: `x` is no number"),
            ("Port 70000\n", "no port"),
            ("User\n", "`user` has no value"),
            ("User \"x\n", "quote"),
            ("IdentitiesOnly maybe\n", "neither"),
            ("ProxyJump a:b\n", "jump"),
        ] {
            let error = found(text, "h").unwrap_err();
            assert!(error.why.contains(why), "{error}");
        }
        let query = Query { host: "h", user: None, local_user: "me", home: Path::new("/") };
        let error = load(&SshConfigFile::Path("/nowhere/config".into()), &query).unwrap_err();
        assert!(error.to_string().contains("/nowhere/config") && error.hint.unwrap().contains("--ssh-config"));
    }

    #[test]
    fn tokens_are_expanded() {
        let tokens = Tokens {
            home: Path::new("/home/me"),
            local_user: "me",
            original_host: "alias",
            host: "real",
            port: 22,
            user: "you",
        };
        assert_eq!(tokens.path("~/.ssh/%r@%h-%n-%u-%p").unwrap(), Path::new("/home/me/.ssh/you@real-alias-me-22"));
        assert_eq!(tokens.expand("%d/100%%$").unwrap(), "/home/me/100%$");
        assert!(tokens.expand("%Z").unwrap_err().contains("%Z"));
        assert!(tokens.expand("${NO_SUCH_VARIABLE_HERE}").unwrap_err().contains("NO_SUCH_VARIABLE_HERE"));
    }
}
