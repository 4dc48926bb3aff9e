//! The command line: it is consistent, teaches, and becomes a layer.

use std::path::PathBuf;

use archiver::cli::{self, Cli, Command};
use archiver::config::CommandLayer;
use archiver::config::settings::{Execution, FileList, ListOrigin, Separator};
use archiver::domain::Repeat;

fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
    Cli::parse_from_arguments(["archiver"].iter().chain(arguments))
}

fn layer(arguments: &[&str]) -> CommandLayer {
    match parse(arguments).unwrap().command {
        Command::Push(args) => args.layer(),
        Command::Watch(args) => args.layer(),
        Command::Run(args) => args.layer(),
        Command::Check(args) => args.layer(),
        other => panic!("{other:?} has no layer"),
    }
}

/// Every flag of every command, with what it says about itself.
fn every_argument(command: &clap::Command, visit: &mut dyn FnMut(&clap::Command, &clap::Arg)) {
    command.get_arguments().for_each(|arg| visit(command, arg));
    command.get_subcommands().for_each(|command| every_argument(command, visit));
}

#[test]
fn the_definition_is_consistent() {
    cli::command().debug_assert();
}

#[test]
fn every_argument_explains_itself() {
    every_argument(&cli::command(), &mut |command, arg| {
        assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
    });
}

#[test]
fn every_flag_of_a_key_exists_and_sets_it() {
    for key in archiver::config::keys::KEYS {
        let Some(flag) = key.flag else { continue };
        let value = key.choices.first().copied().unwrap_or("x");
        // All that the others take, and one more.
        let set = layer(&["run", flag, value, "--", "true"]).layer.values;
        let names: Vec<_> = set.keys().copied().collect();
        assert_eq!(names, [key.name], "{flag}");
        assert_eq!(set[key.name].origin.to_string(), flag);
    }
}

#[test]
fn short_forms_are_those_of_the_specification() {
    let set = layer(&["push", "-t", "sftp://h/", "-i", "a", "-i", "b", "-F", "none", "-j", "3", "-n", "-v", "dir"]);
    let values: Vec<_> = set.layer.values.iter().map(|(name, entry)| (*name, entry.value.texts().join(","))).collect();
    let expected = [
        ("destination.identity", "a,b"),
        ("destination.ssh-config", "none"),
        ("destination.url", "sftp://h/"),
        ("log.level", "warn,archiver=debug"),
        ("pool.jobs", "3"),
    ];
    assert_eq!(values, expected.map(|(name, text)| (name, text.to_owned())));
    assert_eq!(set.execution, Execution::DryRun);
    assert_eq!(set.repeat, Repeat::Skip);
    assert_eq!(set.paths, [PathBuf::from("dir")]);
}

#[test]
fn lists_of_files_come_from_standard_input_or_a_file() {
    let list = |arguments: &[&str]| layer(arguments).files_from.unwrap();
    let stdin = FileList { from: ListOrigin::Stdin, separator: Separator::Nul };
    assert_eq!(list(&["push", "--files-from", "-", "-0"]), stdin);
    let file = FileList { from: ListOrigin::File("l".into()), separator: Separator::Newline };
    assert_eq!(list(&["push", "--files-from", "l", "dir"]), file);
    assert!(parse(&["push", "-0", "dir"]).unwrap_err().to_string().contains("--files-from"));
}

#[test]
fn mistakes_of_usage_exit_with_2() {
    for bad in [
        &["push", "--verify", "hash", "x"][..],
        &["push", "--password", "hunter2", "x"],
        &["push", "-q", "-v", "x"],
        &["serve", "--listen", "here"],
        &["completions", "tcl"],
        &["frobnicate"],
        &["run"],
    ] {
        assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
    }
    assert!(parse(&["push", "--verify", "readbak"]).unwrap_err().to_string().contains("'readback'"));
    assert_eq!(parse(&["--help"]).unwrap_err().exit_code(), 0);
}

#[test]
fn serve_listens_on_loopback_unless_told_otherwise() {
    let Command::Serve(args) = parse(&["serve"]).unwrap().command else { panic!("not serve") };
    assert_eq!(args.listen.to_string(), "127.0.0.1:2222");
}

#[test]
fn help_names_variables_and_defaults() {
    let help = parse(&["push", "--help"]).unwrap_err().to_string();
    for part in
        ["Destination:", "Sources:", "[env: ARCHIVER_TO]", "[default: %Y/%m/%d]", "Examples:", "--files-from <FILE>"]
    {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}

#[test]
fn completions_and_the_manual_page_cover_every_command() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Fish, clap_complete::Shell::Zsh] {
        let mut script = Vec::new();
        cli::completions::write(shell, &mut script).unwrap();
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("files-from") && script.contains("readback"), "{shell}");
    }
    let mut page = Vec::new();
    cli::man::write(&mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    for name in ["ARCHIVER", "ARCHIVER-PUSH", "ARCHIVER-CONFIG-SHOW", "ARCHIVER-SERVE"] {
        assert!(
            page.contains(&format!(".TH {name} ")),
            "{name} is not in {}",
            page.lines().filter(|l| l.starts_with(".TH")).collect::<String>()
        );
    }
}
