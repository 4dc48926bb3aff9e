//! The rooms and their doors: which module of the program may import which, read from the sources themselves.

use std::fs;
use std::path::{Path, PathBuf};

/// Parts that know of the domain and the settings, and of nothing else. They meet in the pipeline.
const COMPONENTS: &[&str] = &[
    "source",
    "selection",
    "readiness",
    "localfs",
    "ledger",
    "destination",
    "dispose",
    "embedded",
    "report",
    "monitor",
];

/// Doors between rooms that would have none by the rule, each with its reason.
const DOORS: &[(&str, &str, &str)] = &[
    ("source", "localfs", "both handle local files without following symlinks"),
    ("source", "selection", "a walk does not descend where nothing can be selected"),
    ("source", "readiness", "an opened file's state is what readiness judges"),
    ("dispose", "localfs", "both handle local files without following symlinks"),
    ("monitor", "report", "it shows what the pipeline reports"),
    ("demo", "pipeline", "the demo runs the real one"),
    ("embedded", "fuzzing", "the body of a fuzz target stands where what it tries is private"),
];

const LONGEST_FILE: usize = 600;

/// Whether `importer` may name `imported`; both are modules right below the crate's root.
fn may_import(importer: &str, imported: &str) -> bool {
    let is_component = |module| COMPONENTS.contains(&module);
    if importer == imported || DOORS.iter().any(|(from, to, _)| (*from, *to) == (importer, imported)) {
        return true;
    }
    // Empty in what is released.
    if imported == "failpoint" {
        return importer != "domain";
    }
    match importer {
        "main" => ["app", "cli", "exit"].contains(&imported),
        "app" => imported != "main",
        // Built for tests only: it tries the rules of every room.
        "fuzzing" => !["main", "app"].contains(&imported),
        "cli" => ["config", "domain", "exit"].contains(&imported),
        "pipeline" | "check" | "demo" | "inspect" => {
            is_component(imported) || ["config", "domain", "exit", "shutdown"].contains(&imported)
        }
        component if is_component(component) => ["config", "domain"].contains(&imported),
        "config" | "exit" | "shutdown" | "signals" | "command" => imported == "domain",
        "domain" | "failpoint" => false,
        unknown => panic!("`{unknown}` is a new room: add it to `COMPONENTS` or `may_import` in {}", file!()),
    }
}

/// The modules right below the crate's root (`crate::`, or `archiver::` in the binary) that a source text names, with
/// the line of each.
fn imports(text: &str, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Unit tests may reach across, for they are built only for themselves.
    let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = program.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    for (at, root) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        found.extend(heads(&code[at + root.len()..]).into_iter().map(|module| (line, module)));
    }
    found
}

/// The first names of what follows `crate::`: one, or each of a braced list.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                names.push(name(list[start..at].trim()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn imports_go_one_way() {
    let source = root().join("src");
    let mut violations = Vec::new();
    for file in rust_files(&source) {
        let below = file.strip_prefix(&source).unwrap();
        let module = below.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        // The crate's root names every room, and tests that stand in a file of their own may reach across.
        if module == "lib" || below.ends_with("tests.rs") {
            continue;
        }
        let crate_root = if module == "main" { "archiver::" } else { "crate::" };
        for (line, imported) in imports(&fs::read_to_string(&file).unwrap(), crate_root) {
            if !may_import(module, &imported) {
                violations.push(format!("src/{}:{line}: `{module}` must not import `{imported}`", below.display()));
            }
        }
    }
    assert!(violations.is_empty(), "see docs/architecture.md, “Which way imports go”:\n{}", violations.join("\n"));
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<_> = ["src", "tests", "benches"]
        .map(|name| root().join(name))
        .iter()
        .filter(|directory| directory.exists())
        .flat_map(|directory| rust_files(directory))
        .filter_map(|file| {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            (lines > LONGEST_FILE).then(|| format!("{}: {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines:\n{}", long.join("\n"));
}

#[test]
fn the_reader_sees_every_way_to_import() {
    let text = "//! crate::comment\nuse crate::domain::{Row, Status};\nuse crate::{config::settings, ledger::{Ledger, Cursor}, report};\n\
        fn f() -> crate::exit::Exit { crate::app::run() } // crate::other\nfn g() { my_crate::x() }\n\
        #[cfg(test)]\nmod tests { use crate::pipeline; }";
    let modules: Vec<_> =
        imports(text, "crate::").into_iter().map(|(line, module)| format!("{line} {module}")).collect();
    assert_eq!(modules, ["2 domain", "3 config", "3 ledger", "3 report", "4 exit", "4 app"]);
}

#[test]
fn the_rule_refuses_what_it_should() {
    assert!(may_import("pipeline", "ledger") && may_import("app", "pipeline") && may_import("source", "domain"));
    for (importer, imported) in [
        ("ledger", "destination"),
        ("domain", "config"),
        ("report", "pipeline"),
        ("pipeline", "app"),
        ("cli", "pipeline"),
    ] {
        assert!(!may_import(importer, imported), "{importer} → {imported}");
    }
}
