//! One function a command: settings in, exit code out. The only place that knows all the rooms.

use std::io::{self, Write};
use std::path::Path;

use archive::Mode;
use ending::{Ended, TerminationLog};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::cli::{Cli, Command, ConfigCommand};
use crate::config::settings::{LogSettings, OutputSettings};
use crate::config::{self, CommandKind, CommandLayer, ConfigErrors, Environment, Resolved, Typed};
use crate::domain::display;
use crate::exit::Exit;
use crate::monitor::client::Question;
use crate::report::{Colour, Console, error, logging};
use crate::signals::{Held, Signals};

mod archive;
mod check;
mod demo;
mod ending;
mod health;
mod inspect;
mod ledger;
mod reload;
mod run;
mod runtime;
mod serve;
mod verify;
mod wishes;

/// Runs one command line, from arguments to exit code.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Exit {
    let held = Held::hold();
    runtime::keep_secrets();
    let arguments: Vec<_> = arguments.into_iter().collect();
    let cli = match Cli::parse_from_arguments(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            held.let_go();
            // It quotes arguments as they are, so it is asked for anew with harmless ones.
            let shown = arguments.iter().map(|argument| display::path(Path::new(argument)).to_string());
            let error = Cli::parse_from_arguments(shown).err().unwrap_or(error);
            // Help and version go to standard output and are no error. A reader that went away needs neither.
            let _ = error.print();
            if !error.use_stderr() {
                return Exit::Done;
            }
            let text = error.to_string();
            let reason = Some(ending::first_paragraph(text.trim_start_matches("error: ")));
            return TerminationLog::of_arguments(&arguments).tell(&Ended { reason, ..Exit::Usage.into() });
        }
    };
    let environment = Environment::of_process();
    let typed = |command, kind| Typed { command, environment: environment.clone(), kind };
    match cli.command {
        Command::Push(args) => {
            let typed = typed(args.layer(), CommandKind::Push);
            start(held, &PUSH, |signals| archive::until_signalled(typed, Mode::Push, signals))
        }
        Command::Watch(args) => {
            let typed = typed(args.layer(), CommandKind::Watch);
            start(held, &WATCH, |signals| archive::until_signalled(typed, Mode::Watch(None), signals))
        }
        Command::Run(args) => {
            let command = args.command.clone();
            let typed = typed(args.layer(), CommandKind::Watch);
            start(held, &RUN, |signals| run::run(typed, command, signals))
        }
        Command::Check(args) => {
            let typed = typed(args.layer(), CommandKind::Check);
            start(held, &STOP, |signals| check::run(typed, signals))
        }
        Command::Demo(args) => {
            let layer = args.log.clone().layer();
            start(held, &STOP, |signals| async move {
                match console_of(&layer, &environment, CommandKind::Demo) {
                    Ok(console) => demo::run(args, console, signals).await,
                    Err(exit) => exit,
                }
            })
        }
        Command::Serve(args) => {
            let layer = args.log.clone().layer();
            start(held, &STOP, |signals| async move {
                match console_of(&layer, &environment, CommandKind::Serve) {
                    Ok(console) => serve::run(args, console, signals).await,
                    Err(exit) => exit,
                }
            })
        }
        short => {
            held.let_go();
            answer(short, &environment)
        }
    }
}

/// The signals that each command has a handler for. SIGHUP ends a push, as it ends any program whose terminal is gone.
const STOP: [Signal; 2] = [Signal::TERM, Signal::INT];
const PUSH: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::USR1];
const WATCH: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::USR1, Signal::HUP];
/// What concerns the command, and what this program is asked.
const RUN: [Signal; 6] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR2, Signal::USR1];

/// Runs a command that lives for a while. Its signals have handlers before anything of it is done.
fn start<F: Future<Output = Exit>>(held: Held, wanted: &[Signal], command: impl FnOnce(Signals) -> F) -> Exit {
    let runtime = match runtime::start() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&error),
    };
    let signals = {
        let _within = runtime.enter();
        Signals::listen(wanted)
    };
    held.let_go();
    match signals {
        Ok(signals) => finish(runtime, |runtime| runtime.block_on(command(signals))),
        Err(error) => {
            eprintln!("{}", error::render("signals cannot be handled", Some(&error.to_string()), None, Colour::Plain));
            Exit::Usage
        }
    }
}

/// Commands that answer a question, change nothing on the server and may be killed at any time.
fn answer(command: Command, environment: &Environment) -> Exit {
    let typed = |command, kind| Typed { command, environment: environment.clone(), kind };
    match command {
        Command::Health(args) => {
            let question = if args.ready { Question::Ready } else { Question::Alive };
            let layer = args.layer();
            let console = Console::stderr(&OutputSettings { quiet: layer.quiet, ..OutputSettings::default() });
            match config::resolve_metrics(&layer, environment) {
                Ok((metrics, origin)) => health::run(&metrics, &origin, question, &console),
                Err(mistakes) => usage(&mistakes),
            }
        }
        Command::Verify(args) => {
            let typed = typed(args.layer(), CommandKind::Check);
            with_settings(typed, |resolved, console| verify::run(resolved, args, console))
        }
        Command::Status(args) => {
            let typed = typed(args.layer(), CommandKind::Inspect);
            with_settings(typed, |resolved, console| inspect::status(resolved, args, console))
        }
        Command::Retry(args) => {
            let typed = typed(args.layer(), CommandKind::Inspect);
            with_settings(typed, |resolved, console| inspect::retry(resolved, args, console))
        }
        Command::Ledger(args) => {
            let typed = typed(args.command.layer(), CommandKind::Inspect);
            with_settings(typed, |resolved, console| ledger::run(resolved, args.command, console))
        }
        Command::Config(args) => match args.command {
            ConfigCommand::Show(show) => {
                let format = show.format;
                match config::resolve(&show.layer(), environment, CommandKind::Show) {
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
        Command::Push(_)
        | Command::Watch(_)
        | Command::Run(_)
        | Command::Check(_)
        | Command::Demo(_)
        | Command::Serve(_) => unreachable!("they live for a while"),
    }
}

/// Settings and log, and then the command.
fn with_settings<F: Future<Output = Exit>>(typed: Typed, command: impl FnOnce(Resolved, Console) -> F) -> Exit {
    let runtime = match runtime::start() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&error),
    };
    finish(runtime, |runtime| {
        runtime.block_on(async {
            match settings(&typed).await {
                Ok((resolved, console)) => command(resolved, console).await,
                Err(unsettled) => unsettled.tell(),
            }
        })
    })
}

fn cannot_start(error: &io::Error) -> Exit {
    eprintln!("{}", error::render("the program cannot start", Some(&error.to_string()), None, Colour::Plain));
    Exit::Usage
}

/// Why there are no settings to work with.
enum Unsettled {
    Mistakes(ConfigErrors),
    /// The log cannot be set up.
    Log(Console, String),
}

impl Unsettled {
    fn tell(self) -> Exit {
        match self {
            Self::Mistakes(mistakes) => usage(&mistakes),
            Self::Log(console, reason) => failed(&console, "the log cannot be set up", &reason, None, Exit::Usage),
        }
    }
}

/// Resolves the settings, and sets the log up.
async fn settings(typed: &Typed) -> Result<(Resolved, Console), Unsettled> {
    // The file may be a pipe that nobody writes to, or lie on a server that does not answer.
    let resolving = tokio::task::spawn_blocking({
        let typed = typed.clone();
        move || typed.resolve()
    });
    let resolved = resolving.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let resolved = resolved.map_err(Unsettled::Mistakes)?;
    let console = Console::stderr(&resolved.settings.output);
    if let Err(reason) = logging::init(&resolved.settings.log, &console) {
        return Err(Unsettled::Log(console, reason));
    }
    for warning in &resolved.warnings {
        console.line(&format!("warning: {warning}"));
    }
    Ok((resolved, console))
}

/// The log alone, for commands that read no configuration.
fn console_of(layer: &CommandLayer, environment: &Environment, kind: CommandKind) -> Result<Console, Exit> {
    let log: LogSettings = config::resolve_log(layer, environment, kind).map_err(|mistakes| usage(&mistakes))?;
    let console = Console::stderr(&OutputSettings { quiet: layer.quiet, ..OutputSettings::default() });
    match logging::init(&log, &console) {
        Ok(()) => Ok(console),
        Err(reason) => Err(failed(&console, "the log cannot be set up", &reason, None, Exit::Usage)),
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
