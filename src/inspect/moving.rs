//! A ledger on its way into a file, and back.

use std::io::{self, BufRead, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};

use super::PAGE;
use super::ledger_file::{Header, LONGEST_LINE, Mistake, Reader, Said, Writer};
use crate::domain::Token;
use crate::ledger::{Cursor, EntryFilter, EntryInfo, Imported, Ledger, LedgerError, LedgerView, Member};

/// Entries imported together, in one durable commit.
const BATCH: usize = 1_000;

#[derive(Debug)]
pub enum ExportError {
    Ledger(LedgerError),
    /// They may hold files now, or archive some before another ledger is in use.
    Live(Vec<Member>),
    /// Somebody worked with it meanwhile.
    Changed,
    Write(io::Error),
}

impl From<LedgerError> for ExportError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// Which ledgers may be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stillness {
    /// Only one that nobody works with, from the beginning to the end.
    Wanted,
    /// Any: what is held counts as waiting, and each entry is as of a moment of its own.
    NotWanted,
}

/// Writes all entries, one page in memory at a time, and counts them.
pub async fn export(
    view: &dyn LedgerView,
    out: &mut (dyn Write + Send),
    now: DateTime<Utc>,
    stillness: Stillness,
    written: &AtomicU64,
) -> Result<(), ExportError> {
    let before = view.outline().await?;
    let live =
        |members: &[Member]| members.iter().filter(|member| member.life.is_possible()).cloned().collect::<Vec<_>>();
    let at_work = live(&before.members);
    if stillness == Stillness::Wanted && !at_work.is_empty() {
        return Err(ExportError::Live(at_work));
    }
    let mut file = Writer::default();
    let mut write = |text: String| out.write_all(text.as_bytes()).map_err(ExportError::Write);
    // Claims that are made meanwhile have later tokens, which those who import it must know.
    let mut last_token = before.last_token;
    if stillness == Stillness::NotWanted {
        last_token = Token(last_token.0 + TOKENS_MEANWHILE);
    }
    write(file.header(&Header::new(now, last_token)))?;
    let mut after = Cursor::default();
    loop {
        let (page, next) = view.entries(EntryFilter::All, after, PAGE).await?;
        for entry in &page {
            write(file.entry(entry))?;
        }
        written.fetch_add(page.len() as u64, Ordering::Relaxed);
        if page.len() < PAGE {
            break;
        }
        after = next;
    }
    let since = view.outline().await?;
    let is_same = since.last_token == before.last_token && since.retries == before.retries;
    if stillness == Stillness::Wanted && !(is_same && live(&since.members).is_empty()) {
        return Err(ExportError::Changed);
    }
    write(file.trailer())?;
    out.flush().map_err(ExportError::Write)
}

/// More than are issued while a file is written.
const TOKENS_MEANWHILE: u64 = 1 << 32;

/// What became of the entries of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub added: u64,
    pub completed: u64,
    pub known: u64,
    pub kept: u64,
}

impl Counts {
    pub fn all(&self) -> u64 {
        self.added + self.completed + self.known + self.kept
    }

    fn add(&mut self, imported: Imported) {
        *match imported {
            Imported::Added => &mut self.added,
            Imported::Completed => &mut self.completed,
            Imported::Known => &mut self.known,
            Imported::Kept => &mut self.kept,
        } += 1;
    }
}

#[derive(Debug)]
pub enum ReadError {
    Mistake(Mistake),
    Io(io::Error),
}

/// The entries of a file, batch by batch.
pub struct Source<R> {
    input: R,
    reader: Reader,
    pub header: Header,
    /// Read, and not given yet.
    first: Option<Vec<EntryInfo>>,
}

impl<R: BufRead> Source<R> {
    /// Reads the first line.
    pub fn open(mut input: R) -> Result<Self, ReadError> {
        let mut reader = Reader::default();
        match next(&mut input, &mut reader, &mut Vec::new())? {
            Some(Said::Header(header)) => Ok(Self { input, reader, header, first: None }),
            _ => Err(ReadError::Mistake(reader.end().err().unwrap_or(Mistake { line: 1, what: "no header".into() }))),
        }
    }

    /// Reads the first entries, so that a mistake in them is known before a ledger is made for them.
    pub fn begin(mut self) -> Result<Self, ReadError> {
        self.first = Some(self.batch()?);
        Ok(self)
    }

    /// The next entries; none at the end, where all of it proved to be as it was written.
    pub fn batch(&mut self) -> Result<Vec<EntryInfo>, ReadError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let (mut entries, mut line) = (Vec::with_capacity(BATCH), Vec::new());
        while entries.len() < BATCH {
            match next(&mut self.input, &mut self.reader, &mut line)? {
                Some(Said::Entry(entry)) => entries.push(*entry),
                // What follows it, if anything does, is a mistake.
                Some(Said::End | Said::Header(_)) => {}
                None => {
                    self.reader.end().map_err(ReadError::Mistake)?;
                    break;
                }
            }
        }
        Ok(entries)
    }

    /// Reads all of it, and counts the entries.
    pub fn check(mut self, read: &AtomicU64) -> Result<u64, ReadError> {
        loop {
            match self.batch()?.len() as u64 {
                0 => return Ok(read.load(Ordering::Relaxed)),
                count => drop(read.fetch_add(count, Ordering::Relaxed)),
            }
        }
    }
}

fn next(input: &mut impl BufRead, reader: &mut Reader, line: &mut Vec<u8>) -> Result<Option<Said>, ReadError> {
    line.clear();
    input.take(LONGEST_LINE as u64).read_until(b'\n', line).map_err(ReadError::Io)?;
    if line.is_empty() {
        return Ok(None);
    }
    reader.line(line).map(Some).map_err(ReadError::Mistake)
}

#[derive(Debug)]
pub enum ImportError {
    Ledger(LedgerError),
    Read(ReadError),
}

/// Takes in all entries of a file, one batch in memory at a time.
pub async fn import<R: BufRead + Send + 'static>(
    ledger: &dyn Ledger,
    mut source: Source<R>,
    counts: &std::sync::Mutex<Counts>,
) -> Result<(), ImportError> {
    let issued = Token(source.header.last_token);
    // Also for a file without entries: names of those that were forgotten had tokens, too.
    ledger.import(vec![], issued).await.map_err(ImportError::Ledger)?;
    loop {
        // A pipe may be slow.
        let reading = tokio::task::spawn_blocking(move || (source.batch(), source));
        let (batch, rest) = reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        source = rest;
        let batch = batch.map_err(ImportError::Read)?;
        if batch.is_empty() {
            return Ok(());
        }
        let imported = ledger.import(batch, issued).await.map_err(ImportError::Ledger)?;
        let mut counts = counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        imported.into_iter().for_each(|imported| counts.add(imported));
    }
}

#[cfg(test)]
#[path = "moving_tests.rs"]
mod tests;
