//! JSON that is safe to look at: serialisers escape only the control characters below U+0020.

use std::borrow::Cow;

/// Escapes the remaining control characters and the marks that reorder text (Unicode UAX #9), all of which can stand
/// only inside the strings of a serialised document. Line breaks between documents stay.
pub fn inert(json: &str) -> Cow<'_, str> {
    if !json.contains(steers) {
        return json.into();
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match steers(c) {
            true => text.push_str(&format!("\\u{:04x}", c as u32)),
            false => text.push(c),
        }
    }
    text.into()
}

fn steers(c: char) -> bool {
    let reorders =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    (c.is_control() && c != '\n') || reorders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_stays_the_same() {
        let value = "é\n\x1b\x7f\u{9b}\u{202e}🌲\u{2028}";
        let text = serde_json::to_string(value).unwrap();
        let shown = inert(&text);
        assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'));
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), value);
        assert!(matches!(inert("{\"a\":1}\n"), Cow::Borrowed(_)));
    }
}
