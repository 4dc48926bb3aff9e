//! Who takes part in a ledger: every process that has joined it, whether it holds anything or not.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::capacity::Flow;
use super::census::{Census, InHand, ago};
use crate::domain::display::escaped;
use crate::ledger::{Life, Member};
use crate::report::table::{Column, lines};
use crate::report::{Surface, human};

/// A table names those that went away this long ago; a ledger may know them for a day.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A process, and what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    pub member: Member,
    pub flow: Flow,
    /// When it claimed the one it has had longest.
    pub since: Option<DateTime<Utc>>,
}

/// All of them, by host and process. One that holds files and left the ledger in between is told of as it was seen.
pub fn replicas(census: &Census, members: &[Member]) -> Vec<Replica> {
    let unlisted = census.in_hand.values().filter(|in_hand| members.iter().all(|m| m.owner != in_hand.holder.owner));
    let unlisted = unlisted.map(|InHand { holder, .. }| Member {
        owner: holder.owner,
        hostname: holder.hostname.clone(),
        pid: holder.pid,
        life: Life::Live { lease_left: holder.lease_left },
    });
    let all = members.iter().cloned().chain(unlisted).map(|member| {
        let in_hand = census.in_hand.get(&member.owner.0);
        let flow = in_hand.map(|in_hand| in_hand.flow).unwrap_or_default();
        Replica { flow, since: in_hand.and_then(|in_hand| in_hand.since), member }
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by(|one, other| {
        let place = |Replica { member, .. }: &Replica| (member.hostname.clone(), member.pid, member.owner.0);
        place(one).cmp(&place(other))
    });
    all
}

pub fn text(replicas: &[Replica], now: DateTime<Utc>, surface: Surface) -> String {
    let is_told = |replica: &&Replica| match replica.member.life {
        Life::Lapsed { for_so_long } => for_so_long < REMEMBERED,
        _ => true,
    };
    let rows = replicas.iter().filter(is_told).map(|Replica { member, flow, since }| {
        let (state, lease) = match member.life {
            Life::Live { lease_left } if flow.files > 0 => ("at work", left(lease_left)),
            Life::Live { lease_left } => ("idle", left(lease_left)),
            Life::Hung { for_so_long } => ("hangs", over(for_so_long)),
            Life::Ended { lease_left } => ("dead", left(lease_left)),
            Life::Lapsed { for_so_long } => ("gone", over(for_so_long)),
        };
        let since = since.map_or("–".into(), |since| format!("{} ago", human::duration(ago(now, since))));
        [
            escaped(&member.hostname).to_string(),
            member.pid.to_string(),
            state.into(),
            lease,
            human::count(flow.files),
            human::bytes(flow.bytes),
            since,
        ]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return "No archiver is at work.\n".into();
    }
    let header = [
        ("replica on", Column::Path),
        ("pid", Column::Number),
        ("state", Column::Text),
        ("lease", Column::Text),
        ("claims", Column::Number),
        ("bytes", Column::Number),
        ("oldest claim", Column::Text),
    ];
    lines(header, rows, surface)
}

fn left(time: Duration) -> String {
    format!("{} left", human::estimate(time))
}

fn over(time: Duration) -> String {
    format!("over for {}", human::estimate(time))
}

#[derive(Serialize)]
pub struct ReplicaEntry<'a> {
    owner: String,
    hostname: &'a str,
    pid: u32,
    state: &'static str,
    /// Less than 0 where it ran out.
    lease_seconds_left: f64,
    files: u64,
    bytes: u64,
    since: Option<String>,
}

/// For a JSON document.
pub fn entries(replicas: &[Replica]) -> Vec<ReplicaEntry<'_>> {
    replicas.iter().map(entry).collect()
}

fn entry(Replica { member, flow, since }: &Replica) -> ReplicaEntry<'_> {
    let (state, lease_seconds_left) = match member.life {
        Life::Live { lease_left } => ("live", lease_left.as_secs_f64()),
        Life::Hung { for_so_long } => ("hung", -for_so_long.as_secs_f64()),
        Life::Ended { lease_left } => ("ended", lease_left.as_secs_f64()),
        Life::Lapsed { for_so_long } => ("lapsed", -for_so_long.as_secs_f64()),
    };
    ReplicaEntry {
        owner: member.owner.to_string(),
        hostname: &member.hostname,
        pid: member.pid,
        state,
        lease_seconds_left,
        files: flow.files,
        bytes: flow.bytes,
        since: since.map(|since| since.to_rfc3339_opts(SecondsFormat::Millis, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OwnerId;
    use crate::report::Colour;

    fn member(owner: u128, life: Life) -> Member {
        Member { owner: OwnerId(owner), hostname: format!("web-{owner}"), pid: 7, life }
    }

    #[test]
    fn those_that_hold_nothing_are_told_of_and_those_long_gone_are_not() {
        let time = Duration::from_secs(40);
        let members = [
            member(5, Life::Lapsed { for_so_long: REMEMBERED }),
            member(4, Life::Lapsed { for_so_long: time }),
            member(3, Life::Ended { lease_left: time }),
            member(2, Life::Hung { for_so_long: time }),
            member(1, Life::Live { lease_left: time }),
        ];
        let told = replicas(&Census::new(0), &members);
        assert_eq!(entries(&told).len(), 5);
        let text = text(&told, DateTime::default(), Surface { colour: Colour::Plain, columns: None });
        let expected = "\
replica on  pid  state  lease          claims  bytes  oldest claim
web-1         7  idle   40 s left           0    0 B  –
web-2         7  hangs  over for 40 s       0    0 B  –
web-3         7  dead   40 s left           0    0 B  –
web-4         7  gone   over for 40 s       0    0 B  –
";
        assert_eq!(text, expected);
        assert_eq!(
            super::text(&[], DateTime::default(), Surface { colour: Colour::Plain, columns: None }),
            "No archiver is at work.\n"
        );
    }
}
