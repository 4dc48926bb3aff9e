//! Errors as a person meets them at the end of a run: what failed on what, why, and what to do next.

use super::Colour;
use crate::domain::display::escaped;

/// Renders an error for standard error, without a newline at its end:
///
/// ```text
/// error: connecting to sftp:22
///   cause: connection refused
///   try: see that the server is up: archiver check --to sftp://pine@sftp/upload
/// ```
///
/// Texts may have several lines; those after the first are indented below it. Other control characters are escaped.
pub fn render(what: &str, why: Option<&str>, hint: Option<&str>, colour: Colour) -> String {
    let mut text = block(&colour.paint("1;31", "error:"), 2, what);
    for (label, content) in [("cause:", why), ("try:", hint)] {
        if let Some(content) = content {
            text.push_str(&format!("\n  {}", block(&colour.paint("1", label), 4, content)));
        }
    }
    text
}

fn block(label: &str, indent: usize, content: &str) -> String {
    let mut text = label.to_owned();
    for (number, line) in content.lines().enumerate() {
        match number {
            0 => text.push(' '),
            _ => text.push_str(&format!("\n{:indent$}", "")),
        }
        text.push_str(&escaped(line).to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_why_and_what_next() {
        let text = render(
            "connecting to sftp:22",
            Some("connection refused"),
            Some("start it:\ndocker compose up sftp"),
            Colour::Plain,
        );
        insta::assert_snapshot!(text, @r"
        error: connecting to sftp:22
          cause: connection refused
          try: start it:
            docker compose up sftp
        ");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let text = render("a\x1b[2Jb", None, None, Colour::Plain);
        assert_eq!(text, "error: a\\x1b[2Jb");
        assert!(render("x", None, None, Colour::Ansi).starts_with("\x1b[1;31merror:\x1b[0m x"));
    }
}
