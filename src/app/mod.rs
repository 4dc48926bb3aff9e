//! One function a command: settings in, exit code out. The only place that knows all the rooms.

use std::io::{self, Write};
use std::path::Path;

use tokio::runtime::Runtime;

use crate::cli::{Cli, Command, ConfigCommand};
use crate::config::settings::{LogSettings, OutputSettings};
use crate::config::{self, CommandKind, CommandLayer, Environment, Resolved};
use crate::domain::display;
use crate::exit::Exit;
use crate::monitor::client::Question;
use crate::report::{Console, error, logging};

mod archive;
mod check;
mod demo;
mod health;
mod run;
mod runtime;
mod serve;

/// Runs one command line, from arguments to exit code.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Exit {
    runtime::keep_secrets();
    let arguments: Vec<_> = arguments.into_iter().collect();
    let cli = match Cli::parse_from_arguments(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // It quotes arguments as they are, so it is asked for anew with harmless ones.
            let shown = arguments.iter().map(|argument| display::path(Path::new(argument)).to_string());
            let error = Cli::parse_from_arguments(shown).err().unwrap_or(error);
            // Help and version go to standard output and are no error. A reader that went away needs neither.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let environment = Environment::of_process();
    match cli.command {
        Command::Push(args) => with_settings(args.layer(), &environment, CommandKind::Push, archive::push),
        Command::Watch(args) => with_settings(args.layer(), &environment, CommandKind::Watch, archive::watch),
        Command::Run(args) => {
            let command = args.command.clone();
            with_settings(args.layer(), &environment, CommandKind::Watch, |resolved, console| {
                run::run(resolved, command, environment.secrets().collect(), console)
            })
        }
        Command::Check(args) => with_settings(args.layer(), &environment, CommandKind::Check, check::run),
        Command::Health(args) => {
            let question = if args.ready { Question::Ready } else { Question::Alive };
            let layer = args.layer();
            let console = Console::stderr(&OutputSettings { quiet: layer.quiet, ..OutputSettings::default() });
            match config::resolve_metrics(&layer, &environment) {
                Ok((metrics, origin)) => health::run(&metrics, &origin, question, &console),
                Err(mistakes) => usage(&mistakes),
            }
        }
        Command::Demo(args) => {
            with_log(args.log.clone().layer(), &environment, CommandKind::Demo, |console| demo::run(args, console))
        }
        Command::Serve(args) => {
            with_log(args.log.clone().layer(), &environment, CommandKind::Serve, |console| serve::run(args, console))
        }
        Command::Config(args) => match args.command {
            ConfigCommand::Show(show) => {
                let format = show.format;
                match config::resolve(&show.layer(), &environment, CommandKind::Show) {
                    Ok(resolved) => {
                        warn(&resolved.warnings);
                        print(|out| config::show::write(&resolved, format, out))
                    }
                    Err(mistakes) => usage(&mistakes),
                }
            }
            ConfigCommand::Schema => print(config::schema::write),
            ConfigCommand::Init => print(config::init::write),
        },
        Command::Completions(args) => print(|out| crate::cli::completions::write(args.shell, out)),
        Command::Man => print(crate::cli::man::write),
    }
}

/// Resolves the settings, sets the log up and runs a command with them.
fn with_settings<F: Future<Output = Exit>>(
    layer: CommandLayer,
    environment: &Environment,
    kind: CommandKind,
    command: impl FnOnce(Resolved, Console) -> F,
) -> Exit {
    let resolved = match config::resolve(&layer, environment, kind) {
        Ok(resolved) => resolved,
        Err(mistakes) => return usage(&mistakes),
    };
    let console = Console::stderr(&resolved.settings.output);
    if let Err(reason) = logging::init(&resolved.settings.log, &console) {
        return failed(&console, "the log cannot be set up", &reason, None, Exit::Usage);
    }
    for warning in &resolved.warnings {
        console.line(&format!("warning: {warning}"));
    }
    match runtime::start() {
        Ok(runtime) => finish(runtime, |runtime| runtime.block_on(command(resolved, console))),
        Err(error) => failed(&console, "the program cannot start", &error.to_string(), None, Exit::Usage),
    }
}

/// The same for commands that read no configuration.
fn with_log<F: Future<Output = Exit>>(
    layer: CommandLayer,
    environment: &Environment,
    kind: CommandKind,
    command: impl FnOnce(Console) -> F,
) -> Exit {
    let log: LogSettings = match config::resolve_log(&layer, environment, kind) {
        Ok(log) => log,
        Err(mistakes) => return usage(&mistakes),
    };
    let console = Console::stderr(&OutputSettings { quiet: layer.quiet, ..OutputSettings::default() });
    if let Err(reason) = logging::init(&log, &console) {
        return failed(&console, "the log cannot be set up", &reason, None, Exit::Usage);
    }
    match runtime::start() {
        Ok(runtime) => finish(runtime, |runtime| runtime.block_on(command(console))),
        Err(error) => failed(&console, "the program cannot start", &error.to_string(), None, Exit::Usage),
    }
}

/// Blocking threads that are stuck, in a read from a terminal or a dead network mount, do not hold up the exit.
fn finish(runtime: Runtime, run: impl FnOnce(&Runtime) -> Exit) -> Exit {
    let exit = run(&runtime);
    runtime.shutdown_background();
    exit
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn print(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Exit {
    let mut text = Vec::new();
    match write(&mut text).and_then(|()| io::stdout().lock().write_all(&text)) {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            eprintln!("error: cannot write to standard output: {error}");
            Exit::SomeFailed
        }
    }
}

fn usage(mistakes: &config::ConfigErrors) -> Exit {
    eprintln!("{mistakes}");
    Exit::Usage
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

/// Says what failed, why and what to do, and gives the exit code back.
fn failed(console: &Console, what: &str, why: &str, hint: Option<&str>, exit: Exit) -> Exit {
    console.line(&error::render(what, Some(why), hint, console.colour()));
    exit
}
