//! `archiver demo`: the real watch against a real server on this machine, while an application writes; told as it goes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::Utc;

use super::archive::{Mode, archive};
use super::wishes::Wishes;
use super::{failed, print};
use crate::cli::DemoArgs;
use crate::demo::{Afterwards, Place, Step, Timing, World, arrivals, setup, tree};
use crate::domain::display;
use crate::embedded::Server;
use crate::exit::Exit;
use crate::report::Console;
use crate::shutdown::Shutdown;
use crate::signals::Signals;

/// Between two looks at what stands on the server.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Far longer than it ever takes: it only turns a hang into a summary of what is missing.
const DEADLINE: Duration = Duration::from_secs(60);

pub async fn run(args: DemoArgs, console: Console, signals: Signals) -> Exit {
    // Before anything is made: a signal from now on leads past the cleaning up.
    let stop = Shutdown::new();
    tokio::spawn(Wishes::default().follow(signals, stop.clone()));
    let afterwards = if args.keep { Afterwards::Keep } else { Afterwards::Remove };
    let place = match &args.dir {
        Some(directory) => Place::at(directory, afterwards),
        None => Place::below(&std::env::temp_dir(), rand::random(), afterwards),
    };
    let place = match place {
        Ok(place) => place,
        Err(error) => return failed(&console, "the demo has no place", &error.to_string(), None, Exit::Usage),
    };
    let story = Story { console: (!args.log.quiet).then_some(&console), began: Instant::now() };
    let exit = match show(&place, &story, &console, &stop, args.log.quiet).await {
        Ok(exit) => exit,
        Err(error) => {
            let why = error.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ");
            failed(&console, &error.to_string(), &why, None, Exit::SomeFailed)
        }
    };
    story.close(&place, afterwards, exit);
    let root = place.root().to_owned();
    if let Err(error) = place.leave() {
        let what = format!("{} cannot be removed", display::path(&root));
        failed(&console, &what, &error.to_string(), None, exit);
    }
    exit
}

/// From the first file to the tree on the server.
async fn show(
    place: &Place,
    story: &Story<'_>,
    console: &Console,
    signals: &Shutdown,
    quiet: bool,
) -> anyhow::Result<Exit> {
    let world = World::create(&place.app(), Utc::now().date_naive()).context("the demo's files cannot be made")?;
    let server = setup::server(place).await.context("the demo's server cannot start")?;
    let url = setup::url(server.addr());
    let settings = setup::settings(place, &world, url.clone(), quiet).context("the demo's settings are wrong")?;
    let (ready, to_come) = (world.ready().to_vec(), world.to_come());
    story.open(place, &server, &url, ready.len(), &to_come);

    let (shutdown, wishes) = (Shutdown::new(), Wishes::default());
    let mut running = pin!(archive(settings, Mode::Watch(None), None, console, &wishes, &shutdown));
    let acted = tokio::select! {
        // It should not end before it is told to; its exit code says why it did.
        ended = &mut running => return Ok(ended.exit),
        () = signals.draining().cancelled() => {
            story.tell("interrupted: stopping and cleaning up");
            shutdown.stop_now();
            running.await;
            return Ok(Exit::Interrupted);
        }
        acted = play(world, place, story, &ready, &to_come) => acted,
    };
    shutdown.drain();
    let exit = running.await.exit;
    acted.context("the demo's application cannot write")?;
    server.shutdown().await;

    let drawn = tree::render(&place.upload(), &url).context("the server's directory cannot be read")?;
    print(|out| write!(out, "\n{drawn}\n"));
    if exit == Exit::Done {
        let same = compare(place, ready.iter().chain(&to_come)).context("the two sides differ")?;
        story.say(&format!("All {same} files are on the server, byte for byte what they are here."));
    }
    Ok(exit)
}

/// Lets the application act, and tells what it does and what comes of it, until all its files are on the server.
async fn play(
    world: World,
    place: &Place,
    story: &Story<'_>,
    ready: &[PathBuf],
    to_come: &[PathBuf; 3],
) -> std::io::Result<()> {
    let [slow, waiting, late] = to_come.each_ref().map(|path| display::path(path).to_string());
    let acting = world.act(Timing::default(), |step| match step {
        Step::MarkerArrived => story.tell(&format!("marker arrived: {waiting} is finished")),
        Step::LateReportArrived => story.tell(&format!("report arrived: {late}")),
        Step::WriterFinished => story.tell(&format!("writer finished: {slow} is closed")),
    });
    let upload = place.upload();
    let finished = async {
        arrived(&upload, ready).await;
        story.tell(&format!("uploaded: the {} files that were finished", ready.len()));
    };
    let others = futures::future::join_all(to_come.iter().map(|path| async {
        arrived(&upload, std::slice::from_ref(path)).await;
        story.tell(&format!("uploaded: {}", display::path(path)));
    }));
    let arriving = tokio::time::timeout(DEADLINE, futures::future::join(finished, others));
    let (acted, _in_time) = futures::join!(acting, arriving);
    // The summary comes next.
    story.say("");
    acted
}

/// Waits until all these files stand on the server.
async fn arrived(upload: &Path, files: &[PathBuf]) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    for file in files {
        while arrivals::find(upload, &below_source(file)).is_none() {
            looks.tick().await;
        }
    }
}

/// What a file is called below its source, and so below the dated folder.
fn below_source(file: &Path) -> PathBuf {
    file.iter().skip(1).collect()
}

/// How many files are the same on both sides; the error names the first that is not.
fn compare<'a>(place: &Place, files: impl Iterator<Item = &'a PathBuf>) -> anyhow::Result<usize> {
    let mut same = 0;
    for file in files {
        let name = display::path(file);
        let there =
            arrivals::find(&place.upload(), &below_source(file)).with_context(|| format!("{name} is missing"))?;
        ensure!(arrivals::same_bytes(&place.app().join(file), &there)?, "{name} has other bytes");
        same += 1;
    }
    Ok(same)
}

/// What is told on standard error while it happens; nothing with `--quiet`.
struct Story<'a> {
    console: Option<&'a Console>,
    began: Instant,
}

impl Story<'_> {
    fn say(&self, text: &str) {
        if let Some(console) = self.console {
            console.line(text);
        }
    }

    /// One event, with the seconds since the beginning.
    fn tell(&self, event: &str) {
        if let Some(console) = self.console {
            let seconds = format!("{:4.1} s", self.began.elapsed().as_secs_f64());
            console.line(&format!("{}  {event}", console.colour().paint("2", &seconds)));
        }
    }

    fn open(&self, place: &Place, server: &Server, url: &str, ready: usize, to_come: &[PathBuf; 3]) {
        let [slow, waiting, late] = to_come.each_ref().map(|path| display::path(path).to_string());
        let (address, root) = (server.addr(), display::path(place.root()).to_string());
        let marker = World::MARKER;
        self.say(&format!(
            "An SFTP server on {address}, with a host key and a user's key of its own.\n\
             An application in {root}/app: {ready} files are finished, and\n\
             \x20 {slow} is being written\n\
             \x20 {waiting} waits for its marker\n\
             \x20 {late} is yet to come\n\
             The archiver, as in\n\
             \x20 archiver watch --to {url} \\\n\
             \x20   --source name=reports,path=app/reports \\\n\
             \x20   --source 'name=exports,path=app/exports,marker={marker}'\n"
        ));
    }

    fn close(&self, place: &Place, afterwards: Afterwards, exit: Exit) {
        let root = display::path(place.root());
        if afterwards == Afterwards::Keep {
            self.say(&format!("Everything is left in {root}"));
        }
        if exit == Exit::Done {
            self.say("Next, with a server of your own: archiver check --to sftp://USER@HOST/DIRECTORY");
        }
    }
}
