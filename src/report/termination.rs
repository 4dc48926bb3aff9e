//! The termination log: one line of JSON for whoever looks after the process, such as Kubernetes, which shows the file's
//! content as the message of a container that ended.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::domain::display::{self, inert};
use crate::domain::{Row, Totals};

/// What Kubernetes reads of it (`MaxContainerTerminationMessageLength` of k8s.io/kubernetes/pkg/kubelet/container).
const MOST_BYTES: usize = 4096;
/// Room that a sentence of its own takes at most, so that others have some.
const REASON_BYTES: usize = 1500;
const FILE_REASON_BYTES: usize = 240;
/// Files that are named at most.
pub const FILES: usize = 20;

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ending {
    pub exit: u8,
    pub reason: String,
    /// Where there was a run.
    pub totals: Option<Totals>,
    /// Failed files, then those that were left, as many as anybody would read.
    pub files: Vec<Row>,
}

/// The line, without its newline: at most 4095 bytes, and always a whole document.
///
/// ```json
/// {"version":1,"exit":4,"reason":"…","totals":{"archived":2,"skipped":0,"deferred":1,"failed":0,"bytes":9},
///  "files":[{"path":"/var/a.csv","status":"deferred","reason":"still open for writing"}],"more":0}
/// ```
///
/// `totals`, `files` and `more` are there where there was a run; `more` counts the files without success that are not named.
pub fn line(ending: &Ending) -> String {
    let mut named = Vec::new();
    let mut text = document(ending, &named);
    for row in &ending.files {
        let reason = row.reason.as_deref().map(|reason| cut(reason, FILE_REASON_BYTES));
        named.push(json!({
            "path": display::path(&row.path).to_string(), "status": row.status.to_string(), "reason": reason,
        }));
        let longer = document(ending, &named);
        if longer.len() >= MOST_BYTES {
            // A shorter one may fit all the same.
            named.pop();
            continue;
        }
        text = longer;
    }
    text
}

fn document(ending: &Ending, named: &[Value]) -> String {
    let reason = json!(cut(&ending.reason, REASON_BYTES));
    let mut text = format!("{{\"version\":1,\"exit\":{},\"reason\":{reason}", ending.exit);
    if let Some(Totals { archived, skipped, deferred, failed, bytes }) = ending.totals {
        let more = (deferred + failed).saturating_sub(named.len() as u64);
        let files = named.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        text.push_str(&format!(
            ",\"totals\":{{\"archived\":{archived},\"skipped\":{skipped},\"deferred\":{deferred},\"failed\":{failed},\
             \"bytes\":{bytes}}},\"files\":[{files}],\"more\":{more}"
        ));
    }
    text.push('}');
    inert(&text).into_owned()
}

/// The beginning of a text, as much as fits into so many bytes of JSON.
fn cut(text: &str, most: usize) -> String {
    let bytes = |c: char| inert(&json!(c.to_string()).to_string()).len() - 2;
    let mut room = most;
    let fits = |c: &char| {
        let fits = bytes(*c) <= room;
        room = room.saturating_sub(bytes(*c));
        fits
    };
    let kept: String = text.chars().take_while(fits).collect();
    if kept.len() == text.len() { kept } else { format!("{kept}…") }
}

/// Writes it in place: in a container the file itself is mounted, so that no other one can take its name.
pub fn write(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Empties it, so that what an earlier process left is not taken for the end of this one, should it be killed.
pub fn clear(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::Status;

    fn row(path: &str, reason: &str) -> Row {
        Row {
            source: String::new(),
            path: PathBuf::from(path),
            remote: None,
            bytes: 1,
            sha256: None,
            status: Status::Deferred,
            reason: Some(reason.to_owned()),
            attempts: 0,
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn a_run_is_told_with_its_leftovers() {
        let totals = Totals { archived: 2, skipped: 0, deferred: 2, failed: 0, bytes: 9 };
        let files = vec![row("/var/a\n.csv", "still open for writing")];
        let text = line(&Ending { exit: 4, reason: "stopped".into(), totals: Some(totals), files });
        insta::assert_snapshot!(text, @r#"{"version":1,"exit":4,"reason":"stopped","totals":{"archived":2,"skipped":0,"deferred":2,"failed":0,"bytes":9},"files":[{"path":"/var/a\\n.csv","reason":"still open for writing","status":"deferred"}],"more":1}"#);
    }

    #[test]
    fn what_never_began_has_no_totals() {
        let text = line(&Ending { exit: 2, reason: "\"no\" destination".into(), totals: None, files: Vec::new() });
        insta::assert_snapshot!(text, @r#"{"version":1,"exit":2,"reason":"\"no\" destination"}"#);
    }

    proptest! {
        #[test]
        fn it_is_short_and_whole_whatever_it_tells(
            reason in ".{0,3000}",
            files in proptest::collection::vec(("[^/\0]{0,400}", ".{0,900}"), 0..FILES),
        ) {
            let files: Vec<_> = files.iter().map(|(path, reason)| row(path, reason)).collect();
            let totals = Totals { deferred: files.len() as u64, ..Totals::default() };
            let text = line(&Ending { exit: 4, reason, totals: Some(totals), files: files.clone() });
            prop_assert!(text.len() < MOST_BYTES, "{} bytes", text.len());
            prop_assert_eq!(text.lines().count(), 1);
            let document: Value = serde_json::from_str(&text).unwrap();
            let named = document["files"].as_array().unwrap().len();
            prop_assert_eq!(document["more"].as_u64().unwrap(), (files.len() - named) as u64);
            prop_assert!(files.is_empty() || named > 0);
        }
    }
}
