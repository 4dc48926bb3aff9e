//! File names as people may see them: control characters escaped, so that a name cannot steer a terminal or forge a
//! line of a log.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Text with control characters (and bidirectional overrides) written as escapes; `Display` only.
pub struct Escaped<'a>(std::borrow::Cow<'a, str>);

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

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\x{:02x}", c as u32)?,
                // Marks that reorder or hide the text around them (Unicode UAX #9).
                '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'
                | '\u{2029}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}' => {
                    write!(f, "\\u{{{:04x}}}", c as u32)?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(escaped("a\x1b[31mb\nc\u{202e}d é 🌲").to_string(), "a\\x1b[31mb\\nc\\u{202e}d é 🌲");
        assert_eq!(path(Path::new(OsStr::from_bytes(b"/a/\xff\x07.csv"))).to_string(), "/a/\\xff\\x07.csv");
    }
}
