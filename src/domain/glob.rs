//! Globs as people write them, compiled: what the configuration checks and selection uses is one rule.
//!
//! A glob without `/` matches the file's own name at any depth, one with `/` the whole path below the source; a `/` in
//! front is the source itself. `*` and `?` do not match `/`; `**` does.

use globset::{Glob, GlobBuilder};

/// One of `include`. With a `/` at its end it is a directory, and means all that is below it.
pub fn include(text: &str) -> Result<Glob, String> {
    compiled(text, &included(text))
}

/// One of `exclude`: what it matches goes with all that is below it, so a `/` at its end adds nothing.
pub fn exclude(text: &str) -> Result<Glob, String> {
    compiled(text, text.trim_end_matches('/'))
}

fn included(text: &str) -> String {
    if text.ends_with('/') { format!("{text}**") } else { text.to_owned() }
}

fn compiled(text: &str, meant: &str) -> Result<Glob, String> {
    let pattern = match meant.strip_prefix('/') {
        Some(anchored) => anchored.to_owned(),
        None if meant.contains('/') => meant.to_owned(),
        None => format!("**/{meant}"),
    };
    if meant.is_empty() || pattern.is_empty() {
        return Err("an empty glob matches nothing; write `*` for every file".into());
    }
    GlobBuilder::new(&pattern)
        .literal_separator(true)
        .build()
        .map_err(|error| format!("`{text}` is no glob: {}; `\\` takes a special meaning away", error.kind()))
}

/// Globs of the directories on the way to what an include may match.
pub fn reach(include: &str) -> Vec<String> {
    let include = &included(include);
    let anchored = include.trim_start_matches('/');
    // Alternatives, classes and escapes may hide a `/`.
    let anywhere = !include.contains('/') || anchored.contains(['{', '[', '\\']);
    if anywhere {
        return vec!["**".to_owned()];
    }
    let parts: Vec<_> = anchored.split('/').collect();
    // From the first part with `**` on there is no telling.
    let told = parts.iter().position(|part| part.contains("**"));
    let last = told.unwrap_or(parts.len()).min(parts.len() - 1);
    let mut globs: Vec<_> = (1..=last).map(|end| format!("/{}", parts[..end].join("/"))).collect();
    if let Some(told) = told {
        globs.push(format!("/{}", [&parts[..told], &["**"]].concat().join("/")));
    }
    globs
}
