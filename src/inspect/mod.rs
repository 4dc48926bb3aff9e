//! Questions to the ledger of others: `status`, `retry`, `verify` and `ledger`. They run beside a watch and hold up nobody.
//!
//! - [`census`], [`census_report`]: how many files are in which state
//! - [`replicas`]: who takes part
//! - [`capacity`], [`capacity_report`]: how much comes in, and what it takes to keep up
//! - [`retry`]: which failed files can be put back
//! - [`moving`], [`ledger_file`]: the ledger as a file
//! - [`verify`], [`findings`]: the remote archive, audited against the ledger

pub mod capacity;
pub mod capacity_report;
pub mod census;
pub mod census_report;
pub mod findings;
pub mod ledger_file;
pub mod moving;
pub mod replicas;
pub mod retry;
pub mod verify;

use crate::ledger::{Cursor, EntryFilter, EntryInfo, EntryState, LedgerError, LedgerView};

/// Entries asked for at a time.
const PAGE: usize = 2_000;

/// Looks at every file's entry, one page in memory at a time. Where a disposal was cut short, its file may be on record under a
/// second name, too, which it would have got: that is no other file.
pub async fn each_entry(
    view: &dyn LedgerView,
    filter: EntryFilter,
    mut look: impl FnMut(EntryInfo),
) -> Result<(), LedgerError> {
    let mut after = Cursor::default();
    loop {
        let (page, next) = view.entries(filter, after, PAGE).await?;
        let last = page.len() < PAGE;
        page.into_iter().filter(|entry| !is_second(entry)).for_each(&mut look);
        if last {
            return Ok(());
        }
        after = next;
    }
}

fn is_second(entry: &EntryInfo) -> bool {
    entry.state == EntryState::Recorded && entry.key.is_beside()
}
