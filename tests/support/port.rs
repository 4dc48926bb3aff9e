//! A port that is one test's until it is given back, also while nothing listens on it.

use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;

/// Below the ports that the kernel gives to whoever asks for any, so that no client and no other server gets one.
const RANGE: Range<u16> = 12_000..32_000;

/// Held for as long as this lives: by a lock that the other tests ask for, and that goes with the process.
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub fn reserve() -> Self {
        let directory =
            std::env::temp_dir().join(format!("archiver-test-ports-{}", rustix::process::getuid().as_raw()));
        std::fs::create_dir_all(&directory).unwrap();
        let first = std::process::id() as u16 % RANGE.len() as u16;
        (0..RANGE.len() as u16)
            .map(|step| RANGE.start + (first.wrapping_mul(61).wrapping_add(step)) % RANGE.len() as u16)
            .find_map(|number| {
                let lock = File::create(directory.join(number.to_string())).ok()?;
                lock.try_lock().ok()?;
                TcpListener::bind(("127.0.0.1", number)).ok()?;
                Some(Self { number, _lock: lock })
            })
            .expect("a port is free")
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
