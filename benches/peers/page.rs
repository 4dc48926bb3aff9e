//! docs/benchmarks.md, written from the records of whole rows, whenever each was measured.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::machine::Machine;
use crate::markdown::Table;
use crate::record::{Outcome, Record};
use crate::rows::ROWS;

const INTRODUCTION: &str = "\
# Benchmarks

<!-- Written by `scripts/bench --write`: change benches/peers, not this page. -->

The archiver beside the tools that people use for the same work. All tools of a row ran in one run, by turns (A B C,
A B C, …), so that whatever disturbed the machine disturbed all of them; only ratios mean anything on another machine or
another day.

";

const METHOD: &str = "\
## How it is measured

- The server is OpenSSH's own `sshd` with `internal-sftp`, started for this on loopback. Source and target are in
  memory-backed storage, so that no disk is measured, neither to anyone's gain nor loss.
- Everything that the archiver does by default is on: the ledger, hashing, the check of what arrived, the rename to the
  final name. Its ledger is in memory too, fresh for each run; the line *ledger on disk* has it on a real one.
- A ledger on Redis has a server of its own for each run, with `appendonly yes` and `appendfsync always` into memory, on the
  same machine as all else. *1 ms away* is behind a relay whose timers count in milliseconds: what `PING` took through it
  is said.
- Replicas are processes that start together on one tree, with one ledger, and each with the link to itself. *server's CPU*
  is that of `sshd` and its sessions; what a session leaves running when it ends may count to the replicas. Where cores busy reaches the machine's, the processors are the limit, and in a
  cluster, where replicas have processors of their own, only the server's part of that counts.
- The peers run with the best that their documentation offers for the work; the exact lines are with each row. `bench`
  is the server, `$SSH_CONFIG` has its port and its keys and nothing else. Most of the peers leave half a file under its
  final name when they are interrupted, and none keeps a record of what it sent.
- After **each** run, the far side is compared with the source, byte for byte: every file there, under its name, and
  nothing else. A wrong answer ends the benchmark with an error.
- *wall s* is the median of the counted runs, *min–max* their range; a run before them warms up. *archiver ÷ tool* is the
  median of the ratios round by round: below 1, the archiver is faster. Tools that take minutes on a slow link run once. A
  command that takes longer than 5 minutes (10 on a slow link) is ended, and shown as `>`.
- CPU is user and system time of the client's side, all of its processes together; *peak MiB* is the largest of them.
  The kernel never gives a lower peak than that of the harness, which is said with each row. What `watch` uses is read
  while it runs, and has no such bound.
- A slow link is a relay of the project's own, which delays each direction by half of the round trip and does not limit
  the bandwidth. It takes some of the machine's time, from all tools alike.
- `cat | ssh 'cat >/dev/null'` stores nothing and is there as the limit of the cipher and of the link.

**Not measured:** disks, at either end; what the server needs, which shares the machine's cores with the client; links
that lose packets or limit the bandwidth; other servers than OpenSSH.

## Run it again

```sh
scripts/bench --install              # installs the peers (Debian), then measures everything: about an hour
scripts/bench --quick                # small sizes, few runs: a look in a few minutes
scripts/bench --only small,large     # some rows; --list names them
scripts/bench --write                # measures, then writes this page; earlier rows keep their date
```

The largest rows need 13 GiB of free memory; where there is less, they are left out and it is said.
";

/// Fails where nothing was measured yet.
pub fn write() -> Result<()> {
    let mut records = Vec::new();
    for row in ROWS {
        records.extend(Record::load(row.name)?);
    }
    ensure!(!records.is_empty(), "no row was measured in full yet");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    std::fs::write(&path, text(&records)?)?;
    eprintln!("bench: wrote {}", path.display());
    Ok(())
}

fn text(records: &[Record]) -> Result<String> {
    let mut page = INTRODUCTION.to_owned();
    writeln!(page, "## Targets\n\n{}", targets(records))?;
    let missing: Vec<_> =
        ROWS.iter().map(|row| row.name).filter(|name| records.iter().all(|r| r.row != *name)).collect();
    if !missing.is_empty() {
        writeln!(page, "Rows that were not measured: {}.\n", missing.join(", "))?;
    }
    for record in records {
        writeln!(page, "## {}: {}\n\n{}", record.row, record.title, record.table)?;
        for note in &record.notes {
            writeln!(page, "- {note}")?;
        }
        let Record { measured_at, archiver, load, .. } = record;
        writeln!(page, "- {measured_at}, archiver {archiver}; load average before it: {load}")?;
        let floor = record.floor as f64 / f64::from(1 << 20);
        writeln!(page, "- no peak in this row could show below {floor:.1} MiB (see below)\n")?;
        writeln!(page, "```sh")?;
        for (name, command) in &record.commands {
            writeln!(page, "# {name}\n{command}")?;
        }
        writeln!(page, "```\n")?;
    }
    page.push_str(METHOD);
    page.push_str("\n## Machines and versions\n");
    for (machine, rows) in machines(records) {
        write!(page, "\nRows {}:\n\n{}", rows.join(", "), described(machine)?)?;
    }
    Ok(page)
}

fn targets(records: &[Record]) -> Table {
    let mut table = Table::new(&["row", "target", "measured", ""]);
    for record in records {
        for verdict in &record.verdicts {
            let outcome = match verdict.outcome {
                Outcome::NotReached => format!("**{}**", verdict.outcome),
                _ => verdict.outcome.to_string(),
            };
            table.push([record.row.clone(), verdict.target.clone(), verdict.measured.clone(), outcome]);
        }
    }
    table
}

/// Each machine with its versions, and the rows that were measured there.
fn machines(records: &[Record]) -> Vec<(&Machine, Vec<&str>)> {
    let mut machines: Vec<(&Machine, Vec<&str>)> = Vec::new();
    for record in records {
        match machines.iter_mut().find(|(machine, _)| *machine == &record.machine) {
            Some((_, rows)) => rows.push(&record.row),
            None => machines.push((&record.machine, vec![&record.row])),
        }
    }
    machines
}

fn described(machine: &Machine) -> Result<String> {
    let Machine { processor, cores, memory_gib, kernel, system, versions } = machine;
    let mut text = format!("- {processor}, {cores} cores, {memory_gib} GiB of memory; {kernel}, {system}\n");
    for (tool, version) in versions {
        writeln!(text, "- {tool}: {version}")?;
    }
    Ok(text)
}
