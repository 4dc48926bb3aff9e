//! The page for people: one file with its style and its program inside, which asks for `/state.json` and nothing else.

use std::fmt::Write;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

pub const PAGE: &str = include_str!("page.html");

/// Only the page's own `<style>` and `<script>` are allowed (by their hashes, CSP level 2, so neither tag may have
/// attributes), and to load nothing but what this server says. `style="…"` in the markup is not allowed.
pub static POLICY: LazyLock<String> = LazyLock::new(|| policy(PAGE));

fn policy(page: &str) -> String {
    format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        sources(page, "script"),
        sources(page, "style")
    )
}

/// The hashes of what stands between these tags.
fn sources(page: &str, tag: &str) -> String {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let inner = page.split(&open).skip(1).filter_map(|rest| rest.split_once(&close)).map(|(inner, _)| inner);
    let hashes: Vec<_> = inner.map(|inner| format!("'sha256-{}'", base64(&Sha256::digest(inner)))).collect();
    if hashes.is_empty() { "'none'".to_owned() } else { hashes.join(" ") }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let number = group.iter().enumerate().fold(0, |number, (at, byte)| number | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at) & 63) as usize];
            // Infallible for a string.
            let _ = text.write_char(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_knows_the_page_and_nothing_else() {
        assert_eq!(base64(b"fooba"), "Zm9vYmE=");
        assert_eq!(base64(b"foob"), "Zm9vYg==");
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
        // The example of the CSP specification, level 2, section 7.17.
        let example = policy("<script>alert('Hello, world.');</script>");
        assert!(example.contains("script-src 'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='; style-src 'none'"));
        for tag in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), PAGE.matches(&format!("<{tag}>")).count(), "{tag}");
        }
        assert!(!PAGE.contains(" style=\"") && !PAGE.contains(" onclick=") && !PAGE.contains(" src=\"http"));
    }
}
