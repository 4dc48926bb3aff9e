//! The base: is it there, may something be made in it, and if not, where else.

use std::path::Path;

use super::Run;
use super::probe::{Name, Probe};
use crate::destination::sftp::{Kind, Session};
use crate::domain::{DestinationUrl, RemotePath};

/// Directories at the top that are tried where the base is not writable.
const TOP_LEVEL: usize = 64;

/// The base as it stands.
pub(super) struct Base {
    /// Where the probes' directory goes: the base, or what there is of the way to it.
    pub place: String,
    pub missing: bool,
}

pub(super) fn below(directory: &str, name: &str) -> RemotePath {
    let plain = RemotePath::below(directory, "", Path::new(name));
    plain.unwrap_or_else(|_| RemotePath::new(format!("{directory}/{name}")))
}

/// As people and servers write it: the login directory has no name.
pub(super) fn or_here(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

impl Run<'_> {
    /// Looks at the base. A failure is reported here; all else together with [`Run::mkdir`], which knows more.
    pub(super) async fn base(&mut self, session: &Session) -> Option<Base> {
        let base = self.destination.url.base.clone();
        let mut place = base.clone();
        loop {
            let path = RemotePath::new(or_here(&place));
            let kind = match session.lstat(&path).await {
                Ok(None) if !place.is_empty() && place != "/" => {
                    place = path.parent().to_owned();
                    continue;
                }
                Ok(None) => Some(Kind::Unknown),
                Ok(Some(attributes)) => Some(attributes.kind),
                Err(error) => {
                    self.found(Probe::refused(Name::Base, &error));
                    None
                }
            };
            let kind = match kind? {
                // What it leads to; a server that cannot say leaves it to MKDIR.
                Kind::Symlink => match session.lstat(&RemotePath::new(format!("{place}/."))).await {
                    Ok(Some(attributes)) => attributes.kind,
                    _ => Kind::Unknown,
                },
                kind => kind,
            };
            if matches!(kind, Kind::File | Kind::Other) {
                let text = format!("{} is not a directory", or_here(&place));
                self.found(Probe::fail(Name::Base, text).hint("move it away on the server, or choose another base"));
                return None;
            }
            return Some(Base { missing: place != base, place });
        }
    }

    /// Makes the probes' directory.
    pub(super) async fn mkdir(&mut self, session: &Session, base: &Base) -> Option<RemotePath> {
        let shown = or_here(&self.destination.url.base).to_owned();
        let place = or_here(&base.place);
        let directory = self.directory_in(&base.place);
        self.litter.directory(&directory);
        let Err(error) = session.mkdir(directory.as_str()).await else {
            // Said where the name alone does not tell.
            let absolute = session.realpath(&base.place).await.ok().filter(|absolute| absolute != place);
            let absolute = absolute.map(|absolute| format!(" ({absolute})")).unwrap_or_default();
            self.found(match base.missing {
                false => Probe::ok(Name::Base, format!("{shown}{absolute} is a directory")),
                true => Probe::warn(Name::Base, format!("{shown} does not exist; push will create it in {place}"))
                    .hint("if the name is right there is nothing to do"),
            });
            self.found(Probe::ok(Name::Mkdir, directory.as_str()));
            return Some(directory);
        };
        if error.status.is_none() {
            // It may have been carried out.
            self.found(Probe::refused(Name::Mkdir, &error));
            return None;
        }
        self.litter.never_made(&directory);
        let (why, hint) = match base.place.as_str() {
            "/" => self.top(session).await,
            _ => (
                format!("{place} is not writable for this user"),
                Some("let the user write there (chown or chmod on the server), or choose another base".to_owned()),
            ),
        };
        let text = match base.missing {
            true => format!("{shown} does not exist and cannot be created: {why}"),
            false => why,
        };
        let probe = Probe::fail(Name::Base, text);
        self.found(Probe { hint, ..probe });
        self.found(Probe::refused(Name::Mkdir, &error));
        None
    }

    fn directory_in(&self, place: &str) -> RemotePath {
        below(place, &format!(".archiver-check-{:016x}", self.random))
    }

    /// Explains why nothing can be made in `/`, and finds where it can.
    async fn top(&mut self, session: &Session) -> (String, Option<String>) {
        let login = session.realpath("").await.ok();
        let listed = session.list("/", TOP_LEVEL).await.unwrap_or_default();
        let has = |name: &str| listed.iter().any(|entry| entry.name == name);
        // Where a whole system shows there is no chroot, and its directories are nothing to try.
        let whole = has("usr") && has("etc");
        let mut places: Vec<String> = login.filter(|login| is_plain(login)).into_iter().collect();
        if !whole {
            let directories = listed
                .iter()
                .filter(|entry| matches!(entry.attributes.kind, Kind::Directory | Kind::Symlink | Kind::Unknown));
            for entry in directories {
                let place = format!("/{}", entry.name);
                if is_plain(&place) && !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        let mut writable = Vec::new();
        for place in places {
            let directory = self.directory_in(&place);
            self.litter.directory(&directory);
            match session.mkdir(directory.as_str()).await {
                Ok(()) => {
                    if session.rmdir(directory.as_str()).await.is_ok() {
                        self.litter.never_made(&directory);
                    }
                    writable.push(place);
                }
                Err(error) if error.status.is_some() => self.litter.never_made(&directory),
                Err(_) => break,
            }
        }
        let why = match whole {
            true => "the server's root directory is not writable for this user".to_owned(),
            false => "/ is not writable: this user is confined to a chroot, whose root sshd wants writable for nobody \
                      else (ChrootDirectory, atmoz/sftp)"
                .to_owned(),
        };
        let hint = match &writable[..] {
            [] => "no directory in it is writable either: make one on the server that belongs to the user".to_owned(),
            [first, ..] => {
                let url = DestinationUrl { base: first.clone(), ..self.destination.url.clone() };
                format!("writable here: {}; use --to {url}", writable.join(", "))
            }
        };
        (why, Some(hint))
    }
}

/// Whether what a server calls a directory is a place below its root, whatever else it would lead us to.
fn is_plain(place: &str) -> bool {
    let parts = place.strip_prefix('/').map(|below| below.split('/'));
    parts.is_some_and(|mut parts| parts.all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_places_are_tried() {
        assert!(is_plain("/upload") && is_plain("/a/b c"));
        for odd in ["", "/", "a", "../etc", "/..", "/a/../b", "/a//b", "//etc", "/a\0b", "/."] {
            assert!(!is_plain(odd), "{odd:?}");
        }
    }

    #[test]
    fn names_of_probes_stay_below_their_place() {
        assert_eq!(below("/", "a").as_str(), "/a");
        assert_eq!(below("", "a").as_str(), "a");
        assert_eq!(below("in/box", "a").as_str(), "in/box/a");
    }
}
