//! The exit codes, which scripts and schedulers act upon.

use crate::domain::Totals;

/// How a run ended. The numbers are part of the command line's contract and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Every candidate was archived or skipped.
    Done,
    /// Some files failed; the summary names them.
    SomeFailed,
    /// The command line or the configuration is wrong; nothing was attempted.
    Usage,
    /// The destination cannot be reached, or it refused us (authentication, host key).
    Destination,
    /// Stopped with work left: the grace was over, or files were still being written.
    WorkLeft,
    /// A second interrupt: stopped at once.
    Interrupted,
    /// What the command of `run` exited with, where that was not 0.
    Command(u8),
}

impl Exit {
    /// Those of our own.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::SomeFailed, Self::Usage, Self::Destination, Self::WorkLeft, Self::Interrupted];

    /// What a finished run's counts come to. A failure outweighs work left, for it needs a person and time does not help.
    pub fn from_totals(totals: &Totals) -> Self {
        if totals.failed > 0 {
            Self::SomeFailed
        } else if totals.deferred > 0 {
            Self::WorkLeft
        } else {
            Self::Done
        }
    }

    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SomeFailed => 1,
            Self::Usage => 2,
            Self::Destination => 3,
            Self::WorkLeft => 4,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }

    /// One line for help texts and man pages.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "every candidate archived or skipped",
            Self::SomeFailed => "some files failed; the summary names them",
            Self::Usage => "usage or configuration",
            Self::Destination => "destination unreachable, or it refused us (authentication, host key)",
            Self::WorkLeft => "stopped with work left (grace over, or files still being written)",
            Self::Interrupted => "second interrupt: stopped at once",
            Self::Command(_) => "what the command of `run` exited with",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_contract() {
        assert_eq!(Exit::ALL.map(Exit::code), [0, 1, 2, 3, 4, 130]);
    }

    #[test]
    fn the_readme_documents_every_code() {
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(include_str!("../README.md").contains(&row), "README.md lacks the line {row}");
        }
    }

    #[test]
    fn a_failure_outweighs_work_left() {
        let totals = |deferred, failed| Totals { archived: 3, skipped: 2, deferred, failed, bytes: 9 };
        assert_eq!(Exit::from_totals(&Totals::default()), Exit::Done);
        assert_eq!(Exit::from_totals(&totals(0, 0)), Exit::Done);
        assert_eq!(Exit::from_totals(&totals(1, 0)), Exit::WorkLeft);
        assert_eq!(Exit::from_totals(&totals(1, 1)), Exit::SomeFailed);
    }
}
