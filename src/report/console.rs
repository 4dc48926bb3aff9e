//! Standard error as one shared surface: whoever writes to it while bars stand there has them taken away and put back.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

use crate::config::settings::{OutputSettings, ProgressMode};

/// How often bars are redrawn, at most.
const FRAMES_PER_SECOND: u8 = 10;
/// How often a log gets a line instead.
const LINES_EVERY: Duration = Duration::from_secs(5);

/// Whether a stream gets ANSI colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Ansi,
    Plain,
}

impl Colour {
    /// Colours need a terminal that can show them, and a user who did not set `NO_COLOR` (<https://no-color.org>: to
    /// anything but the empty string).
    pub fn decide(stream: Stream, no_color: Option<&OsStr>) -> Self {
        match stream {
            Stream::Terminal if no_color.is_none_or(OsStr::is_empty) => Self::Ansi,
            _ => Self::Plain,
        }
    }

    /// `text` in the colour of an SGR parameter (ECMA-48, 8.3.117), such as `31` for red.
    pub fn paint(self, sgr: &str, text: &str) -> String {
        match self {
            Self::Ansi => format!("\x1b[{sgr}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// What an output stream leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Terminal,
    /// A terminal without cursor movement (`TERM=dumb`, or no `TERM` at all).
    DumbTerminal,
    /// A file, a pipe, a container's log.
    Other,
}

impl Stream {
    pub fn of(stream: &impl IsTerminal) -> Self {
        match (stream.is_terminal(), std::env::var_os("TERM")) {
            (false, _) => Self::Other,
            (true, Some(term)) if term != "dumb" => Self::Terminal,
            (true, _) => Self::DumbTerminal,
        }
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drawing {
    Bars,
    /// A plain line every few seconds, for logs.
    Lines,
    Nothing,
}

impl Drawing {
    fn decide(mode: ProgressMode, quiet: bool, stream: Stream) -> Self {
        match (mode, stream) {
            _ if quiet => Self::Nothing,
            (ProgressMode::Never, _) => Self::Nothing,
            (_, Stream::Terminal) => Self::Bars,
            (ProgressMode::Always, _) => Self::Lines,
            (ProgressMode::Auto, _) => Self::Nothing,
        }
    }
}

/// A bar that goes with whoever showed it.
struct Shown(ProgressBar);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Standard error, with the progress bars that may stand on it. Clones share them.
#[derive(Clone)]
pub struct Console {
    pub(super) drawing: Drawing,
    pub(super) colour: Colour,
    pub(super) bars: MultiProgress,
    out: Arc<Mutex<dyn Write + Send>>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("drawing", &self.drawing).field("colour", &self.colour).finish_non_exhaustive()
    }
}

impl Console {
    /// The process's standard error, as the settings and the environment (`NO_COLOR`, `TERM`) want it.
    pub fn stderr(output: &OutputSettings) -> Self {
        let stream = Stream::of(&io::stderr());
        let colour = Colour::decide(stream, std::env::var_os("NO_COLOR").as_deref());
        let drawing = Drawing::decide(output.progress, output.quiet, stream);
        let target = match drawing {
            Drawing::Bars => ProgressDrawTarget::stderr_with_hz(FRAMES_PER_SECOND),
            _ => ProgressDrawTarget::hidden(),
        };
        Self::new(drawing, colour, target, Arc::new(Mutex::new(io::stderr())))
    }

    pub(super) fn new(
        drawing: Drawing,
        colour: Colour,
        target: ProgressDrawTarget,
        out: Arc<Mutex<dyn Write + Send>>,
    ) -> Self {
        Self { drawing, colour, bars: MultiProgress::with_draw_target(target), out }
    }

    pub fn colour(&self) -> Colour {
        self.colour
    }

    /// Writes whole lines above the bars.
    pub fn write(&self, lines: &[u8]) -> io::Result<()> {
        let write = || {
            let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(lines)?;
            out.flush()
        };
        match self.drawing {
            Drawing::Bars => self.bars.suspend(write),
            _ => write(),
        }
    }

    /// Shows what `text` says, again and again, until it is dropped: as a bar's line, or as a line once in a while.
    pub async fn told_while(&self, every: Duration, text: impl Fn() -> String) -> Infallible {
        let bar = match self.drawing {
            Drawing::Bars => Some(Shown(self.bars.add(ProgressBar::new_spinner()))),
            Drawing::Lines | Drawing::Nothing => None,
        };
        let every = if self.drawing == Drawing::Lines { LINES_EVERY } else { every };
        loop {
            tokio::time::sleep(every).await;
            match &bar {
                Some(Shown(bar)) => bar.set_message(text()),
                None if self.drawing == Drawing::Lines => self.line(&text()),
                None => {}
            }
        }
    }

    /// One line of text. A standard error that went away is no reason to stop archiving, so a failure is ignored.
    pub fn line(&self, text: &str) {
        let _ = self.write(format!("{text}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_need_a_terminal_and_no_objection() {
        let decide = |stream, no_color: Option<&str>| Colour::decide(stream, no_color.map(OsStr::new));
        assert_eq!(decide(Stream::Terminal, None), Colour::Ansi);
        assert_eq!(decide(Stream::Terminal, Some("")), Colour::Ansi);
        assert_eq!(decide(Stream::Terminal, Some("1")), Colour::Plain);
        assert_eq!(decide(Stream::DumbTerminal, None), Colour::Plain);
        assert_eq!(decide(Stream::Other, None), Colour::Plain);
    }

    #[test]
    fn nothing_is_drawn_where_it_would_only_litter() {
        let decide = |mode, stream| Drawing::decide(mode, false, stream);
        assert_eq!(decide(ProgressMode::Auto, Stream::Terminal), Drawing::Bars);
        assert_eq!(decide(ProgressMode::Auto, Stream::DumbTerminal), Drawing::Nothing);
        assert_eq!(decide(ProgressMode::Auto, Stream::Other), Drawing::Nothing);
        assert_eq!(decide(ProgressMode::Always, Stream::Terminal), Drawing::Bars);
        assert_eq!(decide(ProgressMode::Always, Stream::Other), Drawing::Lines);
        assert_eq!(decide(ProgressMode::Never, Stream::Terminal), Drawing::Nothing);
        assert_eq!(Drawing::decide(ProgressMode::Always, true, Stream::Terminal), Drawing::Nothing);
    }
}
