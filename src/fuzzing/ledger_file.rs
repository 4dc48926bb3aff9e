//! The file of `ledger export`.

use crate::inspect::ledger_file::{Reader, Said, Writer};

pub const WORDS: &[&str] = &[
    "\n",
    "\"",
    "null",
    "\"state\":\"failed\"",
    "\"state\":\"waiting\"",
    "\"staged\":[1,2]",
    "\"record\":null",
    "%00",
    "%C3",
    "-1",
    "18446744073709551615",
    "1970-01-01T00:00:00Z",
];

/// A mistake has its line; what is read is written and read again as the same.
pub fn run(data: &[u8]) {
    let (mut reader, mut writer) = (Reader::default(), Writer::default());
    let (mut text, mut entries) = (String::new(), Vec::new());
    let lines = |bytes: &[u8]| bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    for line in lines(data) {
        match reader.line(&line) {
            Ok(Said::Header(header)) => text += &writer.header(&header),
            Ok(Said::Entry(entry)) => {
                text += &writer.entry(&entry);
                entries.push(entry);
            }
            Ok(Said::End) => {}
            Err(mistake) => {
                assert!(mistake.line > 0 && !mistake.what.is_empty(), "{mistake:?}");
                break;
            }
        }
    }
    if text.is_empty() {
        return;
    }
    text += &writer.trailer();
    let (mut again, mut entries) = (Reader::default(), entries.into_iter());
    for line in lines(text.as_bytes()) {
        match again.line(&line) {
            Ok(Said::Entry(entry)) => assert_eq!(Some(entry), entries.next(), "{text}"),
            Ok(Said::Header(_) | Said::End) => {}
            // It was cut off before this could be seen.
            Err(mistake) => assert!(mistake.what.contains("of the same file"), "{mistake}: {text}"),
        }
    }
}
