//! `:9090`, `9090`, `127.0.0.1:9090`, `[::]:9090`: where to listen.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// A TCP address of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress {
    /// `None` for all addresses, IPv6 and IPv4.
    pub ip: Option<IpAddr>,
    /// 0 for a free one.
    pub port: u16,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let everywhere = |port: &str| port.parse().ok().map(|port| Self { ip: None, port });
        let parsed = match text.strip_prefix(':').unwrap_or(text) {
            port if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => everywhere(port),
            _ => match text.strip_prefix("localhost:") {
                Some(port) => port.parse().ok().map(|port| Self { ip: Some(Ipv4Addr::LOCALHOST.into()), port }),
                None => text.parse::<SocketAddr>().ok().map(|at| Self { ip: Some(at.ip()), port: at.port() }),
            },
        };
        parsed.ok_or_else(|| {
            format!("`{text}` is no address to listen on; write `:9090`, `127.0.0.1:9090` or `[::1]:9090`")
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_means_everywhere() {
        let shown = |text: &str| text.parse::<ListenAddress>().map(|address| address.to_string());
        for (text, expected) in [
            (":9090", ":9090"),
            ("9090", ":9090"),
            ("0", ":0"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::]:80", "[::]:80"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected));
        }
        for bad in ["", ":", "::", "65536", ":-1", "+1", "host:80", "127.0.0.1", "127.0.0.1:", "http://h:80/"] {
            assert!(shown(bad).unwrap_err().contains("no address to listen on"), "{bad}");
        }
    }
}
