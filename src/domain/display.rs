//! File names as people may see them: control characters escaped, so that a name cannot steer a terminal or forge a
//! line of a log.

use std::borrow::Cow;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Text with control characters (and bidirectional overrides) written as escapes; `Display` only.
pub struct Escaped<'a>(Cow<'a, str>);

pub fn escaped(text: &str) -> Escaped<'_> {
    Escaped(text.into())
}

/// A path for people. Bytes that are not UTF-8 appear as `\xNN`.
pub fn path(path: &Path) -> Escaped<'_> {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Escaped(text.into())
}

/// Whether a character, without being a control character, reorders, breaks or hides the text around it: the marks of
/// Unicode UAX #9, line and paragraph separators, and what no terminal draws but two names may differ in. The joiners
/// stay, for scripts and emoji need them.
pub fn steers(c: char) -> bool {
    matches!(
        c,
        '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\x{:02x}", c as u32)?,
                c if steers(c) => write!(f, "\\u{{{:04x}}}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Makes JSON safe to look at, whose serialisers escape only the control characters below U+0020: escapes the others and
/// the marks that reorder text, all of which can stand only inside the strings of a serialised document. Line breaks
/// between documents stay.
pub fn inert(json: &str) -> Cow<'_, str> {
    if !json.contains(acts) {
        return json.into();
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match acts(c) {
            // A character beyond U+FFFF is a pair (RFC 8259, section 7).
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
            false => text.push(c),
        }
    }
    text.into()
}

/// Whether a character does something to a terminal or to the text around it.
fn acts(c: char) -> bool {
    (c.is_control() && c != '\n') || steers(c)
}

/// Text as a basic string of TOML: JSON's escapes, but for what is beyond U+FFFF.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    for c in serde_json::Value::from(text).to_string().chars() {
        match c {
            c if acts(c) && c > '\u{ffff}' => quoted.push_str(&format!("\\U{:08x}", c as u32)),
            c if acts(c) => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_json_document_stays_the_same() {
        let value = "é\n\x1b\x7f\u{9b}\u{202e}🌲\u{2028}\u{e0041}";
        let text = serde_json::to_string(value).unwrap();
        let shown = inert(&text);
        assert!(!shown.contains(acts));
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), value);
        let shown = quoted(value);
        assert!(!shown.contains(acts));
        let toml: toml::Table = format!("x = {shown}").parse().unwrap();
        assert_eq!(toml["x"].as_str(), Some(value));
        assert!(matches!(inert("{\"a\":1}\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(escaped("a\x1b[31mb\nc\u{202e}d é 🌲").to_string(), "a\\x1b[31mb\\nc\\u{202e}d é 🌲");
        assert_eq!(path(Path::new(OsStr::from_bytes(b"/a/\xff\x07.csv"))).to_string(), "/a/\\xff\\x07.csv");
        assert_eq!(escaped("\u{61c}a\u{2060}\u{e0041}").to_string(), "\\u{061c}a\\u{2060}\\u{e0041}");
        assert_eq!(escaped("👩\u{200d}👩").to_string(), "👩\u{200d}👩");
    }
}
