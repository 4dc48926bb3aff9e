//! `health`: asks the archiver that runs, by the address that it was given too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::failed;
use crate::config::layer::Origin;
use crate::config::settings::MetricsSettings;
use crate::exit::Exit;
use crate::monitor::client::{Question, ask};
use crate::report::Console;

pub fn run(metrics: &MetricsSettings, origin: &Origin, question: Question, console: &Console) -> Exit {
    let Some(listen) = metrics.listen else {
        return match origin {
            Origin::Default => {
                let why = "nobody said where the archiver serves its metrics";
                let hint = "give --metrics ADDR or --config FILE, or set ARCHIVER_METRICS";
                failed(console, "there is nobody to ask", why, Some(hint), Exit::Usage)
            }
            // Somebody said that there are no metrics.
            _ => Exit::Done,
        };
    };
    // Who listens on all addresses listens on this one.
    let ip = listen.ip.filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    match ask(SocketAddr::new(ip, listen.port), question) {
        Ok(()) => Exit::Done,
        Err(why) => failed(console, question.what_failed(), &why, None, Exit::SomeFailed),
    }
}
